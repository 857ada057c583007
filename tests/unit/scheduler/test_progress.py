"""What a plan's states make of its study."""

from typing import Any

import pytest

from dcm_processor.vocabulary import StudyState
from scheduler.progress import decide


def job(name: str, state: str | None, verdict: str = "scheduled", dependencies: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "job_id": name, "job_name": name, "state": state, "verdict": verdict, "dependencies": list(dependencies),
        "settings": {"stage": "main", "onDependencyFailure": "skip"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("jobs", "study", "reason"),
    [
        ([], StudyState.FINISHED, "no job applies"),
        ([job("a", None, "declined")], StudyState.FINISHED, "no job applies"),
        ([job("a", "finished")], StudyState.FINISHED, None),
        ([job("a", "finished"), job("b", "skipped")], StudyState.FINISHED, None),
        ([job("a", "failed"), job("b", "finished")], StudyState.FAILED, "not finished: a"),
        ([job("a", "finished"), job("b", None, "errored")], StudyState.FAILED, "not finished: b"),
        ([job("a", "cancelled")], StudyState.FAILED, "not finished: a"),
        ([job("a", "finished"), job("b", "started")], StudyState.RUNNING, None),
        ([job("a", "retrying")], StudyState.RUNNING, None),
    ],
)
def test_where_a_study_stands(jobs: list[dict[str, Any]], study: StudyState, reason: str | None) -> None:
    decision = decide(jobs, blocked=False)
    assert (decision.study, decision.reason) == (study, reason)
    assert decision.ended is (study is not StudyState.RUNNING)


def test_nothing_starts_while_an_earlier_plan_runs_and_the_plan_has_not_ended() -> None:
    decision = decide([job("a", "waiting")], blocked=True)
    assert (decision.ready, decision.ended, decision.study) == ([], False, StudyState.RUNNING)
    assert decide([job("a", "waiting")], blocked=False).ready == ["a"]


def test_a_job_that_waits_for_one_that_will_be_tried_again_waits() -> None:
    decision = decide([job("a", "retrying"), job("b", "waiting", dependencies=("a",))], blocked=False)
    assert (decision.ready, decision.skipped) == ([], ())

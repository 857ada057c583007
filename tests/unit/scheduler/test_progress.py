"""What a plan's states make of its study, and of the jobs that wait."""

import random
from typing import Any

import pytest

from dcm_processor import identity
from dcm_processor.plan import make_plan
from dcm_processor.vocabulary import JobState, StudyState, Verdict
from scheduler.progress import apply, decide, decide_within
from tests.unit.dcm_processor.worlds import Case, small_and_large


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


@small_and_large(400, 20)
def test_what_an_outcome_concerns_is_decided_as_in_the_whole_plan(case: Case) -> None:
    """At each end of a series' job while another of its name goes on; whatever order ends come in."""
    chance, rows = random.Random(case.seed), rows_of(case)
    apply(decide(rows, blocked=False), rows, now=0)
    while running := [row for row in rows if row["state"] == JobState.QUEUED]:
        ended = chance.choice(running)
        ended["state"] = chance.choice([JobState.FINISHED, JobState.FINISHED, JobState.FAILED])
        whole = decide(rows, blocked=False)
        others = [
            row for row in rows if row["job_name"] == ended["job_name"] and row["state"] and not row["state"].ended
        ]
        if ended["series_id"] is not None and ended["state"] == JobState.FINISHED and others:
            seen = [row for row in rows if row["series_id"] in (None, ended["series_id"])]
            within = decide_within(seen, [ended], blocked=False)
            assert (within.ready, within.skipped) == (whole.ready, whole.skipped)
            assert not whole.ended
        apply(whole, rows, now=0)
    assert all(row["state"].ended for row in rows if row["verdict"] == Verdict.SCHEDULED)


def rows_of(case: Case) -> list[dict[str, Any]]:
    """The plan of a case, as the ledger gives it."""

    def job_id(key: Any) -> str:
        return identity.job_id("p", key.job_name, key.series_id)

    return [
        {
            "job_id": job_id(each.key), "job_name": each.key.job_name, "series_id": each.key.series_id,
            "verdict": each.verdict, "state": JobState.WAITING if each.verdict == Verdict.SCHEDULED else None,
            "dependencies": [job_id(key) for key in each.dependencies], "attempt": 0,
            "settings": {
                "stage": each.job.settings.stage, "onDependencyFailure": each.job.settings.on_dependency_failure,
            },
        }
        for each in make_plan(case.registry, case.series, case.answers).jobs
    ]  # fmt: skip

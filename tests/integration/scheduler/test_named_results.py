"""Named results on their way from a report into the ledger: once, with the outcome, and as the attempt's own."""

from pathlib import Path
from typing import Any

import pytest

from dcm_processor import identity
from dcm_processor.notes import NamedResult
from dcm_processor.transport import Report, Transport
from dcm_processor.vocabulary import JobState
from scheduler.effects import Effects
from scheduler.outcomes import take
from scheduler.progress import deciding
from tests.integration.scheduler.adopted import SERIES, AdoptedPlan
from tests.servers import ValkeyServer

NAMED = [{"name": "volume", "value": 3.5, "unit": "ml"}]


@pytest.fixture
def plan(tmp_path: Path, valkey: ValkeyServer) -> AdoptedPlan:
    return AdoptedPlan(tmp_path, Transport(valkey.url), [{"jobName": "job", "retry": {"max": 1, "interval": [0.1]}}])


def report(plan: AdoptedPlan, attempt: int, results: Any, reason: str = "done") -> Report:
    attempt_id = identity.attempt_id(identity.job_id(plan.plan_id, "job", SERIES[0]), attempt)
    return Report("outcome", attempt_id, "c", "w", "h", {"exitReason": reason, "results": results})


def take_all(plan: AdoptedPlan, *reports: Report) -> None:
    with deciding(plan.ledger, None, Effects()) as (db, own):  # type: ignore[arg-type]  # no other leader here
        for each in reports:
            take(db, each, own, now=plan.clock())


def attempts_of(plan: AdoptedPlan) -> list[dict[str, Any]]:
    found = plan.ledger.job(identity.job_id(plan.plan_id, "job", SERIES[0]))
    assert found is not None
    attempts: list[dict[str, Any]] = found["attempts"]
    return attempts


def test_a_report_that_comes_twice_is_taken_once(plan: AdoptedPlan) -> None:
    first = report(plan, 1, NAMED)
    again = report(plan, 1, [*NAMED, {"name": "other", "value": 1}])
    take_all(plan, first, first)
    take_all(plan, again)
    assert [attempt["results"] for attempt in attempts_of(plan)] == [NAMED]


def test_a_failed_attempts_results_stay_its_own(plan: AdoptedPlan) -> None:
    take_all(plan, report(plan, 1, NAMED, "exception"))
    (failed,) = attempts_of(plan)
    assert (failed["state"], failed["results"]) == ("failed", NAMED)
    job = plan.ledger.job(identity.job_id(plan.plan_id, "job", SERIES[0]))
    assert job is not None
    assert job["state"] == JobState.RETRYING


@pytest.mark.parametrize("results", [None, 7, {"a": 1}, [[]], [None], [{"name": "=1", "value": 1}], "x" * 1000])
def test_results_that_cannot_be_are_left_out_and_the_outcome_counts(plan: AdoptedPlan, results: Any) -> None:
    take_all(plan, report(plan, 1, results))
    assert [(each["state"], each["results"]) for each in attempts_of(plan)] == [("finished", [])]


def test_of_hostile_ones_the_rest_is_taken(plan: AdoptedPlan) -> None:
    hostile: list[Any] = [*NAMED, *NAMED, {"name": "x", "value": float("nan")}, {"name": "x" * 65, "value": 1}]
    take_all(plan, report(plan, 1, hostile))
    assert [each["results"] for each in attempts_of(plan)] == [NAMED]
    assert NamedResult.from_json(NAMED[0]).unit == "ml"

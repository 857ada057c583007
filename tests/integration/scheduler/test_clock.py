"""The clock of the controller's machine is set back by an hour: what is newer stays newer."""

import time
from pathlib import Path

import pytest

from dcm_processor import identity
from dcm_processor.ledger import plans
from dcm_processor.transport import Transport
from tests.integration.scheduler.adopted import SERIES, AdoptedPlan


def an_hour_earlier() -> float:
    return time.time() - 3600


@pytest.fixture
def plan(tmp_path: Path, transport: Transport) -> AdoptedPlan:
    return AdoptedPlan(tmp_path, transport, [{"jobName": "job"}])


def lay_output(plan: AdoptedPlan, text: str) -> Path:
    """What the first series' job of the newest plan left, not yet among the results."""
    job_id = identity.job_id(plan.plan_id, "job", SERIES[0])
    output = plan.results._data / "attempts" / identity.attempt_id(job_id, 1)
    output.mkdir(parents=True)
    (output / "text").write_text(text)
    return output


def finish(plan: AdoptedPlan) -> None:
    for series_id in SERIES:
        plan.finish("job", series_id)


def test_the_newest_plan_is_that_which_was_made_last(plan: AdoptedPlan) -> None:
    """Else what it planned would be planned again by each event."""
    made = [plan.plan_id]
    for clock in (an_hour_earlier, an_hour_earlier, time.time):
        plan.clock = clock
        made.append(plan.adopt("*"))
        with plan.ledger.read() as db:
            latest = plans.latest(db, plan.study_id)
        assert latest is not None
        assert latest["plan_id"] == made[-1]
    assert [each["planId"] for each in (plan.ledger.study(plan.study_id) or {})["plans"]] == made[::-1]


@pytest.mark.parametrize("first_is_published", [True, False])
def test_the_results_are_those_of_the_newest_run_though_the_controller_died_before_it_published_them(
    plan: AdoptedPlan, *, first_is_published: bool
) -> None:
    if first_is_published:
        lay_output(plan, "older")
    finish(plan)
    if not first_is_published:
        lay_output(plan, "older")
    plan.clock = an_hour_earlier
    plan.plan_id = plan.adopt("*")
    finish(plan)
    lay_output(plan, "newer")
    plan.results.repair(plan.ledger)
    place = plan.results._data / "results" / plan.study_id / "job" / SERIES[0] / "text"
    assert place.read_text() == "newer"
    assert plan.results.repair(plan.ledger) == 0

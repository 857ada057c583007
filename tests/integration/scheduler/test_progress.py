"""Plans taken on outcome by outcome: what that costs, and what stands in the next plan of the study."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from dcm_processor import identity
from dcm_processor.ledger import LeaseLostError, leases, plans
from dcm_processor.ledger.schema import jobs
from dcm_processor.process import boot_time
from dcm_processor.transport import PREFIX, Report, Transport
from dcm_processor.vocabulary import Stage
from scheduler import progress
from scheduler.effects import STOOD_STILL, Effects
from scheduler.outcomes import take
from scheduler.results import Results
from tests.integration.scheduler.adopted import SERIES, AdoptedPlan

CHAIN = [
    {"jobName": name, "level": "study", "dependsOn": before, "params": {"n": name}}
    for before, name in ((None, "one"), ("one", "two"), ("two", "three"))
]


def test_an_outcome_that_nobody_waits_for_reads_no_other_jobs_and_no_headers(
    tmp_path: Path, transport: Transport
) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])
    statements = plan.finish("one", SERIES[0])
    assert not [
        statement for statement in statements if "headers" in statement or "ORDER BY jobs.position" in statement
    ]
    plan.finish("one", SERIES[1])
    study = plan.ledger.study(plan.study_id)
    assert study is not None
    assert study["state"] == "finished"


def test_an_outcome_that_somebody_waits_for_costs_few_statements(tmp_path: Path, transport: Transport) -> None:
    """Each of them is time between a job's end and its dependent's start."""
    plan = AdoptedPlan(tmp_path, transport, CHAIN)
    first, second = (plan.finish(name, None) for name in ("one", "two"))
    assert [row["state"] for row in plan.rows()] == ["finished", "finished", "queued"]
    assert len(first) == 7, first
    assert len(second) == 6, second
    assert [each for each in first if "jobs.settings" in each.partition("FROM")[0] and "attempts" not in each]
    assert not [each for each in second if "jobs.settings" in each.partition("FROM")[0] and "attempts" not in each]


@pytest.mark.parametrize(("jobs", "of_plans"), [(100, 16), (2, 16), (100, 1)])
def test_plans_go_on_alike_whatever_is_kept_of_them(
    tmp_path: Path,
    transport: Transport,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    jobs: int,
    of_plans: int,
) -> None:
    """All of their jobs, those of a plan that is too large, or of one plan at a time."""
    monkeypatch.setattr(plans, "_KEPT_JOBS", jobs)
    monkeypatch.setattr(plans, "_KEPT_PLANS", of_plans)
    plan = AdoptedPlan(tmp_path, transport, CHAIN, database_url)
    others = [plan.another() for _ in range(2)]
    for name, follower in (("one", "two"), ("two", "three")):
        for each in (plan, *others):
            each.finish(name, None)
            found = transport.order(identity.attempt_id(identity.job_id(each.plan_id, follower, None), 1))
            assert found is not None
            order = found[0]
            assert (order.studyId, order.jobName, order.params) == (each.study_id, follower, {"n": follower})
            assert order.inputs == {name: f"results/{each.study_id}/{name}"}


def test_the_end_of_an_earlier_plans_job_takes_the_newer_plan_on(
    tmp_path: Path, transport: Transport, database_url: str
) -> None:
    """Which waited for it; what was kept of the earlier plan is of no use here."""
    plan = AdoptedPlan(tmp_path, transport, CHAIN, database_url)
    plan.finish("one", None)
    attempt_id = identity.attempt_id(identity.job_id(plan.plan_id, "two", None), 1)
    with plan.ledger.write() as db:
        take(db, Report("started", attempt_id, "c", "w", "h"), Effects(), now=time.time())
    newer = plan.adopt("one", "two", "three")
    assert states_of(plan, newer) == ["waiting", "waiting", "waiting"]
    plan.finish("two", None)
    assert states_of(plan, newer) == ["queued", "waiting", "waiting"]
    assert [row["state"] for row in plan.rows()] == ["finished", "finished", "superseded"]


def test_what_is_kept_of_a_plan_is_not_used_where_jobs_of_it_are_gone(tmp_path: Path, transport: Transport) -> None:
    plan = AdoptedPlan(tmp_path, transport, CHAIN)
    plan.finish("one", None)
    with plan.ledger.write() as db:
        db.execute(delete(jobs).where(jobs.c.job_name == "three"))
    plan.finish("two", None)
    assert [row["state"] for row in plan.rows()] == ["finished", "finished"]


def states_of(plan: AdoptedPlan, plan_id: str) -> list[str]:
    with plan.ledger.read() as db:
        return [row["state"] for row in plans.jobs_of(db, plan_id)]


def test_a_transaction_that_is_undone_leaves_nothing_of_it_for_the_next_one(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = AdoptedPlan(tmp_path, transport, CHAIN)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "orders_of", lambda *_: (_ for _ in ()).throw(OSError("no power")))
        with pytest.raises(OSError, match="power"):
            plan.finish("one", None)
    assert [row["state"] for row in plan.rows()] == ["queued", "waiting", "waiting"]
    for name in ("one", "two", "three"):
        plan.finish(name, None)
    assert {row["state"] for row in plan.rows()} == {"finished"}


def test_a_leader_that_stood_still_before_what_follows_from_its_transaction_looks_whether_it_leads(
    tmp_path: Path, transport: Transport
) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])
    effects = Effects(cancel=["an-attempt"])
    with plan.ledger.write() as db:
        lease = leases.acquire(db, leases.LEADER, "a:1:1", leases.Watch(), now=0.0, seconds=1.0)
        assert leases.acquire(db, leases.LEADER, "b:2:2", leases.Watch(), now=9.0, seconds=1.0)
    assert lease is not None
    with pytest.raises(LeaseLostError), plan.ledger.write(lease):
        pass
    with pytest.raises(LeaseLostError):  # it has never been seen in force
        effects.carry_out(plan.ledger, transport, plan.results, plan.store, lease)
    assert not transport.given_up("an-attempt")
    lease.seen_at = boot_time() - STOOD_STILL - 0.1
    with pytest.raises(LeaseLostError):
        effects.carry_out(plan.ledger, transport, plan.results, plan.store, lease)
    assert not transport.given_up("an-attempt")


def test_what_follows_at_once_from_a_transaction_needs_no_further_look_at_the_lease(
    tmp_path: Path, transport: Transport
) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])
    with plan.ledger.write() as db:
        lease = leases.acquire(db, leases.LEADER, "a:1:1", leases.Watch(), now=time.time(), seconds=9.0)
    assert lease is not None
    with plan.ledger.write(lease):
        pass
    plan.ledger.close()
    Path(tmp_path / "ledger.sqlite").unlink()  # so that a look at it would fail
    Effects(cancel=["an-attempt"]).carry_out(plan.ledger, transport, plan.results, plan.store, lease)
    assert transport.given_up("an-attempt")


MIXED = [
    {"jobName": "pre", "stage": "pre"},
    {"jobName": "a"},
    {"jobName": "b", "dependsOn": "a"},
    {"jobName": "all", "level": "study", "dependsOn": ["b"], "onDependencyFailure": "run"},
    {"jobName": "strict", "level": "study", "dependsOn": ["a"]},
    {"jobName": "c", "dependsOn": ["all", "a"]},
    {"jobName": "d", "dependsOn": ["*"]},
    {"jobName": "late", "stage": "post"},
    {"jobName": "report", "level": "study", "stage": "post", "dependsOn": "*"},
]


@pytest.mark.parametrize("seed", range(6))
def test_looking_only_at_what_an_outcome_concerns_leaves_nothing_to_be_done(
    tmp_path: Path, transport: Transport, seed: int
) -> None:
    """Whatever order outcomes come in: all of the plan looked at after each one gives nothing more to queue or skip."""
    chance = random.Random(seed)
    plan = AdoptedPlan(tmp_path, transport, MIXED)
    while queued := [row for row in plan.rows() if row["state"] == "queued"]:
        job = chance.choice(queued)
        before = {row["job_id"]: row for row in plan.rows()}
        plan.finish(job["job_name"], job["series_id"], "exception" if chance.random() < 0.1 * (seed % 3) else "done")
        seen = plan.rows()
        for row in seen:  # what runs now had to wait for all it depends on, and for the stage before
            if row["state"] == "queued" and before[row["job_id"]]["state"] == "waiting":
                states = {other["job_id"]: other["state"] for other in seen}
                assert all(states[each] in ("finished", "failed", "skipped") for each in row["dependencies"])
                assert not [
                    other["job_id"]
                    for other in seen
                    if Stage(other["settings"]["stage"]).position < Stage(row["settings"]["stage"]).position
                    and other["state"] not in ("finished", "failed", "skipped")
                ]
        plan.look_at_all()
        assert plan.rows() == seen
    assert {row["state"] for row in plan.rows()} <= {"finished", "failed", "skipped"}
    study = plan.ledger.study(plan.study_id)
    assert study is not None
    assert study["state"] in ("finished", "failed")


def test_a_plan_lies_in_redis_once_and_is_laid_down_again_where_it_was_lost(
    tmp_path: Path, transport: Transport
) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}, {"jobName": "two", "dependsOn": "one"}])
    key = PREFIX + "plan:" + plan.plan_id
    laid_down: Any = transport.redis.get(key)
    transport.redis.set(key, b"as it was")
    statements = plan.finish("one", SERIES[0])
    assert not [statement for statement in statements if "headers" in statement]
    assert transport.redis.get(key) == b"as it was"
    transport.redis.delete(key)
    plan.finish("one", SERIES[1])
    assert json.loads(transport.redis.get(key)) == json.loads(laid_down)  # type: ignore[arg-type]
    for series_id in SERIES:
        found = transport.order(identity.attempt_id(identity.job_id(plan.plan_id, "two", series_id), 1))
        assert found is not None
        assert found[0].inputs == {"one": f"results/{plan.study_id}/one/{series_id}"}


def test_what_is_carried_over_keeps_the_times_of_what_ran(tmp_path: Path, transport: Transport) -> None:
    """Finished, failed, and skipped for that: none of them began or ended when the next plan was made."""
    jobs = [{"jobName": "good"}, {"jobName": "bad"}, {"jobName": "after", "dependsOn": "bad"}, {"jobName": "again"}]
    plan = AdoptedPlan(tmp_path, transport, jobs)
    for series_id in SERIES:
        for name in ("good", "again"):
            plan.finish(name, series_id)
        plan.finish("bad", series_id, "exception")

    def times(plan_id: str) -> dict[tuple[str, str], tuple[float | None, float | None]]:
        with plan.ledger.read() as db:
            rows = [row for row in plans.jobs_of(db, plan_id) if row["job_name"] != "again"]
        return {(row["job_name"], row["series_id"]): (row["started_at"], row["ended_at"]) for row in rows}

    first = times(plan.plan_id)
    assert all(ended for _, ended in first.values())
    assert times(plan.adopt("again")) == first


def test_results_that_could_not_be_put_in_their_place_come_there_in_the_order_of_their_ends(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of a job, none of whose results could be published: the last one's stay, however often repair looks."""
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])

    def refuse(*_: object) -> Path:
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for run in ("first", "second"):
            for series_id in SERIES:
                attempt_id = identity.attempt_id(identity.job_id(plan.plan_id, "one", series_id), 1)
                (tmp_path / "data" / "attempts" / attempt_id).mkdir(parents=True)
                (tmp_path / "data" / "attempts" / attempt_id / run).touch()
                plan.finish("one", series_id)
            plan.plan_id = plan.adopt("one")
    for _ in range(3):
        Results(tmp_path / "data").repair(plan.ledger)
    for series_id in SERIES:
        folder = tmp_path / "data" / "results" / plan.study_id / "one" / series_id
        assert [path.name for path in folder.iterdir()] == ["second"]

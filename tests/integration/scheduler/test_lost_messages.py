"""What Redis lost, or never took, is made again from the ledger and from what workers say next."""

import time
from pathlib import Path

import pytest

from dcm_processor import identity
from dcm_processor.ledger import attempts
from dcm_processor.transport import REPORTS, Transport
from dcm_processor.vocabulary import EventKind, ExitReason, RepairKind
from scheduler import controller, repair
from scheduler.effects import Effects
from tests.integration.scheduler.adopted import AdoptedPlan
from tests.integration.scheduler.platform import YES, HandWorker, Platform, ended, hasten, held, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until


@pytest.fixture
def hasty(tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform that looks after what is lost without long waits; its controller does not run yet."""
    hasten(monkeypatch)
    return Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1)


def claimed_unheard(platform: Platform, orthanc: OrthancServer, tmp_path: Path, *, lost: int = 2) -> tuple[str, str]:
    """A study, and its attempt: claimed while the controller was away, the report that said so lost with Redis."""
    platform.install("svc", [{"jobName": "a", "retry": {"lost": lost}}], YES, tmp_path / "source")
    platform.start()
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    attempt_id = worker.pop()
    platform.stop()
    assert platform.transport.claim(worker.report(attempt_id))
    platform.transport.redis.flushall()
    platform.transport.announce(worker.report(attempt_id), 1)
    assert platform.states(study.study_id) == {"a": "queued"}
    return study.study_id, attempt_id


def test_an_attempt_whose_start_nobody_heard_of_is_lost_when_its_worker_falls_silent(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study_id, attempt_id = claimed_unheard(hasty, orthanc, tmp_path)
    with hasty:
        again = HandWorker(hasty).run()
        assert (again.attemptId, again.attempt) == (attempt_id[:-1] + "2", 2)
        hasty.wait_for(study_id, "finished")
    assert [attempt["state"] for attempt in hasty.jobs(study_id)["a"]["attempts"]] == ["lost", "finished"]
    assert hasty.counted()[RepairKind.ATTEMPT_LOST] == 1


def test_an_attempt_that_began_unheard_before_redis_was_emptied_is_lost_with_its_worker_and_uses_up_nothing(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """Whoever began it may have been on another host: it must not begin again under the same number."""
    study_id, attempt_id = claimed_unheard(hasty, orthanc, tmp_path, lost=0)
    hasty.transport.redis.flushall()
    with hasty:
        again = HandWorker(hasty).run()
        assert (again.attemptId, again.attempt) == (attempt_id[:-1] + "2", 2)
        hasty.wait_for(study_id, "finished")
        assert not hasty.transport.claim(HandWorker(hasty).report(attempt_id)), "who had popped it comes too late"
    attempts_of = hasty.jobs(study_id)["a"]["attempts"]
    assert [(each["state"], each["exitReason"]) for each in attempts_of] == [
        ("lost", "forgotten"),
        ("finished", "done"),
    ]
    assert hasty.counted() == {RepairKind.ATTEMPT_UNKNOWN: 1}


def test_an_attempt_whose_start_nobody_heard_of_runs_on_while_it_is_announced(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study_id, attempt_id = claimed_unheard(hasty, orthanc, tmp_path)
    worker = HandWorker(hasty)
    with hasty:
        wait_until(lambda: hasty.states(study_id) == {"a": "started"}, 10)
        worker.end(attempt_id)
        hasty.wait_for(study_id, "finished")
    [attempt] = hasty.jobs(study_id)["a"]["attempts"]
    assert (attempt["state"], attempt["worker"], attempt["host"]) == ("finished", "hand", "here")
    assert hasty.counted() == {RepairKind.ATTEMPT_UNREPORTED: 1}


def test_redis_keeps_nothing_of_what_has_ended_or_was_superseded(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan's key holds headers; logs' keys go by themselves."""
    hasten(monkeypatch, lost_after=60)  # the worker here says nothing
    hasty.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    with hasty:
        study = send(orthanc, tmp_path / "study")
        hasty.announce(study.study_id)
        worker = HandWorker(hasty)
        running = worker.start()
        hasty.transport.send_log(running.attemptId, 0, b"a line")
        wait_until(lambda: hasty.states(study.study_id).get("a") == "started", 10)
        hasty.ledger.record_event(EventKind.RERUN, study.study_id)
        hasty.transport.wake("test")
        wait_until(lambda: len(hasty.study(study.study_id)["plans"]) == 2, 10)
        wait_until(lambda: not held(hasty, "plan"), 10, "the superseded plan's key is gone")
        worker.end(running.attemptId)
        worker.run(), worker.run()
        hasty.wait_for(study.study_id, "finished")
        wait_until(lambda: not held(hasty, "plan", "order", "claim", "announced"), 10)
        wait_until(lambda: hasty.transport.log_received(running.attemptId) == 6, 10)
    remaining = [key for key in held(hasty, "") if hasty.transport.redis.ttl(key) == -1]
    assert remaining == ["dcmproc:logs", "dcmproc:marker", "dcmproc:reports", "dcmproc:wake"]


def test_an_attempt_whose_plan_redis_lost_is_laid_down_again_with_it(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """The plan went after Redis was asked for it, before the enqueue; a worker took the attempt for ended."""
    hasty.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    with hasty:
        study = send(orthanc, tmp_path / "study")
        hasty.announce(study.study_id)
        worker = HandWorker(hasty)
        attempt_id = worker.pop()
        hasty.transport.redis.delete(*held(hasty, "plan"))
        assert hasty.transport.order(attempt_id) is None
        assert worker.run().attemptId == attempt_id
        hasty.wait_for(study.study_id, "finished")
    assert hasty.counted() == {RepairKind.ATTEMPT_UNKNOWN: 1}


def test_what_redis_should_have_forgotten_it_forgets_later(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away, or has been put back; whoever still runs what has ended is asked to end it."""
    monkeypatch.setitem(controller.EVERY, "keys", 0.2)
    with hasty:
        report, order, plan = ended(hasty, orthanc, tmp_path)
        hasty.transport.ask(hasty.transport.laying_down(plan, [order]))
        hasty.transport.announce(report, 7)
        wait_until(lambda: not held(hasty, "plan", "order", "claim", "announced"), 10)
        wait_until(lambda: hasty.transport.announce(report, 8), 10, "whoever runs it is to end it")
    assert hasty.counted()[RepairKind.ATTEMPT_UNWANTED] >= 1


def test_what_is_queued_or_runs_is_not_forgotten(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(controller.EVERY, "keys", 0.05)
    hasty.install("svc", [{"jobName": "a"}, {"jobName": "b"}], YES, tmp_path / "source")
    with hasty:
        study = send(orthanc, tmp_path / "study")
        hasty.announce(study.study_id)
        worker = HandWorker(hasty)
        running, queued = worker.start(), worker.pop()
        for count in range(10):
            assert not hasty.transport.announce(worker.report(running.attemptId), count)
            assert hasty.transport.order(queued) is not None
            assert hasty.transport.claimed([running.attemptId]) == {running.attemptId: True}
            time.sleep(0.05)  # what is tested is that nothing happens


def test_reports_are_read_though_redis_was_emptied_and_its_clock_set_back(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """The new stream counts from where the old one had been long ago."""
    hasty.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    with hasty:
        hasty.transport.redis.xadd(REPORTS, {"report": "7"}, id="9999999999999-0")
        wait_until(lambda: hasty.transport.backlog(REPORTS) == 0, 10, "it was read, and dropped")
        hasty.transport.redis.flushall()
        study = send(orthanc, tmp_path / "study")
        hasty.announce(study.study_id)
        HandWorker(hasty).run()
        hasty.wait_for(study.study_id, "finished")


def test_a_retry_is_not_put_off_for_longer_because_the_clock_was_set_back(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(controller.EVERY, "clocks", 0.2)
    hasty.install("svc", [{"jobName": "a", "retry": {"max": 1, "interval": [1]}}], YES, tmp_path / "source")
    with hasty:
        study = send(orthanc, tmp_path / "study")
        hasty.announce(study.study_id)
        worker = HandWorker(hasty)
        order = worker.start()
        worker.end(order.attemptId, ExitReason.EXCEPTION, error="x")
        wait_until(lambda: hasty.states(study.study_id) == {"a": "retrying"}, 10)
        with hasty.ledger.write() as db:
            attempts.set_job(db, order.jobId, {"due_at": time.time() + 3600})
        assert worker.run().attempt == 2
    assert hasty.counted() == {RepairKind.DUE_TOO_LATE: 1}


def test_a_plan_that_another_hand_left_standing_is_taken_on(
    hasty: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """`service remove` cancels jobs in the ledger and leaves what depends on them to the controller."""
    hasty.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    hasty.install("other", [{"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    with hasty:
        study = send(orthanc, tmp_path / "study")
        hasty.announce(study.study_id)
        wait_until(lambda: hasty.states(study.study_id).get("a") == "queued", 20)
        hasty.ledger.cancel_service("svc")
        hasty.wait_for(study.study_id, "failed")
    assert hasty.states(study.study_id) == {"a": "cancelled", "b": "skipped"}
    assert hasty.counted()[RepairKind.PLAN_STALLED] == 1


def test_plans_are_looked_at_in_turn_though_something_of_them_is_on_its_way(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "SWEPT", 2)
    plans = [AdoptedPlan(tmp_path, transport, [{"jobName": "a"}]) for _ in range(5)]
    looked: list[str] = []
    monkeypatch.setattr(repair, "progress", lambda _db, study_id, *_, **__: looked.append(study_id))
    looker = repair.Repair(plans[0].ledger, transport, lost_after=60)
    for _ in range(3):
        looker.plans(None, Effects())  # type: ignore[arg-type]  # no other leader here
    assert looked == sorted(plan.study_id for plan in plans)
    looker.plans(None, Effects())  # type: ignore[arg-type]
    assert looked[5:] == looked[:2]


def test_a_machine_that_slept_takes_no_worker_for_lost(tmp_path: Path, transport: Transport) -> None:
    """Its own workers slept too: each gets all of the time again."""
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "a"}])
    attempt_id = identity.attempt_id(plan.rows()[0]["job_id"], 1)
    with plan.ledger.write() as db:
        found = attempts.get(db, attempt_id)
        assert found is not None
        attempts.start(db, found[0], now=time.time())
    now, slept = 0.0, 0.0
    looker = repair.Repair(plan.ledger, transport, lost_after=60, clock=lambda: now, suspended=lambda: slept)

    def state_after(seconds: int) -> str:
        nonlocal now
        for _ in range(seconds // 5):
            now += 5
            looker.attempts(None, Effects())  # type: ignore[arg-type]  # no other leader here
        with plan.ledger.read() as db:
            found = attempts.get(db, attempt_id)
        assert found is not None
        return str(found[0]["state"])

    assert state_after(55) == "started"
    slept = 8 * 3600
    assert state_after(60) == "started"
    assert state_after(10) == "lost"

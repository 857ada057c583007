"""Redis is full and refuses writes: all goes on once it has room again, nothing twice, and it is said meanwhile."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dcm_processor import identity
from dcm_processor.errors import TransientError, TransportUnavailableError
from dcm_processor.transport import LOGS, PlanOrder, Report, Transport
from dcm_processor.vocabulary import RepairKind
from scheduler import controller
from scheduler.app import create_app
from scheduler.enqueue import enqueue
from scheduler.logs import LogReceiver, log_path
from tests.integration.scheduler.adopted import SERIES, AdoptedPlan
from tests.integration.scheduler.api.stand import TOKENS, Installation, bearer
from tests.integration.scheduler.platform import YES, HandWorker, Platform, RealWorker, ended, gated, held, send
from tests.servers import OrthancServer
from tests.waiting import wait_until


def limit(platform: Platform, size: int) -> None:
    """Redis's `maxmemory` in bytes; 1: it is full, and stays so; 0: none."""
    platform.transport.redis.config_set("maxmemory", size)


def refusals(transport: Transport) -> int:
    """How often Redis refused something for want of memory."""
    found = transport.redis.info("errorstats")
    return int(found.get("errorstat_OOM", {}).get("count", 0))


def api_of(platform: Platform) -> Any:
    """The scheduler's HTTP side of the same installation."""
    platform.settings.secrets.mkdir(exist_ok=True)
    for name, text in TOKENS.items():
        (platform.settings.secrets / name).write_text(text)
    return create_app(platform.settings, ledger=platform.ledger).test_client()


def test_a_redis_that_fills_up_in_the_middle_of_it_all_costs_time_and_nothing_else(
    alone: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    record, gate = tmp_path / "record", tmp_path / "gate"
    jobs = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}]
    alone.install("svc", jobs, YES, tmp_path / "source", gated(record, gate))
    api = api_of(alone)
    with RealWorker(alone, tmp_path) as worker, capture_logs() as said:
        first = send(orthanc, tmp_path / "first")
        alone.announce(first.study_id)
        wait_until(lambda: record.exists() and alone.states(first.study_id)["a"] == "started", 60, "a runs")
        limit(alone, 1)
        second = send(orthanc, tmp_path / "second", StudyInstanceUID="1.2.3.4")
        answer = api.post("/stable-study", json={"studyId": second.study_id}, headers=bearer("hook_token"))
        assert answer.status_code == 202
        wait_until(lambda: alone.states(second.study_id) == {"a": "queued", "b": "waiting"}, 20, "it is planned")
        gate.touch()
        wait_until(lambda: worker.logged("the outcome is spooled and will be sent later"), 20)
        ready = api.get("/health/ready")
        assert ready.status_code == 503
        assert ready.get_json()["checks"]["redis"] == "takes nothing"
        assert alone.states(first.study_id)["a"] == "started"
        assert worker.process is not None
        assert worker.process.poll() is None
        limit(alone, 0)
        for study in (first, second):
            alone.wait_for(study.study_id, "finished", 60)
        wait_until(lambda: api.get("/health/ready").status_code == 200, 10, "and it is ready again")
        for study in (first, second):
            assert alone.attempts(study.study_id) == {"a": ["finished"], "b": ["finished"]}
        begun = record.read_text().splitlines()
        assert len(begun) == len(set(begun)) == 4
        assert RepairKind.ATTEMPT_LOST not in alone.counted()
        full = [line for line in said if "Redis is full" in str(line)]
        assert full
        assert not any("exc_info" in line for line in said)
        assert len({json.dumps(line, default=str) for line in full}) == len(full), "each is said once"
        assert not worker.logged("the worker failed")
        assert len(worker.logged("Redis is full")) <= 2


def test_what_waits_for_room_is_told_of_once_and_counted_once(
    alone: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """An attempt that its worker could not take, since it is popped, and Redis refused the claim."""
    alone.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    alone.announce(study.study_id)
    worker = HandWorker(alone)
    attempt_id = worker.pop()
    with capture_logs() as said:
        limit(alone, 1)
        with pytest.raises(TransportUnavailableError, match="Redis is full"):
            alone.transport.claim(worker.report(attempt_id))
        before = refusals(alone.transport)
        wait_until(lambda: refusals(alone.transport) > before + 10, 20, "repair looked again and again")
        limit(alone, 0)
        assert worker.run().attemptId == attempt_id
    alone.wait_for(study.study_id, "finished")
    assert alone.counted() == {RepairKind.ATTEMPT_UNKNOWN: 1}
    steps = [line["step"] for line in said if line["log_level"] == "warning" and "step" in line]
    assert "attempts" in steps
    assert len(steps) == len(set(steps))


def test_what_has_ended_goes_from_a_full_redis_though_its_worker_cannot_be_asked_to_end_it(
    alone: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else makes room there."""
    monkeypatch.setitem(controller.EVERY, "keys", 0.2)
    report, order, plan = ended(alone, orthanc, tmp_path)
    with alone.transport.redis.pipeline(transaction=True) as pipe:
        pipe.execute_command(*alone.transport.laying_down(plan, [order]))
        pipe.hset("dcmproc:announced", report.attemptId, "it still runs")
        pipe.config_set("maxmemory", 1)
        pipe.execute()
    wait_until(lambda: not held(alone, "plan", "order", "claim", "announced"), 10)


def test_what_an_outcome_was_taken_of_goes_from_a_full_redis_though_the_worker_cannot_be_told(
    transport: Transport,
) -> None:
    """Only the acknowledgement needs room."""
    for kind in ("order", "claim"):
        transport.redis.set(f"dcmproc:{kind}:job-1", "x")
    transport.redis.hset("dcmproc:announced", "job-1", "x")
    transport.redis.config_set("maxmemory", 1)
    with pytest.raises(TransportUnavailableError, match="Redis is full"):
        transport.forget_attempts(["job-1"], acknowledge=True)
    assert transport.redis.keys("dcmproc:*") == []


def test_logs_make_room_in_a_full_redis_as_they_are_taken(tmp_path: Path, transport: Transport) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])
    job_id = identity.job_id(plan.plan_id, "one", SERIES[0])
    attempt_id = identity.attempt_id(job_id, 1)
    for offset in range(3):
        transport.send_log(attempt_id, offset, b"x")
    transport.redis.config_set("maxmemory", 1)
    receiver = LogReceiver(transport.url, plan.ledger, tmp_path / "logs")
    for waiting in (2, 1, 0):
        with pytest.raises(TransientError, match="Redis is full"):
            receiver.receive(block_ms=1000)
        assert transport.backlog(LOGS) == waiting
    assert log_path(tmp_path / "logs", plan.study_id, job_id, 1).read_bytes() == b"xxx"
    transport.redis.config_set("maxmemory", 0)
    transport.send_log(attempt_id, 0, b"xxx")  # as its worker does: it was not told
    receiver.receive(block_ms=1000)
    assert transport.log_received(attempt_id) == 3


REFUSING = [
    ("CONFIG SET maxmemory 1", "Redis is full"),
    ("CONFIG SET min-replicas-to-write 1", "Redis refuses: NOREPLICAS"),
    ("REPLICAOF 127.0.0.1 1", "Redis refuses: "),
]


@pytest.mark.parametrize(("command", "said"), REFUSING)
def test_whatever_redis_refuses_for_is_an_outage_and_nothing_of_what_was_asked_is_told(
    transport: Transport, command: str, said: str
) -> None:
    transport.redis.set("secret", "Doe^Jane")
    transport.redis.execute_command(*command.split())
    report = Report("started", "job-1", "claim", "worker", "host")
    refused: list[Callable[[], object]] = [
        lambda: transport.wake("test"),
        lambda: transport.announce(report, 1),
        lambda: transport.report(report),
        lambda: transport.send_log("job-1", 0, b"Doe^Jane"),
        lambda: transport.log_taken("job-1", 7),
        lambda: transport.request_cancel(["job-1"]),
        lambda: transport.forget_attempts(["job-1"], acknowledge=True),
        lambda: enqueue(transport, PlanOrder("plan", "study", {"PatientName": "Doe^Jane"}, [], {}), []),
    ]
    for each in refused:
        with pytest.raises(TransportUnavailableError, match=said) as found:
            each()
        assert "Jane" not in str(found.value)


@pytest.mark.parametrize(("command", "_said"), REFUSING)
def test_a_redis_that_refuses_makes_the_scheduler_unready(
    tmp_path: Path, transport: Transport, command: str, _said: str
) -> None:
    transport.redis.execute_command(*command.split())
    with Installation(tmp_path, REDIS_URL=transport.url) as installation:
        response = installation.api().get("/health/ready", token=None)
    assert response.status_code == 503
    assert response.get_json()["checks"] == {"ledger": "ok", "redis": "takes nothing"}

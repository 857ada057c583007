"""A running job that is to be cancelled is never tried again, whatever becomes of worker, attempt or Redis."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dcm_processor.cli import main
from dcm_processor.transport import PREFIX
from dcm_processor.vocabulary import EventKind, ExitReason
from scheduler import controller
from tests.dicom import StudyFiles
from tests.integration.scheduler.platform import YES, HandWorker, Platform, hasten, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until

RETRIES = {"jobName": "a", "retry": {"max": 3, "interval": [0]}}


def running(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> tuple[StudyFiles, str]:
    """A study whose job `a` runs, and the attempt's id."""
    platform.install("svc", [RETRIES], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    order = HandWorker(platform).start()
    wait_until(lambda: platform.states(study.study_id) == {"a": "started"}, 10)
    return study, order.attemptId


def cancel(platform: Platform, study: StudyFiles, job_id: str) -> None:
    platform.ledger.record_event(EventKind.CANCEL, study.study_id, {"jobIds": [job_id]})
    platform.transport.wake("test")
    wait_until(lambda: platform.study(study.study_id)["events"][0]["handledAt"], 10, "the cancel was dealt with")


@pytest.mark.parametrize(
    "end", [ExitReason.EXCEPTION, ExitReason.TRANSIENT, ExitReason.HANDED_BACK, ExitReason.LOST, ExitReason.CANCELLED]
)
def test_however_its_attempt_ends_it_is_cancelled(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, end: ExitReason
) -> None:
    study, attempt_id = running(platform, orthanc, tmp_path)
    cancel(platform, study, attempt_id[:-2])
    HandWorker(platform).end(attempt_id, end)
    platform.wait_for(study.study_id, "failed")
    assert platform.states(study.study_id) == {"a": "cancelled"}
    assert platform.jobs(study.study_id)["a"]["reason"] == "cancelled by hand"


def test_one_that_finishes_all_the_same_is_finished(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> None:
    study, attempt_id = running(platform, orthanc, tmp_path)
    cancel(platform, study, attempt_id[:-2])
    HandWorker(platform).end(attempt_id)
    platform.wait_for(study.study_id, "finished")
    assert platform.jobs(study.study_id)["a"]["reason"] is None


def test_with_its_worker_dead_it_is_cancelled(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    with Platform(tmp_path / "base", valkey, orthanc) as platform:
        study, attempt_id = running(platform, orthanc, tmp_path)
        cancel(platform, study, attempt_id[:-2])
        platform.wait_for(study.study_id, "failed")
        assert platform.states(study.study_id) == {"a": "cancelled"}


def test_the_worker_is_asked_again_where_redis_forgot_it(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(controller.EVERY, "attempts", 0.2)
    with Platform(tmp_path / "base", valkey, orthanc) as platform:
        study, attempt_id = running(platform, orthanc, tmp_path)
        cancel(platform, study, attempt_id[:-2])
        key = PREFIX + "cancel:" + attempt_id
        wait_until(lambda: platform.transport.redis.exists(key), 5)
        platform.transport.redis.flushall()
        wait_until(lambda: platform.transport.redis.exists(key), 5, "the worker is asked again")


def test_cancelling_what_waits_for_the_run_of_an_earlier_plan_ends_that_run(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    a, b = worker.start(), worker.start()
    worker.end(a.attemptId)
    wait_until(lambda: platform.states(study.study_id) == {"a": "finished", "b": "started"}, 10)
    platform.ledger.record_event(EventKind.RERUN, study.study_id, {"jobs": ["a"]})
    platform.transport.wake("test")
    wait_until(lambda: platform.states(study.study_id) == {"a": "waiting", "b": "waiting"}, 10)
    cancel(platform, study, platform.jobs(study.study_id)["b"]["jobId"])
    assert platform.states(study.study_id) == {"a": "waiting", "b": "cancelled"}
    wait_until(lambda: platform.transport.announce(worker.report(b.attemptId), 1), 5, "the worker is asked to end")
    worker.end(b.attemptId, ExitReason.CANCELLED)
    assert worker.run().jobName == "a"


def test_removing_a_service_keeps_its_queued_jobs_from_starting(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    platform.install("other", [{"jobName": "o"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    popped = {attempt_id.split("-")[-3]: attempt_id for attempt_id in (worker.pop(), worker.pop())}
    for key, value in {"BASEDIR": platform.settings.BASEDIR, "REDIS_URL": platform.transport.url}.items():
        monkeypatch.setenv(key, str(value))
    said = CliRunner().invoke(main, ["service", "remove", "svc", "--json"])
    assert json.loads(said.stdout)["cancelled"] == 1
    assert platform.transport.order(popped["a"]) is None
    assert not platform.transport.claim(worker.report(popped["a"]))
    assert platform.states(study.study_id) == {"a": "cancelled", "o": "queued"}
    assert platform.transport.claim(worker.report(popped["o"]))
    worker.end(popped["o"])
    assert platform.wait_for(study.study_id, "failed")["reason"] == "not finished: a"


def test_a_service_removed_while_a_study_is_planned_has_no_job_of_it_run(
    valkey: ValkeyServer, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal finds no job to cancel; the plan that is made then has one."""
    asked, gate = tmp_path / "asked", tmp_path / "gate"
    slow = f"""
        import os, time
        def applies(**kwargs):
            open({str(asked)!r}, "a").close()
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.01)
            return True
    """
    with Platform(tmp_path / "base", valkey, orthanc, CALLBACK_TIMEOUT=60) as platform:
        platform.install("svc", [{"jobName": "a"}], slow, tmp_path / "source")
        platform.install("other", [{"jobName": "o"}], YES, tmp_path / "source")
        study = send(orthanc, tmp_path / "study")
        platform.announce(study.study_id)
        wait_until(asked.exists, 20, "the callback is asked")
        for key, value in {"BASEDIR": platform.settings.BASEDIR, "REDIS_URL": platform.transport.url}.items():
            monkeypatch.setenv(key, str(value))
        assert CliRunner().invoke(main, ["service", "remove", "svc"]).exit_code == 0
        gate.touch()
        assert HandWorker(platform).run().jobName == "o"
        platform.wait_for(study.study_id, "finished")
        assert list(platform.jobs(study.study_id)) == ["o"]
        assert len(platform.study(study.study_id)["plans"]) == 1

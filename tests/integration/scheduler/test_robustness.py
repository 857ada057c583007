"""What goes wrong around the controller keeps it from one thing, and from nothing else."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from scheduler import controller, progress
from tests.integration.scheduler.platform import YES, HandWorker, Platform, hasten, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until


def test_an_install_that_holds_the_lock_for_long_disturbs_nothing(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    platform.stop()
    with platform.store._files.locked():
        platform.start()
        study = send(orthanc, tmp_path / "study")
        platform.announce(study.study_id)
        HandWorker(platform).run()
        platform.wait_for(study.study_id, "finished")


@pytest.mark.parametrize("error", [KeyError("x"), PermissionError(13, "Permission denied")])
def test_a_step_that_fails_keeps_no_other_from_running(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(controller.Planner, "collect", fail)
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    platform.wait_for(study.study_id, "planning")
    monkeypatch.undo()
    HandWorker(platform).run()
    platform.wait_for(study.study_id, "finished")


def test_services_that_cannot_be_read_make_studies_wait_and_say_why(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    registry, aside = platform.settings.registry, tmp_path / "aside"
    registry.rename(aside)
    registry.write_text("no folder any more")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    found = platform.wait_for(study.study_id, "waiting")
    assert "the services cannot be read" in found["reason"]
    registry.unlink()
    aside.rename(registry)
    HandWorker(platform).run()
    wait_until(lambda: platform.study(study.study_id)["state"] == "finished", 20)


def test_nothing_follows_from_an_outcome_that_could_not_be_taken(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its results nor an acknowledgement: the worker keeps it and sends it again."""
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    order = worker.start()
    wait_until(lambda: platform.states(study.study_id) == {"a": "started"}, 10)
    tried: list[str] = []

    def fail(_db: object, study_id: str, *_: object, **__: object) -> None:
        tried.append(study_id)
        raise KeyError

    monkeypatch.setattr(progress, "progress", fail)
    worker.end(order.attemptId)
    wait_until(lambda: len(tried) >= 2, 10, "taken with others, and by itself")
    wait_until(lambda: platform.transport.backlog("dcmproc:reports") == 0, 10, "it was dropped")
    monkeypatch.undo()
    assert platform.states(study.study_id) == {"a": "started"}
    assert not platform.transport.acknowledged(order.attemptId)
    assert not (platform.settings.data / "results" / study.study_id).exists()
    worker.end(order.attemptId)
    platform.wait_for(study.study_id, "finished")
    wait_until(lambda: platform.transport.acknowledged(order.attemptId), 5)


def test_results_that_cannot_be_published_hold_up_their_dependents_alone(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other studies' results and jobs go on, pushed again by repair too; once they can be, so do these."""
    hasten(monkeypatch)
    monkeypatch.setitem(controller.EVERY, "results", 0.5)
    stuck: list[str] = []
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if stuck and stuck[0] in str(target):
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    jobs = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}, {"jobName": "free"}]
    with Platform(tmp_path / "base", valkey, orthanc) as platform:
        platform.install("svc", jobs, YES, tmp_path / "source")
        first = send(orthanc, tmp_path / "first")
        stuck.append(f"results/{first.study_id}/a")
        platform.announce(first.study_id)
        worker = HandWorker(platform)
        assert [worker.run().jobName, worker.run().jobName] == ["a", "free"]
        wait_until(lambda: platform.states(first.study_id) == {"a": "finished", "b": "queued", "free": "finished"}, 10)
        second = send(orthanc, tmp_path / "second")
        platform.announce(second.study_id)
        wait_until(lambda: platform.states(second.study_id).get("a") == "queued", 10)
        platform.transport.redis.flushall()
        ran = [worker.run() for _ in range(3)]
        assert sorted((order.studyId, order.jobName) for order in ran) == [
            (second.study_id, name) for name in ("a", "b", "free")
        ]
        platform.wait_for(second.study_id, "finished")
        stuck.clear()
        assert worker.run().jobName == "b"
        platform.wait_for(first.study_id, "finished")


def test_an_outcome_with_moments_that_cannot_be_spoils_no_page(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    worker.end(worker.start().attemptId, phases={"run": ["x", 2], "fetch": [1e20, 2], "environment": [1.0, 2.0]})
    platform.wait_for(study.study_id, "finished")
    [attempt] = platform.jobs(study.study_id)["a"]["attempts"]
    assert list(attempt["phases"]) == ["environment"]


def test_a_ledger_that_a_backup_locks_for_longer_than_the_lease_costs_nothing(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written waits; who led goes on leading, since nobody else took over."""
    platform.stop()
    monkeypatch.setattr(controller, "LEASE_SECONDS", 2.0)
    platform.start()
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    order = worker.start()
    wait_until(lambda: platform.states(study.study_id)["a"] == "started", 10)
    with closing(sqlite3.connect(platform.settings.BASEDIR / "db" / "ledger.sqlite", isolation_level=None)) as backup:
        epoch = backup.execute("SELECT epoch FROM leases").fetchall()
        backup.execute("BEGIN IMMEDIATE")
        worker.end(order.attemptId)
        until = time.monotonic() + 3 * controller.LEASE_SECONDS
        wait_until(lambda: time.monotonic() > until, 10)
        backup.execute("ROLLBACK")
        worker.run()
        platform.wait_for(study.study_id, "finished")
        assert {name: len(ids) for name, ids in platform.attempts(study.study_id).items()} == {"a": 1, "b": 1}
        assert backup.execute("SELECT epoch FROM leases").fetchall() == epoch

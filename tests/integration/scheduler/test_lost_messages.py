"""What Redis lost, or never took, is made again from the ledger and from what workers say next."""

from pathlib import Path

import pytest

from tests.integration.scheduler.platform import YES, HandWorker, Platform, hasten, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until


@pytest.fixture
def hasty(tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform that looks after what is lost without long waits; its controller does not run yet."""
    hasten(monkeypatch)
    return Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1)


def claimed_unheard(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> tuple[str, str]:
    """A study, and its attempt: claimed while the controller was away, the report that said so lost with Redis."""
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
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

"""Jobs that failed are tried again as their settings say; what is left is run again by hand, many at once."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dcm_processor.ledger.schema import jobs
from dcm_processor.vocabulary import EventKind, ExitReason
from scheduler import planner
from tests.dicom import StudyFiles
from tests.integration.scheduler.platform import YES, HandWorker, Platform, send
from tests.servers import OrthancServer
from tests.waiting import wait_until


def running(platform: Platform, orthanc: OrthancServer, tmp_path: Path, **retry: Any) -> StudyFiles:
    """A study with a job `a` that is tried again so, and `b` that waits for it."""
    entries = [{"jobName": "a", "retry": retry}, {"jobName": "b", "dependsOn": "a"}]
    platform.install("svc", entries, YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    return study


def failing(platform: Platform, reason: ExitReason) -> int:
    """Have the next attempt end so; returns its number."""
    worker = HandWorker(platform)
    order = worker.start()
    worker.end(order.attemptId, reason, error="no")
    return order.attempt


def test_a_failure_is_tried_again_so_often_before_dependents_are_skipped(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = running(platform, orthanc, tmp_path, max=2, interval=[0])
    assert [failing(platform, ExitReason.EXCEPTION) for _ in range(3)] == [1, 2, 3]
    platform.wait_for(study.study_id, "failed")
    assert platform.states(study.study_id) == {"a": "failed", "b": "skipped"}
    assert [each["exitReason"] for each in platform.jobs(study.study_id)["a"]["attempts"]] == ["exception"] * 3


def test_one_that_finishes_at_last_lets_its_dependents_run(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = running(platform, orthanc, tmp_path, max=1, interval=[0])
    failing(platform, ExitReason.EXCEPTION)
    worker = HandWorker(platform)
    assert [worker.run().jobName, worker.run().jobName] == ["a", "b"]
    platform.wait_for(study.study_id, "finished")


def test_a_transient_failure_is_tried_three_times_at_max_0_and_does_not_use_up_the_others(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = running(platform, orthanc, tmp_path, max=0, interval=[0])
    assert [failing(platform, ExitReason.TRANSIENT) for _ in range(3)] == [1, 2, 3]
    assert failing(platform, ExitReason.EXCEPTION) == 4
    platform.wait_for(study.study_id, "failed")


def test_without_retry_one_failure_is_the_end(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> None:
    study = running(platform, orthanc, tmp_path)
    failing(platform, ExitReason.EXCEPTION)
    platform.wait_for(study.study_id, "failed")
    assert platform.states(study.study_id) == {"a": "failed", "b": "skipped"}


def test_the_pauses_are_those_of_the_settings_and_a_fifth_more_at_most(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = running(platform, orthanc, tmp_path, max=3, interval=[100, 1000])
    began = time.time()
    for pause in (100, 1000, 1000):  # the last one holds for all that follow
        failing(platform, ExitReason.EXCEPTION)
        wait_until(lambda: platform.states(study.study_id)["a"] == "retrying", 10)
        with platform.ledger.write() as db:
            [due] = db.execute(select(jobs.c.due_at).where(jobs.c.state == "retrying")).scalars()
            assert began + pause <= due <= time.time() + pause * 1.2
            db.execute(update(jobs).where(jobs.c.state == "retrying").values(due_at=time.time()))


def test_thousands_of_jobs_that_are_to_run_again_keep_no_new_study_waiting(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn takes on some of them, one at least; all come, each study's in one plan."""
    monkeypatch.setattr(planner, "JOBS_SECONDS", 0.0)
    platform.install("svc", [{"jobName": "a"}, {"jobName": "c"}], YES, tmp_path / "source")
    studies = [send(orthanc, tmp_path / f"study-{number}") for number in range(4)]
    worker, failed = HandWorker(platform), {}
    for study in studies:
        platform.announce(study.study_id)
        for _ in range(2):
            worker.end(worker.start().attemptId, ExitReason.EXCEPTION, error="CUDA")
        platform.wait_for(study.study_id, "failed")
        failed[study.study_id] = {"jobIds": [job["jobId"] for job in platform.jobs(study.study_id).values()]}
    platform.stop()
    for number in range(300):  # of no study there is
        platform.ledger.record_event(EventKind.RERUN, f"{number:08x}-0-0-0-0", {"jobIds": ["x"]})
    platform.ledger.record_events(EventKind.RERUN, failed)
    new = send(orthanc, tmp_path / "new")
    platform.ledger.record_event(EventKind.STABLE, new.study_id)
    platform.start()
    platform.wait_for(new.study_id, "running", 10)
    assert {len(platform.study(study.study_id)["plans"]) for study in studies} == {1}, "these come later"
    ran = [worker.run() for _ in range(10)]
    assert len({order.jobId for order in ran}) == 10
    for study in studies:
        assert [plan["run"] for plan in platform.wait_for(study.study_id, "finished")["plans"]] == [2, 1]

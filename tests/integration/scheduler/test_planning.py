"""Planning in a child: whatever becomes of the child, the controller goes on, and the study gets its word."""

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import requests
from pydicom.dataset import Dataset

from dcm_processor.orthanc import Orthanc
from scheduler import planner, planning
from scheduler.planning import Ending, PlanningTask, plan_study, task_for
from tests.dicom import make_study, upload
from tests.integration.scheduler.platform import YES, HandWorker, Platform, send
from tests.servers import OrthancServer
from tests.waiting import wait_until


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning that hangs is given up, and tried again, soon."""
    monkeypatch.setattr(planner, "PLANNING_SECONDS", 3.0)
    monkeypatch.setattr(planner, "_BACKOFF", (0.1,) * 5)


def stops_in_the_middle_of_its_answer(connection: Connection, _: PlanningTask) -> None:
    os.write(connection.fileno(), struct.pack("!i", 1_000_000) + b"only the beginning")
    os.kill(os.getpid(), signal.SIGSTOP)


def dies(*_: object) -> None:
    os._exit(1)


def stopped_children() -> list[psutil.Process]:
    """What stands still of that which this process started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [child] if child.status() == psutil.STATUS_STOPPED else []
    return found


@contextmanager
def stopped_fork_server() -> Iterator[None]:
    children = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    [server] = [child for child in children if "forkserver" in " ".join(child.cmdline())]
    server.suspend()
    try:
        yield
    finally:
        server.resume()


def test_a_child_that_stops_in_the_middle_of_its_answer_holds_up_nobody_and_its_study_is_planned_again(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "PLANNING_SECONDS", 10.0)  # longer than the other study takes on a slow machine
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    first = send(orthanc, tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(planning, "_child", stops_in_the_middle_of_its_answer)
        platform.announce(first.study_id)
        wait_until(stopped_children, 10, "the child has stopped")
    second = send(orthanc, tmp_path / "second")
    platform.announce(second.study_id)
    platform.wait_for(second.study_id, "running", 2)
    assert platform.study(first.study_id)["state"] == "planning"
    platform.wait_for(first.study_id, "running")
    assert platform.study(first.study_id)["events"][-1]["failures"] >= 1  # more where the machine is slow


def test_a_fork_server_that_stops_holds_up_planning_alone(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, soon: None
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    first = send(orthanc, tmp_path / "first")
    platform.announce(first.study_id)
    platform.wait_for(first.study_id, "running")
    with stopped_fork_server():
        second = send(orthanc, tmp_path / "second")
        platform.announce(second.study_id)
        platform.wait_for(second.study_id, "planning")
        HandWorker(platform).run()
        platform.wait_for(first.study_id, "finished", 5)
        failed = "planning failed (1 of 5): planning did not get on for 3 s beside its callbacks"
        wait_until(lambda: failed in [each["result"] for each in platform.study(second.study_id)["events"]], 10)
    platform.wait_for(second.study_id, "running")


def test_a_study_whose_newest_revision_could_not_be_planned_is_unplanned_once_its_plan_has_ended(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its earlier plan ended; and no longer than until that revision has its plan."""
    monkeypatch.setattr(planner, "PLANNING_SECONDS", 60.0)  # nothing hangs here, and each child has to begin
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 2}])
    upload(orthanc.url, orthanc.auth, study.files[:1])
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    order = worker.start()
    wait_until(lambda: platform.states(study.study_id) == {"a": "started"}, 10)
    upload(orthanc.url, orthanc.auth, study.files[1:])
    with monkeypatch.context() as patch:
        patch.setattr(planning, "_child", dies)
        platform.announce(study.study_id)
        # Five times for each of two events, and each process imports this file, for `dies`, first.
        wait_until(lambda: all(event["handledAt"] for event in platform.study(study.study_id)["events"]), 60)
    assert platform.study(study.study_id)["state"] == "running"
    worker.end(order.attemptId)
    found = platform.wait_for(study.study_id, "unplanned")
    assert found["reason"].startswith("planning failed (5 of 5): the planning process ended with ")
    platform.announce(study.study_id)
    worker.run()
    assert platform.wait_for(study.study_id, "finished")["reason"] is None


def test_planning_has_time_for_every_callback_to_hang(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, soon: None
) -> None:
    hangs = "import time\ndef applies(**kwargs):\n    time.sleep(1000)\n"
    platform.install("svc", [{"jobName": name} for name in "abc"], hangs, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    found = platform.wait_for(study.study_id, "failed", 30)
    assert found["reason"] == "not finished: a, b, c"
    assert set(platform.states(study.study_id).values()) == {"errored"}


def test_what_planning_raised_is_told_without_what_its_message_says(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message may hold the value of an element; pages and logs show the reason."""

    def fail(*_: object) -> None:
        raise KeyError("Doe^Jane")

    study = send(orthanc, tmp_path / "study")
    task = task_for(platform.settings, platform.store, study.study_id, {}, frozenset())
    monkeypatch.setattr("dcm_processor.headers.build_headers", fail)
    planned = plan_study(task)
    assert planned.ending is Ending.FAILED
    assert planned.reason.startswith("planning raised KeyError (test_planning.py, line ")
    assert "Doe" not in planned.reason


def test_a_study_whose_first_instance_cannot_be_read_has_no_plan_and_says_which(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not planned with empty headers: every callback would answer for a study that it does not see."""
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    task = task_for(platform.settings, platform.store, study.study_id, {}, frozenset())
    monkeypatch.setattr("dcm_processor.elements.read_dataset", lambda _: Dataset())  # as of a file of zeros
    planned = plan_study(task)
    assert (planned.ending, planned.plan) == (Ending.FAILED, None)
    assert " sends a damaged file for instance " in planned.reason


@pytest.mark.parametrize("gone", ["instances", "series", "studies"])
def test_a_study_is_gone_only_if_orthanc_says_so_of_the_study(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """An instance that somebody deletes while the study is read makes planning start again, no more."""
    study = send(orthanc, tmp_path / "study")
    task = task_for(platform.settings, platform.store, study.study_id, {}, frozenset())
    asked = Orthanc.study
    deleted = []

    def study_then_deleted(self: Orthanc, study_id: str) -> object:
        contents = asked(self, study_id)
        if not deleted:
            series_id, instances = next(iter(contents.instances.items()))
            deleted.append({"instances": instances[0], "series": series_id, "studies": study_id}[gone])
            requests.delete(f"{orthanc.url}/{gone}/{deleted[0]}", auth=orthanc.auth, timeout=10).raise_for_status()
        return contents

    monkeypatch.setattr(Orthanc, "study", study_then_deleted)
    endings = [plan_study(task).ending for _ in range(2)]
    whole = gone == "studies"
    assert endings == ([Ending.GONE, Ending.GONE] if whole else [Ending.FAILED, Ending.PLANNED])

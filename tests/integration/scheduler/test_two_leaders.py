"""Two controllers on one ledger: one leads; one that was stopped, and wakes up when another leads, changes nothing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dcm_processor.ledger import repairs, schema
from dcm_processor.vocabulary import RepairKind
from scheduler.effects import Effects
from tests.dicom import make_study, upload
from tests.integration.scheduler.platform import YES, HandWorker, Platform, hangs_once, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[3]


@contextmanager
def controller(platform: Platform, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A controller process with the platform's settings."""
    settings = platform.settings
    chosen = {"MODE": "local", "BASEDIR": str(settings.BASEDIR), "REDIS_URL": str(settings.REDIS_URL)}
    chosen |= {"ORTHANC_REST_URL": settings.ORTHANC_REST_URL, "STABLE_AGE": str(settings.STABLE_AGE)}
    chosen |= {"ORTHANC_REST_PASSWORD": str(settings.orthanc_password), "PYTHONPATH": str(CHECKOUT)}
    chosen |= {"DATABASE_URL": settings.database_url}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.controller"], env=os.environ | chosen, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)


def lease(platform: Platform) -> tuple[str, int]:
    with platform.ledger.read() as db:
        row = db.execute(schema.leases.select()).mappings().one_or_none()
    return (row["holder"], row["epoch"]) if row else ("", 0)


def led_by(platform: Platform, process: subprocess.Popen[bytes]) -> bool:
    return f":{process.pid}:" in lease(platform)[0]


def end_of_lease(platform: Platform) -> None:
    """As after LEASE_SECONDS without a renewal."""
    with platform.ledger.write() as db:
        db.execute(update(schema.leases).values(expires_at=0))


def test_a_leader_that_was_stopped_wakes_up_to_another_and_stands_down(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, database_url: str
) -> None:
    """In the middle of a plan, with a study and a report waiting for it; the other goes on as if it had died."""
    platform = Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1, DATABASE_URL=database_url)
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    worker = HandWorker(platform)
    with controller(platform, tmp_path / "first.log") as first, controller(platform, tmp_path / "second.log") as second:
        wait_until(lambda: led_by(platform, first) or led_by(platform, second), 60, "one leads")
        stopped, other = (first, second) if led_by(platform, first) else (second, first)
        study = send(orthanc, tmp_path / "study")
        platform.announce(study.study_id)
        order = worker.start()
        wait_until(lambda: platform.states(study.study_id).get("a") == "started", 20)
        stopped.send_signal(signal.SIGSTOP)
        worker.end(order.attemptId)
        later = send(orthanc, tmp_path / "later", PatientID="LATER")
        platform.announce(later.study_id)
        wait_until(lambda: led_by(platform, other), 40, "the other leads once the lease has run out")
        ran = [worker.run().jobName for _ in range(2)]
        epoch = lease(platform)[1]
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(20) == 1
        ran.append(worker.run().jobName)
        platform.wait_for(study.study_id, "finished")
        platform.wait_for(later.study_id, "finished")
        assert lease(platform)[1] == epoch
        assert other.poll() is None
    log = (tmp_path / ("first.log" if stopped is first else "second.log")).read_text()
    assert "stands down" in log
    assert sorted(ran) == ["a", "b", "b"]
    for each in (study, later):
        [plan] = platform.study(each.study_id)["plans"]
        assert [[attempt["state"] for attempt in job["attempts"]] for job in plan["jobs"]] == [["finished"]] * 2
    assert not platform.transport.redis.keys("dcmproc:order:*")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # how a thread stands down
@pytest.mark.parametrize("where", ["before it looks at its lease", "after it has looked"])
def test_what_a_stopped_leader_carries_out_late_starts_nothing_twice(
    tmp_path: Path,
    valkey: ValkeyServer,
    orthanc: OrthancServer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    where: str,
) -> None:
    """It is stopped after the commit of a plan, before it pushes the attempt, which has ended when it wakes up."""
    late, other = (
        Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1, DATABASE_URL=database_url) for _ in range(2)
    )
    late.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    stopped, woken = threading.Event(), threading.Event()
    carry_out = Effects.carry_out

    def stop_before(self: Effects, *parts: Any) -> None:
        if self.new and not stopped.is_set():
            stopped.set()
            assert woken.wait(60)
            if where == "after it has looked":
                parts = parts[:4]
        carry_out(self, *parts)

    monkeypatch.setattr(Effects, "carry_out", stop_before)
    with pytest.MonkeyPatch.context() as hasty:
        hasty.setattr("scheduler.repair.QUEUED_GRACE", 0.5)
        hasty.setattr("scheduler.repair.BLIND_AFTER", 1.0)
        hasty.setitem(sys.modules["scheduler.controller"].EVERY, "attempts", 0.2)
        late.start()
        study = send(orthanc, tmp_path / "study")
        late.announce(study.study_id)
        assert stopped.wait(20)
        end_of_lease(late)
        other.start()
        order = HandWorker(other).run()
        other.wait_for(study.study_id, "finished")
        wait_until(lambda: other.transport.acknowledged(order.attemptId), 10)
        woken.set()
        assert late._thread is not None
        late._thread.join(20)
        assert not late._thread.is_alive()
    assert not other.transport.claim(HandWorker(other).report(order.attemptId))
    other.stop()
    if where == "before it looks at its lease":
        assert not other.transport.redis.exists(f"dcmproc:order:{order.attemptId}")


def test_an_event_whose_planning_a_leader_left_is_planned_by_the_next_and_counted(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer
) -> None:
    marker = tmp_path / "marker"
    platform = Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1)
    platform.install("svc", [{"jobName": "a"}], hangs_once(marker), tmp_path / "source")
    with controller(platform, tmp_path / "first.log"):
        wait_until(lambda: lease(platform)[1], 60, "it leads")
        study = send(orthanc, tmp_path / "study")
        platform.announce(study.study_id)
        wait_until(marker.exists, 20, "the callback runs")
    with platform:
        HandWorker(platform).run()
        platform.wait_for(study.study_id, "finished")
    with platform.ledger.read() as db:
        assert repairs.counted(db)[RepairKind.EVENT_UNPLANNED] >= 1


def test_a_study_that_two_send_at_once_is_planned_once_a_revision(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 20}] * 2)
    senders = [
        threading.Thread(target=upload, args=(orthanc.url, orthanc.auth, files))
        for files in (study.files, study.files[::-1])
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    for _ in senders:
        platform.announce(study.study_id)
    HandWorker(platform).run()
    platform.wait_for(study.study_id, "finished")
    wait_until(
        lambda: {"change", "stable"} <= {e["kind"] for e in platform.study(study.study_id)["events"] if e["handledAt"]},
        20,
    )
    [plan] = platform.study(study.study_id)["plans"]
    assert sum(len(attempts) for attempts in [plan["jobs"][0]["attempts"]]) == 1

"""Studies of which the ledger, or the disk, keeps no more, in a platform that goes on."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from dcm_processor.ledger import retention, schema
from dcm_processor.vocabulary import EventKind, ExitReason
from scheduler import controller
from tests.dicom import StudyFiles
from tests.integration.scheduler.platform import YES, HandWorker, Platform, send
from tests.integration.scheduler.test_retention import Stand
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until

CHAIN = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}, {"jobName": "c", "dependsOn": "b"}]


def ran(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> StudyFiles:
    """A study whose chain of jobs has finished."""
    platform.install("svc", CHAIN, YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    for _ in CHAIN:
        worker.run()
    platform.wait_for(study.study_id, "finished")
    wait_until(lambda: not unsettled(platform), 20, "all events are dealt with")
    return study


def unsettled(platform: Platform) -> int:
    with platform.ledger.read() as db:
        return int(db.execute(select(func.count()).where(schema.events.c.handled_at.is_(None))).scalar_one())


def test_a_revision_that_was_forgotten_is_planned_again_only_when_asked_for(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """However often it is noticed: by the hook, by /changes, or by a comparison with Orthanc."""
    study = ran(platform, orthanc, tmp_path)
    (before,) = platform.study(study.study_id)["plans"]
    with platform.ledger.write() as db:
        assert retention.bury(db, [study.study_id])
    assert platform.ledger.study(study.study_id) is None
    platform.announce(study.study_id)
    found = platform.wait_for(study.study_id, "finished")
    assert (found["plans"], found["reason"]) == ([], found["events"][0]["result"])
    assert "was planned before" in found["reason"]
    platform.ledger.record_event(EventKind.RERUN, study.study_id)
    platform.transport.wake("test")
    worker = HandWorker(platform)
    assert [worker.run().jobName for _ in CHAIN] == ["a", "b", "c"]
    (after,) = platform.wait_for(study.study_id, "finished")["plans"]
    assert (before["run"], after["run"]) == (1, 2), "no id of a plan, job or attempt comes twice"


def test_an_event_that_came_in_the_moment_in_which_its_study_was_forgotten_is_dealt_with(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """PostgreSQL may put it down beside the transaction that deletes the study's rows."""
    platform.install("svc", CHAIN[:1], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    with platform.ledger.write() as db:
        values = {"kind": EventKind.STABLE, "study_id": study.study_id, "received_at": 1, "due_at": 1, "failures": 0}
        db.execute(insert(schema.events).values(values))
    HandWorker(platform).run()
    assert len(platform.wait_for(study.study_id, "finished")["plans"]) == 1


@pytest.mark.parametrize("payload", [{"jobs": ["c"]}, {"jobIds": []}], ids=["of the study", "of a job"])
def test_what_a_rerun_needs_and_is_not_there_any_more_runs_again_too(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, payload: dict[str, list[str]]
) -> None:
    """KEEP_RESULTS, or somebody's `rm -rf`, took the results of `b`; those of `a` are not needed unless `b` runs."""
    study = ran(platform, orthanc, tmp_path)
    shutil.rmtree(platform.settings.data / "results" / study.study_id / "b")
    if "jobIds" in payload:
        payload = {"jobIds": [platform.jobs(study.study_id)["c"]["jobId"]]}
    platform.ledger.record_event(EventKind.RERUN, study.study_id, payload)
    platform.transport.wake("test")
    worker = HandWorker(platform)
    orders = [worker.run() for _ in range(2)]
    assert [order.jobName for order in orders] == ["b", "c"]
    assert orders[0].inputs == {"a": f"results/{study.study_id}/a"}
    platform.wait_for(study.study_id, "finished")
    assert platform.jobs(study.study_id)["a"]["reusedFrom"]
    shutil.rmtree(platform.settings.data / "results" / study.study_id)
    platform.ledger.record_event(EventKind.RERUN, study.study_id, {"jobs": ["c"]})
    platform.transport.wake("test")
    assert [worker.run().jobName for _ in range(3)] == ["a", "b", "c"]


def test_a_job_for_whose_study_there_is_no_room_says_so(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """It waits, and is tried again by itself once its time has come."""
    platform.install("svc", CHAIN[:1], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    why = "DATA (/data) has no room for the study's files: 9 bytes are needed, 5 bytes are free; make room there"
    worker.end(worker.start().attemptId, ExitReason.FETCH, error=why)
    wait_until(lambda: why in (platform.jobs(study.study_id)["a"]["reason"] or ""), 20, "the reason is told")
    assert platform.states(study.study_id) == {"a": "retrying"}


@pytest.mark.timeout(600)
def test_turns_stay_short_while_ten_thousand_studies_go(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook's events are taken meanwhile, too; how long a turn takes at most is printed."""
    turns = Turns(monkeypatch)
    platform = Platform(tmp_path / "base", valkey, orthanc, KEEP_LEDGER=1, KEEP_RESULTS=1)
    stand = Stand(platform.settings.BASEDIR, platform.settings.database_url)
    for start in range(1, 10_001, 1000):
        stand.add_all(range(start, start + 1000), days=10, jobs=5)
    hooks: list[float] = []
    with platform:
        wait_until(lambda: stand.count(schema.tombstones) > 0, 60, "the first goes")
        while stand.count(schema.studies):
            began = time.monotonic()
            platform.ledger.record_event(EventKind.CANCEL, "0" * 44, {"jobIds": []})
            hooks.append(time.monotonic() - began)
            time.sleep(0.05)  # between two hooks
        longest = turns.longest()
        turns.begin()
        wait_until(lambda: turns.number >= 200, 60, "turns in which nothing goes")
        idle = turns.longest()
    assert stand.count(schema.tombstones) == 10_000
    assert stand.count(schema.attempts) == 0
    figures = (*longest, max(hooks))
    print("longest turn, 99 of 100 turns, longest hook in ms:", *(round(1000 * each) for each in figures))
    assert longest[1] < max(0.2, 10 * idle[1])  # on a machine that has others to serve, all turns are longer
    assert max(hooks) < 1.7  # a hook's patience


class Turns:
    """How long the controller's turns take: from one wait's end to the next one's beginning."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seconds: list[float] = []
        self._woke: dict[int, float] = {}
        self._wait: Callable[..., Any] = controller.wait
        monkeypatch.setattr(controller, "wait", self._waits)

    def _waits(self, *arguments: Any, **options: Any) -> Any:
        me = threading.get_ident()
        if me in self._woke:
            self._seconds.append(time.monotonic() - self._woke[me])
        found = self._wait(*arguments, **{**options, "timeout": 0.02})  # fifty turns a second, not one
        self._woke[me] = time.monotonic()
        return found

    def begin(self) -> None:
        """Forget what was measured so far."""
        self._seconds = []

    @property
    def number(self) -> int:
        return len(self._seconds)

    def longest(self) -> tuple[float, float]:
        """In seconds: the longest, and the longest but one of a hundred."""
        found = sorted(self._seconds)
        return found[-1], found[int(0.99 * len(found)) - 1]

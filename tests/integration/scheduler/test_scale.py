"""Large studies, and an Orthanc far ahead: what they cost grows no faster than they do, and stops nothing else."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from dcm_processor import process
from dcm_processor.ledger import Ledger, leases, studies
from dcm_processor.orthanc import Orthanc
from scheduler import planner, planning
from scheduler.changes import Changes
from scheduler.planning import Ending, PlanningTask, plan_study, task_for
from tests.integration.scheduler.platform import YES, HandWorker, Platform
from tests.large_study import LargeStudy
from tests.servers import ValkeyServer

BYTES_AN_INSTANCE = 600
"""Of a planning child's memory; the identifiers alone, as Python keeps them, are a fifth of it."""
TEXT_AN_INSTANCE = 50
"""Bytes in the ledger and in Redis: an identifier of 44, its quotes and a comma."""


@pytest.fixture
def stand(tmp_path: Path, valkey: ValkeyServer) -> Iterator[Any]:
    """Makes platforms, whose controllers are stopped at the end."""
    made: list[Platform] = []

    def make(orthanc: Any, jobs: list[dict[str, Any]]) -> Platform:
        platform = Platform(tmp_path / f"base{len(made)}", valkey, orthanc)
        platform.install("svc", jobs, YES, tmp_path / f"source{len(made)}")
        made.append(platform)
        return platform

    yield make
    for platform in made:
        platform.stop()


def read_study(url: str, study_id: str, answer: Connection) -> None:
    """Send how many instances the study has, and how many bytes of memory it took to read it."""
    orthanc = Orthanc(url, "dcmproc", lambda: LargeStudy.password)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = orthanc.study(study_id)
    size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    ids = [instance for series in found.instances.values() for instance in series]
    answer.send((len(ids), len(set(ids)), size))


@pytest.mark.parametrize(("series", "instances"), [(1, 50_000), (500, 100)])
def test_a_study_is_read_in_two_calls_and_never_held_as_it_comes(series: int, instances: int) -> None:
    """Of 450 bytes an instance, that become five times as many as Python's objects."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with LargeStudy(series, instances) as orthanc:
        child = context.Process(target=read_study, args=(orthanc.url, orthanc.study_id, theirs))
        child.start()
        assert ours.poll(120)
        number, different, size = ours.recv()
        child.join(10)
        asked = orthanc.asked()
    assert (number, different) == (series * instances,) * 2
    assert size < BYTES_AN_INSTANCE * number
    assert asked == {"/studies/*": 1, "/studies/*/instances?expand": 1}


def test_a_study_of_many_series_is_planned_in_two_calls_a_series_and_its_time_begins_anew_with_each(stand: Any) -> None:
    """And in one where it is known already who stored them."""
    with LargeStudy(300, 2) as orthanc:
        platform = stand(orthanc, [{"jobName": "each", "level": "series"}])
        told: list[float] = []
        task = task_for(platform.settings, platform.store, orthanc.study_id, {}, frozenset())
        planned = plan_study(task, told.append)
        assert (planned.ending, len(planned.headers["series"])) == (Ending.PLANNED, 300)
        first = orthanc.asked()
        assert first.pop("/instances/*/metadata?expand") == first.pop("/instances/*/file") == 300
        assert sum(first.values()) == 2
        assert len(told) == 601
        task = task_for(platform.settings, platform.store, orthanc.study_id, planned.owners, frozenset())
        assert plan_study(task).ending is Ending.PLANNED
        assert orthanc.asked()["/instances/*/metadata?expand"] == 300


def test_of_a_large_study_ledger_and_redis_hold_little_more_than_identifiers_and_pages_read_none(stand: Any) -> None:
    number = 20_000
    with LargeStudy(4, number // 4) as orthanc:
        platform = stand(orthanc, [{"jobName": "whole"}, {"jobName": "each", "level": "series"}])
        with platform:
            platform.announce(orthanc.study_id)
            platform.wait_for(orthanc.study_id, "running", 60)
            order = HandWorker(platform).start()
            size = platform.transport.redis.strlen(f"dcmproc:plan:{order.planId}")
            assert size < TEXT_AN_INSTANCE * number + 10_000
            read: list[str] = []
            engine = platform.ledger._engine
            event.listen(engine, "before_cursor_execute", lambda *call: read.append(call[2]))
            [plan] = platform.study(orthanc.study_id)["plans"]
            platform.ledger.studies()
    assert (len(plan["seriesIds"]), plan["numberOfInstances"]) == (4, number)
    assert not [statement for statement in read if "plans.instances" in statement]
    with platform.ledger.read() as db:
        row = db.exec_driver_sql("SELECT length(instances), length(headers) FROM plans").one()
    assert sum(row) < TEXT_AN_INSTANCE * number + 10_000


# -- too large


def with_little_memory(connection: Connection, task: PlanningTask) -> None:
    """As on a small machine: a child has four million bytes beside what it has now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(status["VmData"].split()[0]) * 1024
    process.memory_here = lambda: (now + 4_000_000) * planning._SHARE
    planning._child(connection, task)


def is_killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("child", "why"),
    [(with_little_memory, planning._TOO_LARGE), (is_killed, "out of memory, perhaps")],
    ids=["memory", "killed"],
)
def test_a_study_too_large_for_the_machine_is_unplanned_with_why_and_another_is_planned(
    stand: Any, monkeypatch: pytest.MonkeyPatch, child: Any, why: str
) -> None:
    monkeypatch.setattr(planner, "_BACKOFF", (0.1,) * 5)
    with LargeStudy(1, 60_000) as orthanc:
        platform = stand(orthanc, [{"jobName": "a"}])
        with monkeypatch.context() as patch, platform:
            patch.setattr(planning, "_child", child)
            platform.announce(orthanc.study_id)
            found = platform.wait_for(orthanc.study_id, "unplanned", 90)
            assert found["reason"].startswith(f"planning failed ({planner.PLANNING_FAILURES} of ")
            assert why in found["reason"]
            asked = orthanc.asked().get("/studies/*/instances?expand", 0)
            assert asked in (0, planner.PLANNING_FAILURES), "it is asked for so often, and no more"
            patch.undo()
            platform.announce(orthanc.study_id)  # the machine has more memory now
            platform.wait_for(orthanc.study_id, "running", 60)


def test_a_planning_child_goes_before_others_and_has_half_of_the_memory() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=tell_limits, args=(theirs,))
    child.start()
    assert ours.poll(60)
    score, soft = ours.recv()
    child.join(10)
    assert (score, soft) == (1000, process.memory_here() // 2)


def tell_limits(answer: Connection) -> None:
    def tell(*_: object) -> tuple[int, int]:
        return int(Path("/proc/self/oom_score_adj").read_text()), resource.getrlimit(resource.RLIMIT_DATA)[0]

    planning.plan_study = tell  # type: ignore[assignment]
    planning._child(answer, None)  # type: ignore[arg-type]


def test_a_callback_has_the_memory_that_the_machine_gives(tmp_path: Path, stand: Any) -> None:
    """A library may set aside more than it uses; and a callback is killed first, too."""
    callback = """
        import pathlib, resource
        def applies(**kwargs):
            score = int(pathlib.Path("/proc/self/oom_score_adj").read_text())
            return True, {"limit": resource.getrlimit(resource.RLIMIT_DATA)[0], "score": score}
    """
    with LargeStudy() as orthanc:
        platform = stand(orthanc, [{"jobName": "a"}])
        platform.install("svc", [{"jobName": "a"}], callback, tmp_path / "asks")
        with platform:
            platform.announce(orthanc.study_id)
            platform.wait_for(orthanc.study_id, "running", 60)
        injected = platform.jobs(orthanc.study_id)["a"]["injected"]
    assert injected == {"limit": resource.getrlimit(resource.RLIMIT_DATA)[1], "score": 1000}


# -- far behind


def test_an_orthanc_a_hundred_thousand_changes_ahead_is_compared_page_by_page_and_not_read(sqlite_url: str) -> None:
    """However many there are: a few calls about changes, one for each page of studies, and each study is noticed."""
    number = 3_000
    ledger = Ledger(sqlite_url)
    ledger.migrate()
    with ledger.write() as db:
        lease = leases.acquire(db, leases.LEADER, "test", leases.Watch(), now=time.time(), seconds=3600)
        studies.set_fact(db, "orthanc", {"cursor": 10, "mark": "", "known": 0, "metAt": 0.0})
    assert lease is not None
    with LargeStudy(studies=number, changes=100_000) as orthanc:
        changes = Changes(ledger, Orthanc(orthanc.url, "dcmproc", lambda: ""), 60, lease, lambda: None)
        assert changes.follow() == 0
        found = 0
        while changes._comparison.due:
            found += changes._comparison.step()
        asked = orthanc.asked()
        assert changes.follow() == 0, "the changes are followed from where they ended"
    assert found == number
    assert asked["/studies?expand"] <= number / 900 + 3
    assert sum(asked.values()) - asked["/studies?expand"] <= 8
    with ledger.read() as db:
        assert studies.fact(db, "orthanc")["cursor"] == 100_000
    assert ledger.tally().events == number

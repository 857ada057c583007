"""Copies of studies: which go when there is too little room, and that none goes which somebody uses."""

import fcntl
import multiprocessing
import os
import time
from collections.abc import Collection, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor.errors import DataFullError, PermanentError, TransportUnavailableError
from tests.unit.worker.test_studies import StandIn, orthanc_id, plan
from tests.waiting import wait_until
from worker import copies, studies
from worker.copies import IDLE, Copies, Limits, Standing, choose, lock, using

A, B, C, NEW = (orthanc_id(name) for name in ("study a", "study b", "study c", "study new"))
NOW = 1_000_000.0

standing = st.builds(
    Standing,
    study_id=st.integers(0, 10**6).map(str),
    size=st.integers(0, 100),
    used_at=st.floats(NOW - 3 * IDLE, NOW),
    needed=st.booleans(),
)


@given(found=st.lists(standing, max_size=30, unique_by=lambda copy: copy.study_id), short=st.integers(-10, 1500))
def test_just_as_many_go_as_it_takes_longest_unused_first(found: list[Standing], short: int) -> None:
    going = choose(found, short, NOW)
    stay = [copy for copy in found if copy not in going]
    may_go = [copy for copy in found if not copy.needed or NOW - copy.used_at >= IDLE]
    assert set(going) <= set(may_go)
    if not going:
        assert short <= 0 or sum(copy.size for copy in may_go) < short
        return
    assert sum(copy.size for copy in going) >= short > sum(copy.size for copy in going[:-1])
    for gone in going:
        for kept in set(stay) & set(may_go):
            assert (gone.needed, gone.used_at) <= (kept.needed, kept.used_at)


def test_what_a_plan_needs_goes_last_and_only_when_nobody_used_it_for_an_hour() -> None:
    """Never would have two hosts wait for each other for ever."""
    fresh = Standing(A, 10, NOW - 60, needed=True)
    idle = Standing(B, 10, NOW - IDLE - 1, needed=True)
    done = Standing(C, 10, NOW - 1, needed=False)
    assert choose([fresh, idle, done], 10, NOW) == [done]
    assert choose([fresh, idle, done], 15, NOW) == [done, idle]
    assert choose([fresh, idle, done], 25, NOW) == []


class Host:
    """DATA with copies of ten bytes each, the older the earlier they are made."""

    def __init__(self, data: Path, **limits: Any) -> None:
        self.data = data
        self.limits = Limits(**limits)
        self.unfinished: set[str] = set()
        self.beside = data / "dicom" / ".copies"
        self.beside.mkdir(parents=True)
        self._made = 0

    def copy(self, study_id: str, size: int = 10) -> Path:
        folder = self.data / "dicom" / study_id
        (folder / "series").mkdir(parents=True)
        (folder / "series" / "1.dcm").write_bytes(b"x" * size)
        for kind in ("json", "lock"):
            (self.beside / f"{study_id}.{kind}").touch()
        (self.beside / f"{study_id}.use").write_text(f'{{"plan_id": "{study_id}-1", "size": {size}, "coming": 0}}')
        self._made += 1
        os.utime(self.beside / f"{study_id}.use", (self._made, time.time() - 100 + self._made))
        return folder

    def unended(self, plan_ids: Collection[str]) -> Set[str]:
        return self.unfinished & set(plan_ids)

    def fetch(self, coming: int, study_id: str = NEW) -> None:
        room = Copies(self.data, self.limits, self.unended).room(study_id, f"{study_id}-1", coming, changed=False)
        (self.data / "dicom" / study_id).mkdir(exist_ok=True)
        with room:
            (self.data / "dicom" / study_id / "1.dcm").write_bytes(b"x" * coming)

    def there(self) -> set[str]:
        return {path.name for path in (self.data / "dicom").iterdir() if not path.name.startswith(".")}


def test_the_longest_unused_copy_goes_with_all_that_was_kept_of_it(tmp_path: Path) -> None:
    host = Host(tmp_path, budget=30)
    for study_id in (B, A, C):
        host.copy(study_id)
    host.fetch(10)
    assert host.there() == {A, C, NEW}
    assert not [path.name for path in host.beside.rglob("*") if path.name.startswith(B)]


def test_a_copy_that_an_attempt_uses_stays_and_the_next_goes(tmp_path: Path) -> None:
    """By whichever process; the lock counts that the kernel frees when it dies."""
    host = Host(tmp_path, budget=30)
    for study_id in (B, A, C):
        host.copy(study_id)
    with using(tmp_path, B):
        os.utime(host.beside / f"{B}.use", (0, 0))
        host.fetch(10)
        assert host.there() == {B, C, NEW}
        with pytest.raises(DataFullError, match="study"):
            host.fetch(25, orthanc_id("large"))


def _use_until_killed(data: Path, ready: Any) -> None:
    with using(data, B):
        ready.set()
        time.sleep(60)


def test_a_killed_attempt_uses_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, budget=10)
    host.copy(B)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_use_until_killed, args=(tmp_path, ready))
    process.start()
    assert ready.wait(20)
    with pytest.raises(DataFullError):
        host.fetch(10)
    process.kill()
    process.join(20)
    host.fetch(10)
    assert host.there() == {NEW}


def test_a_copy_that_is_being_fetched_stays_and_what_is_to_come_counts(tmp_path: Path) -> None:
    host = Host(tmp_path, budget=100)
    host.copy(A)
    (host.beside / f"{A}.use").write_text(f'{{"plan_id": "{A}-1", "size": 70, "coming": 60}}')
    held = lock(host.beside / f"{A}.lock")
    assert held is not None
    with pytest.raises(DataFullError, match="70 of the 100 of DATA_BUDGET are taken"):
        host.fetch(31)
    host.fetch(30)
    os.close(held)  # the fetch died: it counts with what is there of it
    host.fetch(60, C)
    assert host.there() == {A, NEW, C}


def test_what_plans_need_stays_and_so_does_everything_while_nobody_knows(tmp_path: Path) -> None:
    """Redis away: no plan can be said to have ended."""
    host = Host(tmp_path, budget=10)
    host.copy(A)
    host.unfinished = {f"{A}-1"}
    with pytest.raises(DataFullError, match="10 of the 10 of DATA_BUDGET are taken by studies that jobs still need"):
        host.fetch(10)
    host.unfinished = set()

    def away(_: Collection[str]) -> Set[str]:
        raise TransportUnavailableError("Redis does not answer")

    with pytest.raises(DataFullError), Copies(tmp_path, host.limits, away).room(NEW, "p", 10, changed=False):
        pass
    assert host.there() == {A, NEW}
    host.fetch(10)
    assert host.there() == {NEW}


def test_nothing_goes_where_all_that_may_would_not_make_enough_room(tmp_path: Path) -> None:
    host = Host(tmp_path, budget=25)
    host.copy(A)
    host.copy(B)
    host.unfinished = {f"{B}-1"}
    with pytest.raises(DataFullError, match="it takes 26 bytes, more than DATA_BUDGET"):
        host.fetch(26)
    with pytest.raises(DataFullError):
        host.fetch(20)
    assert host.there() == {A, B, NEW}


def test_what_must_stay_free_on_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, min_free=1000)
    host.copy(A)
    monkeypatch.setattr(copies.disk, "free", lambda _: 1015 - (10 if (tmp_path / "dicom" / A).exists() else 0))
    host.fetch(5)
    assert host.there() == {A, NEW}
    host.fetch(15, B)
    assert host.there() == {NEW, B}
    with pytest.raises(DataFullError, match=r"1015 bytes are free, of which 1000 are to stay so \(MIN_FREE\)"):
        host.fetch(5000, C)


def test_a_copy_without_a_note_is_measured_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    """As an older version, or a crash, left it."""
    host = Host(tmp_path, budget=20)
    host.copy(A, size=15)
    (host.beside / f"{A}.use").unlink()
    os.utime(tmp_path / "dicom" / A, (1000, 1000))
    (tmp_path / "dicom" / "of somebody else").mkdir()
    host.fetch(1, B)
    noted = copies._Note.load(host.beside / f"{A}.use")  # measured once
    assert noted is not None
    assert (noted.size, (host.beside / f"{A}.use").stat().st_mtime) == (15, 1000)
    host.fetch(10)
    assert host.there() == {B, NEW, "of somebody else"}


def test_a_copy_whose_deletion_was_interrupted_is_deleted_by_the_next_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It no longer looks like a copy; a folder that cannot be deleted is told and holds up nobody."""
    host = Host(tmp_path, budget=20)
    folder = host.copy(A)
    (folder / "series").chmod(0o500)
    host.copy(B)
    with monkeypatch.context() as patch:
        patch.setattr(copies.service_tree, "remove", lambda _: (_ for _ in ()).throw(OSError(5, "input/output error")))
        host.fetch(10)
    assert host.there() == {B, NEW}
    assert len(list((host.beside / "gone").iterdir())) == 1
    host.fetch(1, C)
    assert list((host.beside / "gone").iterdir()) == []


def test_that_there_is_no_room_is_told_once_and_that_there_is_again_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host(tmp_path, budget=20)
    host.copy(A)
    host.unfinished = {f"{A}-1"}
    for _ in range(3):
        with pytest.raises(DataFullError):
            host.fetch(15)
    host.fetch(1, B)  # less than there was no room for: it says nothing about that
    host.unfinished = set()
    for study_id in (NEW, C):
        host.fetch(15, study_id)
    said = capsys.readouterr().out
    assert said.count("studies are not fetched until there is room") == 1
    assert said.count("there is room for studies again") == 1


def test_who_waits_for_a_file_that_is_then_deleted_holds_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first = lock(path)
    assert first is not None
    assert lock(path, wait=False) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock, path)
        wait_until(lambda: _waits_for(path), 10, "the other waits")
        path.unlink()
        os.close(first)
        second = waiting.result(10)
    assert second is not None
    assert os.path.samestat(os.fstat(second), path.stat())
    os.close(second)


def _waits_for(path: Path) -> bool:
    """proc(5), /proc/locks: `->` marks a lock that is waited for."""
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_using_a_copy_notes_when_and_refuses_what_is_no_study(tmp_path: Path) -> None:
    use = tmp_path / "dicom" / ".copies" / f"{A}.use"
    with using(tmp_path, A) as held, using(tmp_path, A):
        os.utime(held, (0, 0))
        with pytest.raises(BlockingIOError):
            fcntl.flock(os.open(use, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert time.time() - use.stat().st_mtime < 10
    with pytest.raises(PermanentError), using(tmp_path, "../x"):
        pass


def test_a_fetch_says_how_much_the_copy_takes(tmp_path: Path) -> None:
    """Series by series, and less once a file is gone."""
    orthanc: Any = StandIn()
    order = plan()
    series = list(order.instances)
    noted = []
    for series_id in series:
        studies.fetch(orthanc, tmp_path, order, series_id)
        noted.append(copies._Note.load(tmp_path / "dicom" / ".copies" / f"{order.studyId}.use"))
    sizes = [len(orthanc.contents[i]) * len(order.instances[s]) for s in series for i in order.instances[s][:1]]
    assert [note and (note.plan_id, note.size, note.coming) for note in noted] == [
        ("plan-1", sizes[0], 0), ("plan-1", sum(sizes), 0),
    ]  # fmt: skip
    less = replace(order, planId="plan-2", instances={series[0]: order.instances[series[0]]})
    studies.fetch(orthanc, tmp_path, less)
    note = copies._Note.load(tmp_path / "dicom" / ".copies" / f"{order.studyId}.use")
    assert note is not None
    assert (note.plan_id, note.size) == ("plan-2", sizes[0])


def test_a_copy_that_went_is_fetched_again(tmp_path: Path) -> None:
    orthanc: Any = StandIn()
    order = plan()
    folder = studies.fetch(orthanc, tmp_path, order)
    size = sum(len(orthanc.contents[i]) for ids in order.instances.values() for i in ids)
    host = Host.__new__(Host)
    host.data, host.limits, host.unfinished = tmp_path, Limits(budget=size), set()
    host.fetch(10)
    assert not folder.exists()
    again = studies.fetch(orthanc, tmp_path, order, limits=host.limits, unfinished=host.unended)
    assert len(list(again.rglob("*.dcm"))) == 3
    assert host.there() == {order.studyId}

"""The spool: whole files or none, and who holds what."""

import fcntl
import itertools
import os
import resource
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.outcome import Outcome
from dcm_processor.transport import Report
from dcm_processor.vocabulary import ExitReason
from tests.killing import killed_at
from worker import spool
from worker.spool import (
    BLANK,
    AttemptBusyError,
    AttemptEndedError,
    AttemptFolder,
    SpoolError,
    attempts,
    clear_blanks,
)

REPORT = Report("started", "job-1", "claim", "worker", "host")


def test_what_is_kept_can_be_sent_by_somebody_else(tmp_path: Path) -> None:
    folder = AttemptFolder.create(tmp_path / "spool", REPORT)
    assert folder.outcome() is None
    assert folder.ended_at() is None
    folder.keep(REPORT.ended(Outcome(ExitReason.DONE, details={"exitStatus": 0}).to_json()))
    later = AttemptFolder(tmp_path / "spool", "job-1")
    assert later.claim() == REPORT
    report = later.outcome()
    assert report is not None
    assert (report.kind, report.claim) == ("outcome", "claim")
    assert Outcome.from_json(report.outcome) == Outcome(ExitReason.DONE, details={"exitStatus": 0})
    assert later.ended_at() is not None
    assert folder.path.stat().st_mode & 0o777 == 0o700  # logs may hold patients' data


def test_room_made_beforehand_is_no_outcome_until_it_is_written(tmp_path: Path) -> None:
    folder = AttemptFolder.create(tmp_path, REPORT)
    folder.prepare()
    assert folder.outcome() is None
    assert folder.ended_at() is None
    long = Outcome(ExitReason.EXCEPTION, traceback="x" * 100_000)  # more than there is room for
    folder.keep(REPORT.ended(long.to_json()))
    report = folder.outcome()
    assert report is not None
    assert Outcome.from_json(report.outcome) == long
    assert folder.ended_at() is not None
    os.close(folder.lock)


def test_an_outcome_that_a_full_disk_does_not_take_is_none(tmp_path: Path) -> None:
    """Whoever comes later finds no half of it, and so lets the folder go in the end."""
    folder = AttemptFolder.create(tmp_path, REPORT)
    folder.prepare()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # the rest does not fit, as on a full disk
    try:
        with pytest.raises(SpoolError, match="takes nothing"):
            folder.keep(REPORT.ended(Outcome(ExitReason.EXCEPTION, traceback="x" * 100_000).to_json()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert (folder.outcome(), folder.ended_at()) == (None, None)
    assert not list(folder.path.glob("*.new"))
    folder.keep(REPORT.ended(Outcome(ExitReason.DONE).to_json()))  # a shorter one has its room
    assert folder.ended_at() is not None
    os.close(folder.lock)


def test_it_lives_as_long_as_somebody_holds_its_lock(tmp_path: Path) -> None:
    folder = AttemptFolder.create(tmp_path, REPORT)
    assert folder.alive()
    with pytest.raises(AttemptBusyError):
        AttemptFolder.create(tmp_path, REPORT)
    copy = os.dup(folder.lock)  # the reaper's
    os.close(folder.lock)
    assert folder.alive()
    os.close(copy)
    assert not folder.alive()


def test_nobody_removes_a_folder_under_a_horse_that_begins_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an attempt that was given up while its horse stood still, and that goes on just as the folder is removed."""
    flock, opened = fcntl.flock, os.open
    meanwhile = [lambda: AttemptFolder(tmp_path, "job-1").remove()]

    def stopped_before(*parts: Any) -> None:
        if meanwhile:
            meanwhile.pop()()
        flock(*parts)

    monkeypatch.setattr(fcntl, "flock", stopped_before)
    folder = AttemptFolder.create(tmp_path, REPORT)
    monkeypatch.undo()
    assert AttemptFolder(tmp_path, "job-1").alive()
    assert not AttemptFolder(tmp_path, "job-1").remove()
    os.close(folder.lock)

    def removed_before(path: Any, *parts: Any, **named: Any) -> int:
        if meanwhile and Path(path).name == "lock":
            meanwhile.pop()()
        return opened(path, *parts, **named)

    meanwhile.append(lambda: shutil.rmtree(tmp_path / "job-1"))
    monkeypatch.setattr(os, "open", removed_before)
    folder = AttemptFolder.create(tmp_path, REPORT)
    monkeypatch.undo()
    assert AttemptFolder(tmp_path, "job-1").alive()
    os.close(folder.lock)


def test_who_only_looks_whether_somebody_runs_it_keeps_nobody_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, looking = fcntl.flock, [1, 2, 3]

    def shared_just_now(*parts: Any) -> None:
        if looking:
            looking.pop()
            raise BlockingIOError
        flock(*parts)

    monkeypatch.setattr(fcntl, "flock", shared_just_now)
    os.close(AttemptFolder.create(tmp_path, REPORT).lock)


def test_an_attempt_that_has_run_does_not_run_again(tmp_path: Path) -> None:
    """Redis emptied before the outcome was taken: the same attempt comes again, and what is known is sent."""
    first = AttemptFolder.create(tmp_path, REPORT)
    first.keep(REPORT.ended(Outcome(ExitReason.DONE).to_json()))
    os.close(first.lock)
    with pytest.raises(AttemptEndedError) as caught:
        AttemptFolder.create(tmp_path, REPORT)
    assert caught.value.report == first.outcome()
    assert not first.alive()


def test_an_attempt_whose_horse_died_may_run_again(tmp_path: Path) -> None:
    """Redis emptied before anybody knew that it had started: nothing of the first run is met but its log."""
    first = AttemptFolder.create(tmp_path, REPORT)
    first.log.write_text("first\n")
    first.prepare()
    tmpdir = first.tmpdir()
    (tmpdir / "old").write_text("x")
    os.close(first.lock)
    second = AttemptFolder.create(tmp_path, REPORT)
    assert second.log.read_text() == "first\n"
    assert not tmpdir.is_symlink()
    assert not list(second.tmpdir().iterdir())
    assert not second.remove()  # somebody runs it
    os.close(second.lock)
    assert second.remove()
    assert not second.path.exists()


def test_an_attempt_whose_claimant_died_is_lost_and_does_not_begin_twice(tmp_path: Path) -> None:
    """Redis emptied before anybody knew that it had started: the second claimant says what became of the first."""
    first = AttemptFolder.create(tmp_path, REPORT)
    first.prepare()
    os.close(first.lock)
    second = Report("started", "job-1", "another", "another worker", "host")
    with pytest.raises(AttemptEndedError) as caught:
        AttemptFolder.create(tmp_path, second)
    report = caught.value.report
    assert (report.kind, report.claim, report.worker) == ("outcome", "another", "another worker")
    assert Outcome.from_json(report.outcome).exitReason is ExitReason.LOST
    assert first.outcome() == report
    assert not first.alive()


def test_a_tmpdir_has_a_short_name_whatever_the_attempts(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    folder = AttemptFolder.create(deep, REPORT)
    tmpdir = folder.tmpdir()
    assert tmpdir.is_dir()
    assert tmpdir.resolve() == folder.scratch / "tmp"
    folder.clear_scratch()
    assert not tmpdir.is_symlink()
    assert not folder.scratch.exists()
    os.close(folder.lock)


def test_clearing_removes_no_link_but_its_own(tmp_path: Path) -> None:
    """The name is read from a file that a job could have written."""
    folder = AttemptFolder.create(tmp_path / "spool", REPORT)
    other = tmp_path / "other"
    other.symlink_to(tmp_path)
    (folder.path / "tmpdir").write_text(str(other))
    folder.clear_scratch()
    assert other.is_symlink()
    os.close(folder.lock)


def test_a_disk_that_takes_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(SpoolError, match="takes nothing: "):
        AttemptFolder.create(tmp_path / "spool", REPORT)


def test_half_a_file_is_none(tmp_path: Path) -> None:
    folder = AttemptFolder.create(tmp_path, REPORT)
    (folder.path / "outcome.json").write_text('{"kind": "outc')
    assert folder.outcome() is None
    assert folder.ended_at() is None
    (folder.path / "outcome.json").write_text('{"kind": "outcome", "unknown": 1}')
    assert folder.outcome() is None
    assert folder.ended_at() is None
    os.close(folder.lock)


def test_a_blank_folder_becomes_an_attempts(tmp_path: Path) -> None:
    blank = AttemptFolder.blank(tmp_path)
    assert blank is not None
    assert attempts(tmp_path) == set()
    assert blank.outcome() is None
    folder = AttemptFolder.create(tmp_path, REPORT, blank)
    assert not any((tmp_path / BLANK).iterdir())
    assert attempts(tmp_path) == {"job-1"}
    assert (folder.claim(), folder.outcome(), folder.alive()) == (REPORT, None, True)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.path.iterdir()} == {
        "lock", "report.json", "log", "outcome.json", "scratch", "notes", "tmpdir"
    }  # fmt: skip
    folder.prepare()
    folder.keep(REPORT.ended(Outcome(ExitReason.DONE).to_json()))
    assert folder.outcome() is not None
    os.close(folder.lock)
    assert not folder.alive()
    assert folder.remove()
    assert attempts(tmp_path) == set()


def test_a_blank_folder_is_not_taken_where_the_attempt_has_one(tmp_path: Path) -> None:
    first = AttemptFolder.create(tmp_path, REPORT)
    first.keep(REPORT.ended(Outcome(ExitReason.DONE).to_json()))
    blank = AttemptFolder.blank(tmp_path)
    assert blank is not None
    with pytest.raises(AttemptBusyError):
        AttemptFolder.create(tmp_path, REPORT, blank)
    os.close(first.lock)
    with pytest.raises(AttemptEndedError):
        AttemptFolder.create(tmp_path, REPORT, blank)
    os.close(blank.lock)


def test_blank_folders_that_nobody_holds_go(tmp_path: Path) -> None:
    left, held = AttemptFolder.blank(tmp_path), AttemptFolder.blank(tmp_path)
    assert left is not None
    assert held is not None
    os.close(left.lock)
    new = AttemptFolder.blank(tmp_path)
    assert new is not None
    assert {path.name for path in (tmp_path / BLANK).iterdir()} == {held.path.name, new.path.name}
    for folder in (held, new):
        os.close(folder.lock)


def test_a_file_among_the_blank_folders_is_in_nobodys_way(tmp_path: Path) -> None:
    """Workers of an earlier version, which an update ends one after the other, lock all there is in the spool."""
    (tmp_path / BLANK).mkdir()
    (tmp_path / BLANK / "shipping").touch()
    blank = AttemptFolder.blank(tmp_path)
    assert blank is not None
    os.close(blank.lock)


def test_there_is_no_blank_folder_where_the_disk_takes_none(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    assert AttemptFolder.blank(tmp_path / "spool") is None


def test_wherever_its_horse_dies_on_the_way_an_attempt_runs_later_or_is_lost_and_no_folder_stays(
    tmp_path: Path,
) -> None:
    for step in itertools.count(1):
        place = tmp_path / str(step)
        blank = AttemptFolder.blank(place)
        assert blank is not None
        dies = killed_at(step, partial(AttemptFolder.create, place, REPORT, blank), spool)
        os.close(blank.lock)  # as its process is gone
        clear_blanks(place)
        assert not any((place / BLANK).iterdir())
        begun = AttemptFolder(place, "job-1").claim() is not None
        with pytest.raises(AttemptEndedError) if begun else nullcontext() as ended:
            os.close(AttemptFolder.create(place, replace(REPORT, claim="another")).lock)
        if ended is not None:
            assert Outcome.from_json(ended.value.report.outcome).exitReason is ExitReason.LOST
        if not dies:
            assert begun
            break
    assert step > 5

"""An accepted attempt's output becomes the job's results: whole, once, and again after an interruption."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.archives.archive import OUTPUT, pack, survey
from dcm_processor.errors import ArchiveCutError, ArchiveError, NotKnownError
from dcm_processor.ledger import Ledger
from scheduler import results
from scheduler.results import Results

ATTEMPT, FOLDER = "job-2", "results/study/job"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "attempts" / ATTEMPT
    made.mkdir(parents=True)
    (made / "new.txt").write_text("new")
    return tmp_path


def test_the_output_becomes_the_results_and_the_old_ones_stand_aside(data: Path) -> None:
    place = data / FOLDER
    place.mkdir(parents=True)
    (place / "old.txt").write_text("old")
    Results(data).publish(ATTEMPT, FOLDER)
    assert [path.name for path in place.iterdir()] == ["new.txt"]
    assert [path.name for path in (data / "attempts" / f"{ATTEMPT}.replaced").iterdir()] == ["old.txt"]
    assert not (data / "attempts" / ATTEMPT).exists()


def test_publishing_twice_is_harmless(data: Path) -> None:
    for _ in range(2):
        Results(data).publish(ATTEMPT, FOLDER)
    assert (data / FOLDER / "new.txt").read_text() == "new"


def test_a_crash_between_the_two_renames_is_mended_by_publishing_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = data / FOLDER
    place.mkdir(parents=True)
    (place / "old.txt").write_text("old")
    rename, done = Path.rename, []

    def crash_at_the_second(self: Path, target: Path) -> Path:
        if done:
            raise OSError
        done.append(rename(self, target))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash_at_the_second)
        Results(data).publish(ATTEMPT, FOLDER)
    assert not place.exists()
    Results(data).publish(ATTEMPT, FOLDER)
    assert [path.name for path in place.iterdir()] == ["new.txt"]


def test_a_job_that_wrote_nothing_has_an_empty_folder(tmp_path: Path) -> None:
    Results(tmp_path).publish(ATTEMPT, FOLDER)
    assert list((tmp_path / FOLDER).iterdir()) == []


@pytest.mark.parametrize("where", [FOLDER, "results/study", "results"])
@pytest.mark.parametrize("what", ["file", "symlink to nothing", "pipe"])
def test_whatever_stands_in_the_place_stands_aside(data: Path, where: str, what: str) -> None:
    place = data / where
    place.parent.mkdir(parents=True, exist_ok=True)
    {"file": place.touch, "symlink to nothing": lambda: place.symlink_to("nowhere"), "pipe": lambda: os.mkfifo(place)}[
        what
    ]()
    results = Results(data)
    results.publish(ATTEMPT, FOLDER)
    assert (data / FOLDER / "new.txt").read_text() == "new"
    assert os.path.lexists(data / "attempts" / f"{ATTEMPT}.replaced")
    assert not results.lacks({"job": FOLDER})


def test_a_symlink_to_a_folder_is_replaced_and_not_followed(data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (data / FOLDER).parent.mkdir(parents=True)
    (data / FOLDER).symlink_to(elsewhere)
    Results(data).publish(ATTEMPT, FOLDER)
    assert list(elsewhere.iterdir()) == []
    assert not (data / FOLDER).is_symlink()


def test_what_cannot_be_published_is_known_until_it_can(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point, or another file system: the system's word is final, for these results alone."""

    def refuse(*_: object) -> Path:
        raise OSError(18, "Invalid cross-device link")

    results = Results(data)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        results.publish(ATTEMPT, FOLDER)
    assert results.lacks({"other": "results/study/other", "job": FOLDER})
    assert results.lacks({"job": {"s1": "results/study/job/s1", "s2": FOLDER}})
    assert not results.lacks({"other": "results/study/other"})
    results.publish(ATTEMPT, FOLDER)
    assert not results.lacks({"job": FOLDER})


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: another user is needed")
def test_folders_that_a_job_left_unwritable_are_published_and_replaced(tmp_path: Path) -> None:
    """Renaming a folder into another one takes the right to write to it; root has it anyhow."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:-2]:  # up to /tmp
        parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            for attempt in ("job-1", "job-2", "job-1"):
                deep = tmp_path / "attempts" / attempt / "deep"
                deep.mkdir(parents=True)
                for folder in (deep, deep.parent):
                    folder.chmod(0o500)
                Results(tmp_path).publish(attempt, FOLDER)
            os._exit(0 if (tmp_path / FOLDER / "deep").is_dir() else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def sent(folder: Path, text: str) -> Iterator[bytes]:
    folder.mkdir()
    (folder / "new.txt").write_text(text)
    return pack(survey({"": folder}, OUTPUT))


def wanted() -> None:
    return


def test_output_that_came_from_another_host_is_published_like_any_other(tmp_path: Path) -> None:
    Results(tmp_path).receive(ATTEMPT, sent(tmp_path / "sent", "elsewhere"), wanted)
    Results(tmp_path).publish(ATTEMPT, FOLDER)
    assert (tmp_path / FOLDER / "new.txt").read_text() == "elsewhere"


def test_output_that_comes_again_takes_the_place_of_what_came(data: Path) -> None:
    Results(data).receive(ATTEMPT, sent(data / "sent", "again"), wanted)
    assert (data / "attempts" / ATTEMPT / "new.txt").read_text() == "again"
    assert [path.name for path in (data / "attempts").iterdir()] == [ATTEMPT]


def test_what_came_before_stays_until_the_new_one_is_whole(data: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield next(sent(data / "sent", "half"))[:1024]

    for blocks, error in ((breaking(), ArchiveCutError), (iter([b"x" * 2048]), ArchiveError)):
        with pytest.raises(error):
            Results(data).receive(ATTEMPT, blocks, wanted)
        assert (data / "attempts" / ATTEMPT / "new.txt").read_text() == "new"
        assert [path.name for path in (data / "attempts").iterdir()] == [ATTEMPT]


def test_output_that_nobody_wants_any_more_when_it_is_here_goes(data: Path) -> None:
    def unwanted() -> None:
        raise NotKnownError("gone")

    with pytest.raises(NotKnownError):
        Results(data).receive(ATTEMPT, sent(data / "sent", "late"), unwanted)
    assert (data / "attempts" / ATTEMPT / "new.txt").read_text() == "new"


def test_repair_never_publishes_what_is_arriving_and_clears_it_when_it_is_old(
    data: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(sqlite_url)
    ledger.migrate()
    arriving = data / "attempts" / "job-3.part"
    (arriving / "deep").mkdir(parents=True)
    Results(data).repair(ledger)
    assert arriving.exists()
    monkeypatch.setattr(results, "STALE_SECONDS", -1.0)
    Results(data).repair(ledger)
    assert [path.name for path in (data / "attempts").iterdir()] == [ATTEMPT]
    ledger.close()


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_takes_results_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(fcntl, "flock", refuse)
    made = tmp_path / "attempts" / "job-1"
    made.mkdir(parents=True)
    (made / "text").write_text("done")
    assert Results(tmp_path).publish("job-1", "results/study/job")
    assert (tmp_path / "results" / "study" / "job" / "text").read_text() == "done"

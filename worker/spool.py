"""What a worker keeps of its attempts on its own disk until the scheduler has it: logs and outcomes.

Each attempt has a folder `<spool>/<attemptId>`:

- `lock` is held (flock) by the horse and its reaper as long as one of them lives,
- `report.json` says whose attempt it is: the claim,
- `log` is what the job printed,
- `outcome.json` is the report of its end; blank until then, since it is made while the job runs: overwriting what is
  on the disk already is what the next job in the plan waits for; one for which there is no room replaces it as a whole,
- `scratch` is the job's working directory, with its TMPDIR, and goes with the job,
- `notes` is where it writes how far it is and what it found (`worker.notes`), and goes with the job,
- `tmpdir` holds the short names under which the job knows its TMPDIR,
- `shipping` is held (flock) by the one outbox that cares for the folder.

A folder takes time to make; `<spool>/.blank` holds those that were made beforehand, locked by who did, and become an
attempt's by their name.
"""

import fcntl
import json
import os
import secrets
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from dcm_processor import service_tree
from dcm_processor.compact_json import dumps
from dcm_processor.errors import OutageError, TransientError
from dcm_processor.outcome import Outcome
from dcm_processor.transport import Report
from dcm_processor.vocabulary import ExitReason

BLANK = ".blank"
_ROOM = 16 * 1024
_PATIENCE = 1.0


class SpoolError(OutageError):
    """The spool cannot take what is to be kept; the message says why."""


class AttemptBusyError(TransientError):
    """Another process of this host still runs the attempt."""


class AttemptEndedError(TransientError):
    """The attempt has run here; `report`, its outcome, waits to be acknowledged."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"attempt {report.attemptId} has already run on this host")
        self.report = report


class AttemptFolder:
    """One attempt's folder of the spool."""

    def __init__(self, spool: Path, attempt_id: str) -> None:
        self.attempt_id = attempt_id
        self.path = spool / attempt_id
        self.log = self.path / "log"
        self.scratch = self.path / "scratch"
        self.notes = self.path / "notes"
        self._report = self.path / "report.json"
        self._outcome = self.path / "outcome.json"
        self._tmpdir = self.path / "tmpdir"
        self._lock: int | None = None
        self._prepared: int | None = None

    @classmethod
    def blank(cls, spool: Path) -> Self | None:
        """A locked folder for an attempt that is not known yet; None where the disk takes nothing."""
        self = cls(spool / BLANK, secrets.token_hex(8))
        try:
            clear_blanks(spool)
            self._lock = self._acquire()
            self._lay_out()
        except OSError:
            return None
        self.prepare()
        return self

    @classmethod
    def create(cls, spool: Path, report: Report, blank: "AttemptFolder | None" = None) -> Self:
        """A locked folder for an attempt that was claimed: the blank one, if there is one and the attempt has none yet.

        Redis emptied, an attempt may be claimed twice. Raises AttemptBusyError where somebody still runs it,
        AttemptEndedError where somebody has; one whose claimant died without a word is lost, and so has ended too: its
        function may have begun, and no attempt begins twice. Raises SpoolError where the disk takes nothing.
        """
        self = cls(spool, report.attemptId)
        try:
            if not self._take_over(blank):
                self._begin_in_place(report)
            self._report.write_text(json.dumps(asdict(report)), encoding="utf-8")
        except BlockingIOError:
            raise AttemptBusyError(f"attempt {report.attemptId} runs in another process of this host") from None
        except OSError as error:
            raise SpoolError(f"the spool {spool} takes nothing: {error.strerror}") from error
        return self

    def _take_over(self, blank: "AttemptFolder | None") -> bool:
        """Give a blank folder this attempt's name; False where it has a folder that is not empty."""
        if blank is None:
            return False
        try:
            blank.path.rename(self.path)
        except OSError:
            return False
        self._lock, self._prepared = blank._lock, blank._prepared
        return True

    def _begin_in_place(self, report: Report) -> None:
        self._lock = self._acquire()
        if (ended := self.outcome()) is not None:
            os.close(self._lock)
            raise AttemptEndedError(ended)
        if (before := self.claim()) is not None and before.claim != report.claim:
            lost = Outcome(ExitReason.LOST, error="the worker that had this attempt is gone")
            ended = report.ended(lost.to_json())
            self.keep(ended)
            os.close(self._lock)
            raise AttemptEndedError(ended)
        self._outcome.unlink(missing_ok=True)
        self.clear_scratch()
        self._lay_out()

    def _lay_out(self) -> None:
        for place in (self.scratch / "tmp", self.notes):
            place.mkdir(parents=True, exist_ok=True)
        for file in (self.log, self._report, self._tmpdir):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _acquire(self) -> int:
        """Make the folder and lock it; anew where somebody removed it in between.

        Raises BlockingIOError where somebody else holds the lock, and for longer than a look at it takes.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileNotFoundError):
                fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_nlink:
                        return fd
                except OSError as error:
                    if not isinstance(error, BlockingIOError) or time.monotonic() > deadline:
                        os.close(fd)
                        raise
                    time.sleep(0.01)
                os.close(fd)

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock; who gets a copy of it holds it too."""
        assert self._lock is not None
        return self._lock

    def prepare(self) -> None:
        """Have room for the outcome on the disk; where the disk does not give it, `keep` will see."""
        with suppress(OSError):
            if self._prepared is not None:  # the folder had another name then
                _sync(self.path.parent)
                return
            fd = os.open(self._outcome, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, b" " * _ROOM)
                os.fsync(fd)
                _sync(self.path)
                _sync(self.path.parent)
            except OSError:
                os.close(fd)
                raise
            self._prepared = fd

    def keep(self, ended: Report) -> None:
        """Have the report of the attempt's end on disk.

        Raises SpoolError where the disk does not take it.
        """
        text = dumps(vars(ended)).encode()
        try:
            if self._prepared is None or len(text) > _ROOM:
                _write_durably(self._outcome, text)
            else:
                _overwrite_durably(self._prepared, text)
        except OSError as error:
            raise SpoolError(f"the spool {self.path.parent} takes nothing: {error.strerror}") from error

    def tmpdir(self) -> Path:
        """A folder for temporary files, under a name short enough for the sockets that multiprocessing puts there.

        The address of a Unix socket has room for 107 characters, which the folder's own name may fill.
        """
        short = self._short(secrets.token_hex(4))
        short.symlink_to(self.scratch / "tmp")
        return short

    def usual_tmpdir(self, token: str) -> Path | None:
        """The same under a name that leads to the folder of the attempt that asked last; None where it is taken."""
        new, usual = self.tmpdir(), self._short(token)
        try:
            new.replace(usual)
        except OSError:
            return None
        return usual

    def _short(self, token: str) -> Path:
        """A name for a link to the folder, noted so that it goes with the folder."""
        short = Path(tempfile.gettempdir()) / f"dcmproc-{token}"
        with self._tmpdir.open("a", encoding="utf-8") as names:
            names.write(f"{short}\n")
        return short

    def clear_scratch(self) -> None:
        """Remove what the job left in its working directory, and its notes."""
        with suppress(OSError):
            for short in map(Path, self._tmpdir.read_text(encoding="utf-8").splitlines()):
                if short.is_symlink() and short.readlink() == self.scratch / "tmp":
                    short.unlink()
            self._tmpdir.unlink()
        for place in (self.scratch, self.notes):
            with suppress(OSError):
                if place.is_symlink():  # of the job's making
                    place.unlink()
                service_tree.remove(place)

    # -- for those that come after the horse; OSError where something is there and cannot be read

    def claim(self) -> Report | None:
        """Whose attempt it is, or None where that is not known (any more)."""
        return _read_report(self._report)

    def outcome(self) -> Report | None:
        """The report of the attempt's end, or None where there is none."""
        return _read_report(self._outcome)

    def ended_at(self) -> float | None:
        """When the outcome was kept, in seconds since the epoch, or None."""
        with suppress(FileNotFoundError), self._outcome.open("rb") as file:
            if file.read(1) == b"{" and self.outcome() is not None:  # half of one, as a crash leaves it, ends nothing
                return os.fstat(file.fileno()).st_mtime
        return None

    def alive(self) -> bool:
        """Whether the horse or its reaper still lives."""
        with suppress(FileNotFoundError):
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(fd)
        return False

    def remove(self) -> bool:
        """Remove the folder and all that is in it, unless somebody runs the attempt."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.clear_scratch()
            with suppress(OSError):
                for path in self.path.iterdir():
                    if path.name != "lock":  # which goes last: who gets it has the folder
                        path.unlink()
                (self.path / "lock").unlink()
                self.path.rmdir()
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True


def attempts(spool: Path) -> set[str]:
    """The attempts that have a folder."""
    return {name for name in _names(spool) if name != BLANK}


def clear_blanks(spool: Path) -> None:
    """Remove the blank folders of processes that are no more.

    Raises OSError.
    """
    for name in _names(spool / BLANK):
        with suppress(NotADirectoryError):  # a worker of the version before took this for an attempt's folder
            AttemptFolder(spool / BLANK, name).remove()


def _names(folder: Path) -> set[str]:
    try:
        return {place.name for place in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _read_report(path: Path) -> Report | None:
    try:
        return Report(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_durably(path: Path, data: bytes) -> None:
    """Have a whole file or none under `path`, on the disk itself."""
    partial = path.with_suffix(".new")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _overwrite_durably(fd: int, data: bytes) -> None:
    """Put data over the blanks of a file that is on the disk: no more than these; half of it would be no JSON."""
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], written)
    os.fdatasync(fd)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Results: an accepted attempt's output becomes the job's folder under DATA/results; the one before stands aside.

DATA/attempts/<attemptId>              an attempt's output, written by a worker here or sent by one elsewhere
DATA/attempts/<attemptId>.part         one that is arriving; renamed when it is whole
DATA/attempts/<attemptId>.replaced     the results that those of the attempt took the place of; where newer ones were
                                       there first, its own
DATA/attempts/.publishing              held (flock) while results are put in their place, by one leader at a time
DATA/results/<studyId>/<jobName>[/<seriesId>]
"""

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from dcm_processor import data_id
from dcm_processor.archives.archive import OUTPUT, Extent
from dcm_processor.archives.unpacking import unpack
from dcm_processor.errors import DataFullError, TransientError
from dcm_processor.ledger import Ledger, attempts
from dcm_processor.logging import get_logger
from dcm_processor.plan_view import result_folder
from dcm_processor.service_tree import move, remove, sync

log = get_logger()

ATTEMPTS, RESULTS = "attempts", "results"
ASIDE = ".replaced"
PART, TRASH = ".part", ".trash"
_PUBLISHING = ".publishing"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
STALE_SECONDS = 24 * 3600.0
"""An upload that nobody has touched for so long was cut by the scheduler's own end."""


class Results:
    """DATA's `results` and `attempts` folders, as the scheduler's programs change them."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._attempts = data / ATTEMPTS
        self._publishing_lock = self._attempts / _PUBLISHING
        self._arriving: set[str] = set()
        self._lock = threading.Lock()
        self._unlocked = False  # told in the log
        self._unpublished: dict[str, str] = {}  # folder -> attempt whose output could not be put there

    @cached_property
    def data_id(self) -> str:
        """The id of DATA, made by the controller where it has none.

        Raises OSError where DATA cannot be written.
        """
        return data_id.make(self._data)

    def publish(self, attempt_id: str, folder: str) -> bool:
        """Rename the attempt's output to `folder` (relative to DATA), what was there aside; again is harmless.

        Returns whether it is in its place now.

        A crash between the two renames leaves the output under its attempt, and `repair` does the rest; so it does
        where the system refuses a rename, or another leader is in the middle of it, which is told once. That one may
        have been stopped there: nobody moves what it is about to move, until it has done so or is dead.
        """
        try:
            with self._publishing():
                self._publish(self._attempts / attempt_id, self._data / folder)
        except OSError as error:
            if folder not in self._unpublished:
                what = "results cannot be put in their place; what depends on them waits until they can"
                log.error(what, attemptId=attempt_id, folder=folder, why=error.strerror or type(error).__name__)
            self._unpublished[folder] = attempt_id
        else:
            if folder in self._unpublished:
                log.info("results are in their place now", attemptId=attempt_id, folder=folder)
            self._unpublished.pop(folder, None)
        return folder not in self._unpublished

    def lacks(self, inputs: Mapping[str, Any]) -> bool:
        """Whether results are not in their place yet that stand among an order's `inputs`."""
        folders = (each.values() if isinstance(each, Mapping) else (each,) for each in inputs.values())
        return any(folder in self._unpublished for each in folders for folder in each)

    def are_gone(self, job: Mapping[Any, Any]) -> bool:
        """Whether a finished job's results are neither there nor about to be: kept long enough, or deleted by hand."""
        folder = result_folder(job)
        return folder not in self._unpublished and not (self._data / folder).is_dir()

    def repair(self, ledger: Ledger) -> int:
        """Publish what was accepted and not published, in that order: the controller was interrupted, or could not.

        What would take the place of newer results is put aside. Returns how many were published.
        """
        try:
            with os.scandir(self._attempts) as entries:
                folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            folders = []
        for entry in folders:
            if entry.name.endswith((PART, TRASH)) and _is_stale(Path(entry.path)):
                remove(Path(entry.path))
        names = [entry.name for entry in folders if "." not in entry.name]
        with ledger.read() as db:
            finished = attempts.finished_among(db, names)
        for attempt_id in [attempt_id for attempt_id, job in finished.items() if job["outdated"]]:
            self._set_aside(attempt_id)
        unpublished = [(result_folder(job), attempt_id) for attempt_id, job in finished.items() if not job["outdated"]]
        unpublished += [each for each in self._unpublished.items() if each[1] not in finished]
        return sum(self.publish(attempt_id, folder) for folder, attempt_id in unpublished)

    def _publish(self, made: Path, place: Path) -> None:
        if _is_folder(made):
            with suppress(OSError):  # the usual case is that nothing stands in the way
                move(made, place)
                return
        self._make_way(made, place.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not _is_folder(made):
            if not place.is_dir():
                self._make_way(made, place)
                place.mkdir()  # a worker that has no DATA of ours
            return
        if os.path.lexists(place):
            _put_aside(made, place)
        move(made, place)

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Hold the lock of those that put results in their place. Raises BlockingIOError where another does."""
        path, flags = self._publishing_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            lock = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, flags, 0o600)
        try:
            self._lock_if_possible(lock)
            yield
        finally:
            os.close(lock)

    def _lock_if_possible(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, "another controller is in the middle of that") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if not self._unlocked:
                log.warning("DATA's file system has no locks; two controllers must not share it", why=error.strerror)
            self._unlocked = True

    def _set_aside(self, attempt_id: str) -> None:
        made = self._attempts / attempt_id
        try:
            with self._publishing():
                if _is_folder(made):
                    _put_aside(made, made)
        except OSError as error:
            log.error("outdated results cannot be put aside", attemptId=attempt_id, why=error.strerror)

    def _make_way(self, made: Path, folder: Path) -> None:
        """Put aside what is no folder and stands where `folder`, or one that it lies in, is to be."""
        for path in (*reversed(folder.relative_to(self._data).parents), folder.relative_to(self._data)):
            if os.path.lexists(self._data / path) and not (self._data / path).is_dir():
                _put_aside(made, self._data / path)

    # -- what workers of other hosts send

    def receive(self, attempt_id: str, blocks: Iterable[bytes], check: Callable[[], None]) -> Extent:
        """Have an attempt's output where `publish` finds it, whole or not at all; what came before is replaced.

        `check` is called when all of it is here and raises where nobody wants it any more. Raises what `unpack` raises,
        DataFullError, and TransientError while the same output is arriving already.
        """
        place = self._attempts / attempt_id
        part, trash = place.with_name(attempt_id + PART), place.with_name(attempt_id + TRASH)
        with self._alone(attempt_id):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                _discard(part, trash)  # of an upload that was cut
                came = unpack(blocks, part, OUTPUT, durable=True)
                try:
                    check()
                    if os.path.lexists(place):
                        place.rename(trash)
                    part.rename(place)
                    sync(place.parent)
                finally:
                    _discard(part, trash)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DataFullError(
                        f"DATA ({self._data}) has no room for what an attempt left; make room there"
                    ) from None
                raise
        return came

    @contextmanager
    def _alone(self, attempt_id: str) -> Iterator[None]:
        with self._lock:
            if attempt_id in self._arriving:
                raise TransientError("this output is arriving already; try again when that has ended")
            self._arriving.add(attempt_id)
        try:
            yield
        finally:
            with self._lock:
                self._arriving.discard(attempt_id)

    def folder(self, study_id: str, job_name: str, series_id: str | None) -> Path | None:
        """A job's published results (names that are checked), or None where there are none."""
        place = self._data / RESULTS / study_id / job_name
        place = place / series_id if series_id is not None else place
        return place if _is_folder(place) else None


def _is_stale(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


def _discard(*paths: Path) -> None:
    for path in paths:
        if _is_folder(path):
            remove(path)
        else:
            path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _put_aside(made: Path, path: Path) -> None:
    """Have whatever stands in the way of `made` stand beside it; what stood there before goes."""
    aside = made.with_name(made.name + ASIDE)
    if _is_folder(aside):
        remove(aside)
    elif os.path.lexists(aside):
        aside.unlink()
    aside.parent.mkdir(parents=True, exist_ok=True)
    move(path, aside)

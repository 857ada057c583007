"""Results: an accepted attempt's output becomes the job's folder under DATA/results; the one before stands aside."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from dcm_processor.ledger import Ledger, attempts
from dcm_processor.service_tree import remove
from scheduler.enqueue import result_folder

log = structlog.get_logger()

ATTEMPTS = "attempts"
ASIDE = ".replaced"


class Results:
    """DATA's `results` and `attempts` folders, as the controller changes them."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._unpublished: dict[str, str] = {}  # folder -> attempt whose output could not be put there

    def publish(self, attempt_id: str, folder: str) -> None:
        """Rename the attempt's output to `folder` (relative to DATA), what was there aside; again is harmless.

        A crash between the two renames leaves the output under its attempt, and `repair` does the rest; so it does
        where the system refuses a rename, which is told once.
        """
        try:
            self._publish(self._data / ATTEMPTS / attempt_id, self._data / folder)
        except OSError as error:
            if folder not in self._unpublished:
                what = "results cannot be put in their place; what depends on them waits until they can"
                log.error(what, attemptId=attempt_id, folder=folder, why=error.strerror or type(error).__name__)
            self._unpublished[folder] = attempt_id
        else:
            if folder in self._unpublished:
                log.info("results are in their place now", attemptId=attempt_id, folder=folder)
            self._unpublished.pop(folder, None)

    def lacks(self, inputs: Mapping[str, Any]) -> bool:
        """Whether results are not in their place yet that stand among an order's `inputs`."""
        folders = (each.values() if isinstance(each, Mapping) else (each,) for each in inputs.values())
        return any(folder in self._unpublished for each in folders for folder in each)

    def repair(self, ledger: Ledger) -> None:
        """Publish what was accepted and not published: the controller was interrupted, or could not."""
        try:
            names = [
                entry.name for entry in os.scandir(self._data / ATTEMPTS) if entry.is_dir() and "." not in entry.name
            ]
        except FileNotFoundError:
            names = []
        with ledger.read() as db:
            finished = attempts.finished_among(db, names)
        unpublished = self._unpublished | {result_folder(job): attempt_id for attempt_id, job in finished.items()}
        for folder, attempt_id in unpublished.items():
            self.publish(attempt_id, folder)

    def _publish(self, made: Path, place: Path) -> None:
        self._make_way(made, place.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not _is_folder(made):
            if not place.is_dir():
                self._make_way(made, place)
                place.mkdir()  # a worker that has no DATA of ours
            return
        if os.path.lexists(place):
            _put_aside(made, place)
        _move(made, place)

    def _make_way(self, made: Path, folder: Path) -> None:
        """Put aside what is no folder and stands where `folder`, or one that it lies in, is to be."""
        for path in (*reversed(folder.relative_to(self._data).parents), folder.relative_to(self._data)):
            if os.path.lexists(self._data / path) and not (self._data / path).is_dir():
                _put_aside(made, self._data / path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _put_aside(made: Path, path: Path) -> None:
    """Have whatever stands in the way of `made` stand beside it; what stood there before goes."""
    aside = made.with_name(made.name + ASIDE)
    if _is_folder(aside):
        remove(aside)
    elif os.path.lexists(aside):
        aside.unlink()
    aside.parent.mkdir(parents=True, exist_ok=True)
    _move(path, aside)


def _move(path: Path, to: Path) -> None:
    """Rename; that of a folder into another one takes the right to write to it, which a job may have taken away."""
    if _is_folder(path):
        path.chmod(path.stat().st_mode | 0o700)
    path.rename(to)

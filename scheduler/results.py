"""Results: an accepted attempt's output becomes the job's folder under DATA/results; the one before stands aside."""

import os
from pathlib import Path

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

    def publish(self, attempt_id: str, folder: str) -> None:
        """Rename the attempt's output to `folder` (relative to DATA), what was there aside; again is harmless.

        A crash between the two renames leaves the output under its attempt, and `repair` does the rest.
        """
        made, place = self._data / ATTEMPTS / attempt_id, self._data / folder
        place.parent.mkdir(parents=True, exist_ok=True)
        if not _is_folder(made):
            if not place.exists():
                place.mkdir(parents=True)  # a worker that has no DATA of ours
            return
        if _is_folder(place):
            aside = made.with_name(attempt_id + ASIDE)
            if aside.exists():
                remove(aside)
            _move(place, aside)
        _move(made, place)

    def repair(self, ledger: Ledger) -> int:
        """Publish what an interrupted controller accepted and did not publish; returns how many."""
        try:
            names = [
                entry.name for entry in os.scandir(self._data / ATTEMPTS) if entry.is_dir() and "." not in entry.name
            ]
        except FileNotFoundError:
            return 0
        with ledger.read() as db:
            unpublished = attempts.finished_among(db, names)
        for attempt_id, job in unpublished.items():
            self.publish(attempt_id, result_folder(job))
            log.info("published results that had been accepted, not published", jobId=job["job_id"])
        return len(unpublished)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _move(folder: Path, to: Path) -> None:
    """Rename a folder into another one, which takes the right to write to it; a job may have taken that away."""
    folder.chmod(folder.stat().st_mode | 0o700)
    folder.rename(to)

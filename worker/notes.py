"""What a job notes of itself (`dcm_processor_job`), where it writes that, and reading it while and after it runs.

The job may make of these files what it likes: a pipe, a symlink, gigabytes. Nothing of that is followed, waited for or
read, and what a file holds is believed as `dcm_processor.notes` believes it.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from dcm_processor import job_helper
from dcm_processor.job_helper import dcm_processor_job
from dcm_processor.notes import LONGEST, NamedResult, Progress, progress_of, results_of

NOTES = dcm_processor_job.NOTES
SIBLING = f"{job_helper.NAME}={job_helper.FOLDER / job_helper.NAME}"
"""The helper, as the runner is told of packages that come after all others."""


def variables(folder: Path) -> dict[str, str]:
    """What has the helper write its notes to `folder`, and scripts that the job starts find the helper."""
    return {NOTES: str(folder), "PYTHONPATH": str(job_helper.FOLDER)}


def progress(folder: Path) -> Progress | None:
    """How far the job said it is, if it did."""
    return progress_of(_content(folder / dcm_processor_job.PROGRESS, LONGEST))


def results(folder: Path) -> tuple[tuple[NamedResult, ...], int]:
    """The job's named results so far, and how many are left out since they cannot be or are too many."""
    return results_of(_content(folder / dcm_processor_job.RESULTS, dcm_processor_job.MAX_BYTES))


def _content(path: Path, most: int) -> bytes:
    """The beginning of a regular file; nothing of what is none."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return file.read(most)
    return b""

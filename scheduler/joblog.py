"""Reading a job's log while it is written. Its path is made of what the ledger holds, not of what a request says."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dcm_processor.vocabulary import JobState
from scheduler.logs import log_path

PART = 1024 * 1024
"""Bytes read at once, at most."""
LAST_CHUNKS = timedelta(seconds=60)
"""How long after an attempt's end the rest of its log may still come; then what is there is all there will be."""


@dataclass(frozen=True)
class LogPart:
    """A part of a log; `size` is how much of the log is there, in bytes; `complete`: nothing will follow."""

    content: bytes
    size: int
    complete: bool


def read_log(logs: Path, job: Mapping[str, Any], attempt: Mapping[str, Any] | None, offset: int) -> LogPart:
    """The attempt's log from `offset` on, PART bytes at most; empty while there is none.

    `job` and `attempt` are the ledger's views, taken before the file is read: so a log that grew between the two is
    never called complete.
    """
    if attempt is None:
        return LogPart(b"", 0, complete=job["state"] is None or JobState(job["state"]).ended)
    try:
        content, size = _read(log_path(logs, job["studyId"], job["jobId"], attempt["attempt"]), offset)
    except FileNotFoundError:
        content, size = b"", 0
    return LogPart(content, size, complete=offset + len(content) >= size and _all_there(attempt, size))


def _read(path: Path, offset: int) -> tuple[bytes, int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        return os.pread(descriptor, PART, offset), status.st_size
    finally:
        os.close(descriptor)


def _all_there(attempt: Mapping[str, Any], size: int) -> bool:
    if attempt["endedAt"] is None:
        return False
    expected = attempt["details"].get("logSize")
    if isinstance(expected, int) and size >= expected:
        return True
    return datetime.now(UTC) - datetime.fromisoformat(attempt["endedAt"]) > LAST_CHUNKS

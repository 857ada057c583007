"""A job's log can be read while it is written, and it is known when nothing more will come."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scheduler.joblog import LAST_CHUNKS, PART, read_log

JOB = {"studyId": "study", "jobId": "job", "state": "started"}


def attempt(*, ended: timedelta | None = None, size: int | None = None) -> dict[str, Any]:
    """A first attempt that ended so long ago, its log as long as the worker said."""
    at = None if ended is None else (datetime.now(UTC) - ended).isoformat().replace("+00:00", "Z")
    return {"attempt": 1, "endedAt": at, "details": {} if size is None else {"logSize": size}}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "jobs" / "study" / "job" / "1.log"
    path.parent.mkdir(parents=True)
    return path


NOW = timedelta(0)
LONG_AGO = LAST_CHUNKS + timedelta(seconds=5)


@pytest.mark.parametrize(
    ("content", "tried", "offset", "expected"),
    [
        (b"one\ntwo\n", attempt, 0, (b"one\ntwo\n", 8, False)),
        (b"one\ntwo\n", attempt, 4, (b"two\n", 8, False)),
        (b"one\ntwo\n", attempt, 8, (b"", 8, False)),
        (b"one\ntwo\n", lambda: attempt(ended=NOW, size=8), 0, (b"one\ntwo\n", 8, True)),
        (b"one\n", lambda: attempt(ended=NOW, size=8), 0, (b"one\n", 4, False)),
        (b"one\n", lambda: attempt(ended=LONG_AGO, size=8), 0, (b"one\n", 4, True)),
        (b"one\n", lambda: attempt(ended=NOW), 0, (b"one\n", 4, False)),
        (b"one\n", lambda: attempt(ended=LONG_AGO), 0, (b"one\n", 4, True)),
        (b"one\n", lambda: attempt(ended=NOW, size=4), 9, (b"", 4, True)),
        (None, attempt, 0, (b"", 0, False)),
        (None, lambda: attempt(ended=NOW, size=0), 0, (b"", 0, True)),
        (b"\xff\x00\xc3", lambda: attempt(ended=NOW, size=3), 0, (b"\xff\x00\xc3", 3, True)),
    ],
)
def test_a_part_of_a_log(
    log: Path, content: bytes | None, tried: Callable[[], dict[str, Any]], offset: int, expected: Any
) -> None:
    if content is not None:
        log.write_bytes(content)
    part = read_log(log.parents[3], JOB, tried(), offset)
    assert (part.content, part.size, part.complete) == expected


def test_a_long_log_comes_in_parts(tmp_path: Path, log: Path) -> None:
    text = os.urandom(PART + 10)
    log.write_bytes(text)
    first = read_log(tmp_path, JOB, attempt(ended=NOW, size=len(text)), 0)
    assert (first.content, first.complete) == (text[:PART], False)
    second = read_log(tmp_path, JOB, attempt(ended=NOW, size=len(text)), PART)
    assert (second.content, second.complete) == (text[PART:], True)


@pytest.mark.parametrize(
    ("state", "complete"), [("waiting", False), ("queued", False), ("skipped", True), ("cancelled", True), (None, True)]
)
def test_a_job_without_an_attempt_has_an_empty_log(tmp_path: Path, state: str | None, complete: bool) -> None:
    part = read_log(tmp_path, {**JOB, "state": state}, None, 0)
    assert (part.content, part.size, part.complete) == (b"", 0, complete)


def test_only_a_file_is_a_log(tmp_path: Path, log: Path) -> None:
    """Nobody who can write below LOGS gets another file or a pipe read out."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    log.symlink_to(secret)
    with pytest.raises(OSError, match="Too many levels"):
        read_log(tmp_path, JOB, attempt(), 0)
    log.unlink()
    os.mkfifo(log)
    assert read_log(tmp_path, JOB, attempt(), 0).content == b""

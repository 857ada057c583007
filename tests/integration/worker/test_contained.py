"""What is known of a command's end where its reaper could not look for a while."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from worker import runner
from worker.contained import Command, Contained, End

TIMEOUT = 2.0
WAITS = """
import os, pathlib, sys, time
os.write(3, b'{"kind": "begins"}\\n')
pathlib.Path("pid").write_text(f"{os.getpid()}\\n")
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""
SAYS = f"os.write({runner.RETURNED_FD}, b'!')"


def python(folder: Path, code: str, **values: Any) -> Command:
    return Command(
        argv=[sys.executable, "-I", "-c", code], env={}, cwd=str(folder), log=str(folder / "log"), log_limit=100_000,
        start_timeout=60, **values,
    )  # fmt: skip


def ended_unseen(folder: Path, order: str | None, *, timeout: float) -> End:
    """The end of a command that returned while its reaper stood still, and then saw all of it at once."""
    with Contained(python(folder, WAITS, timeout=timeout)) as running:
        pid = int(wait_until(lambda: _text(folder / "pid"), what="the command"))
        reaper = _parent(pid)
        os.kill(reaper, signal.SIGSTOP)
        wait_until(lambda: _state(reaper) == "T", what="the reaper to stand still")
        late = time.monotonic() + TIMEOUT
        (folder / "go").touch()
        wait_until(lambda: _state(pid) == "Z", what="the command's end")
        if order is None:
            wait_until(lambda: time.monotonic() > late, what="the time-out")
        else:
            running.kill(order)
        os.kill(reaper, signal.SIGCONT)
        return running.wait()


def test_a_command_that_returned_in_time_is_not_timed_out_by_a_reaper_that_looks_late(tmp_path: Path) -> None:
    end = ended_unseen(tmp_path, None, timeout=TIMEOUT)
    assert (end.status, end.killed) == (0, None)


@pytest.mark.parametrize("order", ["handed_back", "cancelled"])
def test_a_command_that_returned_is_neither_handed_back_nor_cancelled(tmp_path: Path, order: str) -> None:
    """The order came too late: run again, a job that finished would be doubled."""
    end = ended_unseen(tmp_path, order, timeout=60)
    assert (end.status, end.killed) == (0, None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Where it is heard that a command has returned, and where that is said."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_that_a_command_has_returned_is_heard_while_it_is_still_there(tmp_path: Path, pipe: tuple[int, int]) -> None:
    waits = "while not os.path.exists('go'):\n    time.sleep(0.01)"
    with Contained(python(tmp_path, f"import os, time\n{SAYS}\n{waits}", returned=pipe[1])) as running:
        end = running.wait({pipe[0]: (tmp_path / "go").touch})  # else it would wait for ever
    assert (end.status, end.killed) == (0, None)


@pytest.mark.parametrize(("code", "wished", "times"), [
    (f"for _ in range(30_000): {SAYS}", True, 1),
    (f"{SAYS}; os.kill(os.getpid(), 9)", True, 1),
    (SAYS, False, 0),
    ("pass", True, 0),
])  # fmt: skip
def test_it_is_heard_once_or_not_at_all(
    tmp_path: Path, pipe: tuple[int, int], code: str, times: int, *, wished: bool
) -> None:
    heard = []
    with Contained(python(tmp_path, f"import os\n{code}", returned=pipe[1] if wished else None)) as running:
        running.wait({pipe[0]: lambda: heard.append("returned")})
    assert heard == ["returned"] * times


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state(pid: int) -> str:
    return _fields(pid)[0]


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])

"""What runs for a BASEDIR, supervisord or not: each process started for it has a mark in its environment (Linux)."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from dcm_processor.errors import StackError

MARK = "DCM_PROCESSOR_STACK"
"""The environment variable that holds the BASEDIR a process was started for; what it starts inherits it."""
_POLL = 0.05  # seconds
_KILL_PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class Process:
    """A process that carries a mark."""

    pid: int
    name: str


def marked(basedir: Path) -> list[Process]:
    """The processes of this BASEDIR that this user may see, without the one that asks."""
    wanted = f"{MARK}={basedir}".encode()
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [Process(pid, name_of(pid)) for pid in found if pid != os.getpid() and wanted in _environment(pid)]


def stack_of(pid: int) -> str | None:
    """The BASEDIR that a process was started for, or None: it is none of ours, or of another user."""
    mark = f"{MARK}=".encode()
    return next((os.fsdecode(e.removeprefix(mark)) for e in _environment(pid) if e.startswith(mark)), None)


def name_of(pid: int) -> str:
    """The kernel's name of a process; "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def end_marked(basedir: Path, *, patience: float) -> list[Process]:
    """Ask what runs for this BASEDIR to end, and kill what has not after `patience` seconds; return when all is gone.

    Returns what had to be killed. A process is signalled only after its mark was read again through the same handle, so
    that a process number which went to somebody else meanwhile is never hit. Raises StackError where a process does not
    even end when killed (it hangs in the kernel).
    """
    for process in marked(basedir):
        _signal(process.pid, basedir, signal.SIGTERM)
    killed = _left_after(basedir, patience)
    deadline = time.monotonic() + _KILL_PATIENCE
    left = killed
    while left:
        if time.monotonic() > deadline:
            names = ", ".join(f"{process.pid} ({process.name})" for process in left)
            raise StackError(
                f"these processes do not end: {names}; they hang in the kernel, often on a disk that is away"
            )
        for process in left:
            _signal(process.pid, basedir, signal.SIGKILL)
        left = _left_after(basedir, _POLL)  # it may have just started another
    return killed


def _left_after(basedir: Path, seconds: float) -> list[Process]:
    """What still runs after `seconds`, or nothing as soon as two looks found nothing.

    (One is not enough: for a moment within execve(2) a process has no environment to read.)
    """
    deadline = time.monotonic() + seconds
    looks = 0
    while True:
        left = marked(basedir)
        looks = 0 if left else looks + 1
        if looks == 2 or (left and time.monotonic() > deadline):
            return left
        time.sleep(_POLL)


def _signal(pid: int, basedir: Path, number: signal.Signals) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if f"{MARK}={basedir}".encode() in _environment(pid):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []

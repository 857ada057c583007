"""What Linux offers for processes that must not outlive each other (prctl(2)); elsewhere these do nothing."""

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CONTAINERS_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def die_with_parent() -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that made it ends; ends at once if it already has."""
    if not LINUX:
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that outlives its own parent (PR_SET_CHILD_SUBREAPER)."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def boot_time() -> float:
    """Seconds that count on while this machine is suspended, which those of time.monotonic() do not (Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def suspended_seconds() -> float:
    """How long this machine was suspended since it was started."""
    return boot_time() - time.monotonic()


def be_killed_first() -> None:
    """Have the kernel kill this process, and what it starts, before others where memory runs out (Linux)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def limit_memory(size: int | None) -> None:
    """Have this process, and each that it starts, raise MemoryError where it wants more data than `size` bytes.

    None: that it may have what it could before. What is set aside and not used counts too (setrlimit(2), RLIMIT_DATA).
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most if size is None else size
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def memory_here() -> int:
    """Bytes of memory that this machine has; of a container's limit, if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _CONTAINERS_MEMORY:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(limit.read_text()))
    return min(found)


def show_alive(file: Path | None) -> None:
    """Touch the file by whose age a container's healthcheck sees that this program goes on (ALIVE_FILE)."""
    if file is not None:
        with suppress(OSError):  # a full disk is told by others
            file.touch()

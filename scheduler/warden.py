"""A process in which foreign code may do what it likes, and of which nothing is left when it is ended.

    we ──fork──▶ warden ──fork──▶ ward: runs the foreign code
     └── control socket ┘          └── whatever it starts, daemons that left its session too

The warden only waits: when the ward ends, or we close the control socket (also by dying), it kills the ward
and all that the ward started, and says how the ward ended. Being a child subreaper (prctl(2)), it inherits
every orphan of the ward.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dcm_processor import process

_STATUS = struct.Struct("!i")
_SWEEP_SECONDS = 5


class Warden:
    """Starts `target` as a ward; `control` becomes readable when the ward has ended and nothing of it is left.

    Of this process's open files the ward keeps those in `keep` and its standard streams.
    """

    def __init__(self, target: Callable[[], None], keep: Sequence[int]) -> None:
        self.control, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # or the ward would hold, and might write, a copy of what waits there
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _guard(theirs, target, keep)
            finally:
                os._exit(70)
        theirs.close()

    def end(self) -> int | None:
        """Kill the ward and all it started, unless they ended by themselves.

        Returns the ward's wait status, or None where the warden itself was killed.
        """
        with self.control:
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_WR)
            self.control.settimeout(2 * _SWEEP_SECONDS)
            try:
                answer = self.control.recv(_STATUS.size)
            except OSError:
                answer = b""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        return int(_STATUS.unpack(answer)[0]) if len(answer) == _STATUS.size else None


def _guard(control: socket.socket, target: Callable[[], None], keep: Sequence[int]) -> None:
    """Be the warden."""
    _detach([control.fileno(), *keep])
    process.adopt_orphans()
    wake_read, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    ward = os.fork()
    if ward == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        process.die_with_parent()
        process.adopt_orphans()
        os.setsid()
        for mine in (control, wake_read, wake_write):
            mine.close()
        try:
            target()
        finally:
            os._exit(0)
    for theirs in keep:
        os.close(theirs)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        status = None
        while status is None:
            if any(key.fileobj is control for key, _ in selector.select()):
                os.kill(ward, signal.SIGKILL)
                status = os.waitpid(ward, 0)[1]
            else:
                wake_read.recv(64)
                ended, found = os.waitpid(ward, os.WNOHANG)
                status = found if ended else None
    if not process.LINUX:  # no orphan comes to us: what left the ward's process group is not known
        with contextlib.suppress(OSError):
            os.killpg(ward, signal.SIGKILL)
    _sweep()
    control.sendall(_STATUS.pack(status))


def _detach(keep: Sequence[int]) -> None:
    """Leave behind what came with the fork: session, signal handlers, open files, objects that would close files."""
    gc.freeze()
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - of open files, not of paths
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(int(name))


def _sweep() -> None:
    """Kill and reap every child until there is none; the children of each become ours as it dies."""
    give_up = time.monotonic() + _SWEEP_SECONDS
    while time.monotonic() < give_up:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)  # for the killed to become ours to reap


def _children() -> list[int]:
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                if int(parent) == os.getpid():
                    children.append(int(entry.name))
    return children

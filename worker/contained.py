"""The worker's side of the reaper: run a command so that it and all it starts end together, within limits."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

from worker import reaper

LOG_LIMIT = 10_000_000
"""Bytes of a job's log."""
START_LIMIT = 600.0
"""Seconds that a service's module may take to be imported; its `timeout` counts the function alone."""
WAKE_SECONDS = 5.0
"""How often a reaper that says nothing is made to go on, should it have been stopped."""
_REAPER = str(Path(reaper.__file__))

Hears = Mapping[int, Callable[[], object]]
"""Descriptors, and what is done once when something is to be read there."""
NOTHING: Hears = MappingProxyType({})


@dataclass(frozen=True)
class Command:
    """What to run. `input` is a file descriptor the command finds as its number 4, `returned` one that it finds as 5.

    Of `keep` the reaper keeps copies.

    `timeout` (seconds) counts from the command's message `begins`, for which it has `start_timeout`; None: no limit.
    A command that sends no messages has `start_timeout` alone.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    log: str
    log_limit: int
    start_timeout: float | None
    timeout: float = 0.0
    memory: int | None = None  # bytes, all its processes together
    input: int | None = None
    keep: Sequence[int] = ()
    dump: bool = False  # ask for its stack (reaper.DUMP_SIGNAL) before a time-out kills
    returned: int | None = None  # where it says that its function has returned
    own: Sequence[str] = ()  # variables of `env` that are another job's otherwise, however alike the two are

    def with_tmpdir(self, folder: Path) -> Self:
        """The same with that folder for temporary files."""
        return replace(self, env={**self.env, "TMPDIR": str(folder)})


@dataclass(frozen=True)
class End:
    """How a command ended: `status` or `signal`, and who killed it where we did.

    `killed` is `timeout`, `start` (it never began), `memory`, `reaper` (which died), or the word given to `kill`.
    """

    status: int | None = None
    signal: int | None = None
    killed: str | None = None
    began: float | None = None  # seconds since the epoch
    peak_memory: int = 0  # bytes
    oom_kills: int = 0  # of the kernel, meanwhile
    log_size: int = 0
    log_cut: int = 0  # bytes left out
    log_fault: str | None = None
    messages: Sequence[Any] = ()
    survivors: Sequence[int] = ()  # processes that would not die
    warm: bool = False  # run by a process that had imported what it needs
    why_cold: str | None = None  # where it was to be kept warm, and cannot be


class Running(Protocol):
    """A command under a reaper."""

    def kill(self, word: str) -> None:
        """End the command for a reason; harmless where it has ended. To be called by any thread or signal handler."""

    def wait(self, hears: Hears = NOTHING) -> End:
        """Wait for the end; a reaper that its job has stopped is made to go on, or no limit would hold."""


def messages(fd: int, go_on: Callable[[], object], hears: Hears = NOTHING) -> Iterator[dict[str, Any]]:
    """What a reaper says, until it is gone; while it says nothing it is made to `go_on`."""
    buffer, others = b"", dict(hears)
    while True:
        while not (readable := select.select([fd, *others], [], [], WAKE_SECONDS)[0]):
            go_on()
        for other in others.keys() & set(readable):
            others.pop(other)()
        if fd not in readable:
            continue
        try:
            data = os.read(fd, 1 << 16)
        except OSError:
            return
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        yield from map(json.loads, lines)


class Contained:
    """One command under a reaper of its own."""

    def __init__(self, command: Command) -> None:
        passed = [fd for fd in (command.input, command.returned, *command.keep) if fd is not None]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _REAPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=passed,
            env={"LC_ALL": "C.UTF-8"},
            start_new_session=True,  # what is sent to the worker's group is not for the reaper
        )
        self._lock = threading.RLock()  # a signal handler may interrupt whoever holds it
        self._write(json.dumps(asdict(command)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the command, should it still run, and leaves no process behind."""
        with self._lock:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def kill(self, word: str) -> None:
        """As `Running`."""
        self._write(f"kill {word}")

    def wait(self, hears: Hears = NOTHING) -> End:
        """As `Running`."""
        assert self._process.stdout is not None
        go_on = partial(self._process.send_signal, signal.SIGCONT)
        if (message := next(messages(self._process.stdout.fileno(), go_on, hears), None)) is not None:
            return End(**message)
        return End(signal=self._process.wait() * -1, killed="reaper")  # what it was to end is for our own subreaper

    def _write(self, line: str) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with self._lock, contextlib.suppress(OSError, ValueError):  # it has ended
            os.write(pipe.fileno(), line.encode() + b"\n")

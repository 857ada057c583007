"""What a worker keeps warm between jobs: for each function a keeper (worker/keeper.py) that has its module imported.

The worker has a private folder with a socket for each keeper, and the one end of a pipe, the lifeline: when it is
closed all keepers end, as they do when the worker dies. The horses, which live for one job each, find keepers there,
make them, and have those end that are too many. A worker runs one job at a time, so no two horses meet.

    <tmp>/dcmproc-warm-<…>/       with a `lock` (flock) that the worker holds
        <function>-<version>      a keeper's socket; its mtime is when it was last used
        <…>.size                  bytes that it holds
        <…>.cold                  why that version of the function is not kept
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings
from worker import reaper
from worker.contained import NOTHING, Command, End, Hears, Running, messages

log = get_logger()

_PREFIX = "dcmproc-warm-"
_ROOT = Path(__file__).parents[1]
_END_PATIENCE = 15.0
_ANSWERED_NOTHING = "the process that was kept warm ended before the function began"


class KeeperError(Exception):
    """There is no keeper, or it ended; the job has not begun, and nothing of it is left."""


class Warm:
    """One worker's keepers. `begin`, `end` and `close` are for the worker, the rest for its horses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker = os.getpid()
        _clear_up()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._lifeline: tuple[int, int] | None = None

    # -- the worker

    def begin(self) -> None:
        """Keepers may be made."""
        if self._lifeline is None:
            self._lifeline = os.pipe()

    def end(self) -> None:
        """Have all keepers end; they may take a moment."""
        if self._lifeline is not None:
            for fd in self._lifeline:
                os.close(fd)
            self._lifeline = None

    def close(self) -> None:
        """Leave no keeper behind, nor the folder."""
        self.end()
        deadline = time.monotonic() + _END_PATIENCE
        while not reaper.reap() and time.monotonic() < deadline:
            time.sleep(0.01)
        reaper.kill_descendants()
        shutil.rmtree(self._folder, ignore_errors=True)
        for fd in (self._fd, self._lock):
            os.close(fd)

    # -- a horse

    def in_horse(self) -> None:
        """The worker alone holds the lifeline."""
        if self._lifeline is not None:
            os.close(self._lifeline[1])

    def token(self, name: str) -> str:
        """What the jobs of a keeper have for a TMPDIR; known to nobody beforehand."""
        return hashlib.sha256(f"{self._folder.name} {name}".encode()).hexdigest()[:8]

    def why_cold(self, name: str) -> str | None:
        """Why that version of the function is not kept warm; None: it may be."""
        try:
            return (self._folder / f"{name}.cold").read_text(encoding="utf-8")
        except OSError:
            return None

    def run(self, name: str, function: str, command: Command, watch: Callable[[Running], End]) -> End | None:
        """Run the command in a fork of what its keeper has imported, which it does first where there is none.

        None where that cannot be: nothing was begun then, and nothing is left of it.
        """
        for new in (False, True):
            try:
                with self._keeper(name, function, command, new=new) as kept:
                    end = watch(kept)
            except KeeperError as error:
                if new:
                    log.warning("a function is not kept warm", function=function, error=str(error))
                    self._put(name, _ANSWERED_NOTHING)
                continue
            if end.why_cold is not None:
                self._put(name, end.why_cold)
            return end
        return None

    def _keeper(self, name: str, function: str, command: Command, *, new: bool) -> "Kept":
        try:
            return self._make(name, function, command) if new else self._find(name, command)
        except OSError as error:  # nothing was sent yet; once a job may run, whatever fails is its end
            raise KeeperError(f"no process can be kept warm: {error.strerror or error}") from error

    def _find(self, name: str, command: Command) -> "Kept":
        connection = self._connect(name)
        with suppress(OSError):
            os.utime(self._folder / name)
        return Kept(connection, command, self._worker)

    def _make(self, name: str, function: str, command: Command) -> "Kept":
        self._make_room(name)
        if self._lifeline is None:
            raise KeeperError
        ours, theirs = socket.socketpair()
        settings, lifeline = self._settings, self._lifeline[0]
        limits = f"idle={settings.WARM_IDLE}, age={settings.WARM_AGE}, largest={settings.WARM_MEMORY}"
        program = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from worker import keeper; "
            f"keeper.main({str(self._folder)!r}, {name!r}, {lifeline}, {limits})"
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=[lifeline],
                env={"LC_ALL": "C.UTF-8"},
                start_new_session=True,  # as worker/contained.py has it
            )
        warm = {**asdict(command), "argv": [*command.argv, f"--warm={function}"]}
        return Kept(ours, command, self._worker, order=warm, process=process)

    def _connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"/proc/self/fd/{self._fd}/{name}")  # an address has room for 107 characters
        except OSError:
            connection.close()
            raise KeeperError(_ANSWERED_NOTHING) from None
        return connection

    def _make_room(self, name: str) -> None:
        """Have keepers end: of other versions of the function, and of those not used for longest what is too many."""
        names = [path.name for path in sorted(self._folder.iterdir(), key=_mtime) if path.is_socket()]
        others = [other for other in names if other.partition("-")[0] != name.partition("-")[0]]
        going = [other for other in names if other not in others]
        sizes = [self._size(other) for other in others]
        while others and (len(others) >= self._settings.WARM_FUNCTIONS or sum(sizes) >= self._settings.WARM_MEMORY):
            going.append(others.pop(0))
            sizes.pop(0)
        for other in going:
            with suppress(KeeperError, OSError), self._connect(other) as connection:
                connection.sendall(b'{"leave": true}\n')
            with suppress(OSError):
                (self._folder / other).unlink()

    def _size(self, name: str) -> int:
        with suppress(OSError, ValueError):
            return int((self._folder / f"{name}.size").read_text(encoding="ascii"))
        return 0

    def _put(self, name: str, why: str) -> None:
        with suppress(OSError):
            (self._folder / f"{name}.cold").write_text(why, encoding="utf-8")


class Kept:
    """One command with a keeper."""

    def __init__(
        self,
        connection: socket.socket,
        command: Command,
        worker: int,
        *,
        order: dict[str, object] | None = None,
        process: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._process = process
        self._running = False
        assert command.input is not None
        fds = [fd for fd in (command.input, command.returned, *command.keep) if fd is not None]
        data = json.dumps(order or asdict(command)).encode() + b"\n"
        try:
            sent = socket.send_fds(connection, [data], fds)
            if sent < len(data):  # else the job may have run, and the keeper have closed its end, before this line
                connection.sendall(data[sent:])
        except OSError:
            connection.close()
            raise KeeperError(_ANSWERED_NOTHING) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def kill(self, word: str) -> None:
        """As `Running`."""
        with suppress(OSError):
            self._connection.send(f"kill {word}\n".encode())  # few bytes in an empty buffer: all or none of them

    def wait(self, hears: Hears = NOTHING) -> End:
        """As `Running`; raises KeeperError where the job has not begun and does not."""
        for message in messages(self._connection.fileno(), self._go_on, hears):
            if message != {"kind": "running"}:
                return End(**message)
            self._running = True
        _kill_all(self._worker)
        if self._running:
            return End(signal=signal.SIGKILL, killed="reaper")
        raise KeeperError(_ANSWERED_NOTHING)

    def _go_on(self) -> None:
        """Make the keeper go on, should its job have stopped it."""
        with suppress(OSError):
            credentials = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = self._process.pid if self._process is not None else int.from_bytes(credentials[:4], sys.byteorder)
            os.kill(pid, signal.SIGCONT)


def name_of(service: str, function: str, command: Command) -> str:
    """The keeper's name: of the function, and of all that decides what its import gives."""
    env = sorted((key, value) for key, value in command.env.items() if key not in command.own)
    what = json.dumps([list(command.argv), env])
    parts = f"{service} {function}", f"{function} {what}"
    return "-".join(hashlib.sha256(part.encode()).hexdigest()[:16] for part in parts)


def _kill_all(worker: int) -> None:
    """Kill all that lives below a worker but this horse: a keeper died, and left what was its job's to the worker.

    Other keepers go too, which costs their next jobs an import.
    """
    me = os.getpid()
    deadline = time.monotonic() + _END_PATIENCE
    while time.monotonic() < deadline:
        reaper.reap()
        found = {pid: each for pid, each in reaper.family(worker).items() if pid != me and not each.ended}
        if not found:
            return
        reaper.kill(found, but_groups={os.getpgrp(), os.getpgid(worker), 0})
        time.sleep(0.005)


def _clear_up() -> None:
    """Remove what workers left that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _mtime(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0

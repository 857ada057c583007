"""Keeps a worker function's process warm: a reaper (worker/reaper.py) that stays when its first job has ended.

It belongs to one worker and one function of one version of a service. The first job is started like any other, but its
runner stops when the function's module is imported: from then on it is the zygote, which only forks (worker/zygote.py).
Every job, the first one too, is such a fork, handed over to this process by a double fork, and under the same limits as
a command of its own. The fork for the next job is made a moment after one has ended, and waits. A zygote that must not
fork runs the first job itself and nothing is kept.

    stdin          the first horse's connection, a Unix socket
    <name>         the socket in the worker's private folder where further horses connect, one after the other
    a connection   the order, one line of JSON (`worker.contained.Command`) with the descriptors of `input`, `returned`
                   and `keep` (SCM_RIGHTS), then `kill <word>` lines; its end means that the horse died, and so does the
                   job. Answered by `{"kind": "running"}`, from which on the function may have begun, and then as the
                   reaper does. An order `{"leave": true}` ends the keeper.
    lifeline       a pipe whose other end the worker alone holds; its end is the worker's, and this process's

`<name>.size` says how many bytes the zygote holds. Whatever goes wrong before `running` closes the connection, and the
horse starts its job another way.
"""

# ruff: noqa: PTH104, PTH108, PTH116, PTH123 - as in worker/reaper.py

import contextlib
import json
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from worker.reaper import (
    PR_SET_CHILD_SUBREAPER,
    Lines,
    OomKills,
    Reaper,
    family,
    kill_descendants,
    prctl,
    proportional,
    reap,
    resident,
    wakes,
)

FORK_PATIENCE = 10.0
"""Seconds that a zygote may take to fork."""
FORK_DELAY = 0.015
"""Seconds after a job's end until the next one's fork is made, unless that comes first: while a process forks, others
wait for memory, and what became of the job is on its way to those that depend on it."""
_MOST_PRINTED = 64 * 1024
_ORDER = 1 << 16
_MOST_FDS = 16


class ZygoteError(Exception):
    """The zygote did not fork; the job has not begun."""


class Zygote:
    """The process that has imported the function's module, seen from here, and the fork that waits for a job."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self.control = control
        self.lives = True
        self.forks = False
        self.printed = b""
        self.size = 0
        self._fork: tuple[int, socket.socket] | None = None

    def answer(self) -> dict[str, Any]:
        """What it says.

        Raises ZygoteError where it says nothing (in time), or not what it should.
        """
        try:
            answer = json.loads(self.control.recv(_ORDER))
        except (OSError, ValueError):
            raise ZygoteError from None
        if not isinstance(answer, dict):
            raise ZygoteError
        return answer

    def run_itself(self) -> None:
        """Have it run the job for which it was started."""
        with contextlib.suppress(OSError):  # it has ended, which is seen elsewhere
            self.control.send(json.dumps({"fork": False}).encode())

    def prepare(self) -> None:
        """Have a fork that waits for a job: a child of this process.

        Raises ZygoteError.
        """
        if self._fork is not None:
            return
        with contextlib.suppress(OSError):  # a job may have stopped it
            os.kill(self.pid, signal.SIGCONT)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.control.settimeout(FORK_PATIENCE)
            try:
                socket.send_fds(self.control, [b'{"fork": true}'], [theirs.fileno()])
            except OSError:
                raise ZygoteError from None
        pid = self.answer().get("pid")
        if not isinstance(pid, int) or pid <= 0:
            raise ZygoteError
        self._fork = pid, ours

    def hand_over(self, order: dict[str, Any], ends: "list[int]", begins: "Callable[[], None]") -> int:
        """Give a job to the fork, having said that it begins; the fork's pid.

        Raises ZygoteError where it has not begun.
        """
        self.prepare()
        assert self._fork is not None
        (pid, connection), self._fork = self._fork, None
        with connection:
            begins()
            with contextlib.suppress(OSError):  # it was killed, which is seen as the job's end
                env = {name: order["env"][name] for name in order["own"]}
                job = {"cwd": order["cwd"], "env": env, "parent": os.getpid()}
                os.kill(pid, signal.SIGCONT)  # should another job have stopped it
                socket.send_fds(connection, [json.dumps(job).encode()], ends)
        return pid

    def on_end(self, pid: int) -> None:
        """Hear that a child of this process has ended."""
        if pid == self.pid:
            self.lives = False
        elif self._fork is not None and pid == self._fork[0]:
            self._fork[1].close()
            self._fork = None


class Job(Reaper):
    """One job: of a zygote that is there, or else the one that starts it and has to wait for the import."""

    def __init__(
        self,
        order: dict[str, Any],
        control: Lines,
        wake: int,
        oom_kills: OomKills,
        zygote: "Zygote | None",
        *,
        largest: int,
    ) -> None:
        super().__init__(order, control, wake, oom_kills)
        self.zygote = zygote
        self._largest = largest
        self._warm = zygote is not None
        self._why_cold: str | None = None
        self._ends: list[int] = []
        self._printed = b""

    def run(self) -> dict[str, Any]:
        """As the reaper's, with whether it was warm, or why the next ones cannot be.

        Raises ZygoteError where the function has not begun, and does not.
        """
        end = super().run()
        return {**end, "warm": self._warm, "why_cold": self._why_cold}

    def _start(self) -> None:
        self._ends = self._open()
        if self.zygote is not None:
            self.log.write(self.zygote.printed)
            self._fork(self.zygote)
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._spawn([*self._ends, theirs.fileno()])
        theirs.close()
        self.zygote = zygote = Zygote(ours, self.pid)
        self._listen(ours.fileno(), lambda: self._imported(zygote))

    def _imported(self, zygote: Zygote) -> bool:
        """The module is imported: fork the job from it, or let it run there."""
        try:
            answer = zygote.answer()
        except ZygoteError:
            return False  # it has ended: while it imports, it is the job
        self._drain()
        zygote.size = proportional([zygote.pid])
        self._why_cold = answer.get("why") or self._obstacle(zygote)
        if self._why_cold is None:
            zygote.forks, zygote.printed = True, self._printed
            self._fork(zygote)
            return False
        self.log.write(f"[dcm-processor: not kept warm: {self._why_cold}]\n".encode())
        self._close_ends()
        self._tell_running()
        zygote.run_itself()
        return False

    def _obstacle(self, zygote: Zygote) -> "str | None":
        """Why the zygote cannot be kept, as far as it is seen from here."""
        if len(family(os.getpid())) > 1:
            return "its import leaves a process running"
        if zygote.size > self._largest:
            return f"its import holds {zygote.size >> 20} MB, more than WARM_MEMORY"
        return None

    def _fork(self, zygote: Zygote) -> None:
        try:
            self.pid = zygote.hand_over(self.order, self._ends, self._tell_running)
        finally:
            self._close_ends()

    def _close_ends(self) -> None:
        for fd in self._ends:
            os.close(fd)
        self._ends = []

    def _tell_running(self) -> None:
        self.control.answer({"kind": "running"})

    # -- what is not the job's

    def _spared(self) -> int:
        """The zygote's pid where it is not the job itself."""
        zygote = self.zygote
        return zygote.pid if zygote is not None and zygote.lives and zygote.pid != self.pid else 0

    def _kill(self) -> bool:
        return kill_descendants(self._on_end, spare=self._spared())

    def _pids(self) -> list[int]:
        return [pid for pid in family(os.getpid()) if pid != self._spared()]

    def _used(self) -> int:
        """A page that job and zygote share counts once: it is one that a process of its own would hold as well."""
        pids = self._pids()
        used, spared = resident(pids), self._spared()
        if used <= self.order["memory"]:
            return used
        return min(used, proportional([*pids, spared] if spared else pids))

    def _on_end(self, pid: int, status: int, usage: Any) -> None:
        if self.zygote is not None:
            self.zygote.on_end(pid)
            if pid == self.zygote.pid != self.pid:
                return
        super()._on_end(pid, status, usage)

    def _take(self, data: bytes) -> None:
        super()._take(data)
        if self.zygote is not None and not self.zygote.forks:
            self._printed = (self._printed + data)[:_MOST_PRINTED]


class Keeper:
    """The process's life. `idle` and `age` in seconds, `largest` in bytes."""

    def __init__(self, name: str, lifeline: int, *, idle: float, age: float, largest: int) -> None:
        self._name = name
        self._lifeline = lifeline
        self._idle = idle
        self._largest = largest
        self._leave_at = time.monotonic() + age
        self._wake = wakes()
        self._oom_kills = OomKills()
        self._listener: socket.socket | None = None
        self._number = 0  # the inode of the socket's name
        self._zygote: Zygote | None = None

    def run(self, connection: "socket.socket | None") -> None:
        """Serve this connection and those that come, until it is time to leave."""
        while connection is not None:
            stays = self._serve(connection)
            connection = self._next() if stays else None
        self._unlist()
        kill_descendants()

    def _serve(self, connection: socket.socket) -> bool:
        """Run a connection's job; True where another one may follow."""
        with connection:
            received = receive(connection)
            if received is None:
                return True
            order, fds, rest = received
            if order.get("leave"):
                return False
            try:
                for name in ("input", "returned"):
                    if order.get(name) is not None:
                        order[name] = fds.pop(0)
                lines = Lines(connection.fileno(), rest)
                job = Job(order, lines, self._wake, self._oom_kills, self._zygote, largest=self._largest)
                end = job.run()
            except ZygoteError:
                kill_descendants()
                return False
            finally:
                for fd in fds:
                    os.close(fd)
            self._zygote = job.zygote
            stays = self._zygote is not None and self._zygote.forks and self._zygote.lives and not end["survivors"]
            stays = stays and self._list()
            lines.answer(end)
            return stays

    def _next(self) -> "socket.socket | None":
        """The next connection; None where this process is to leave."""
        zygote = self._zygote
        assert self._listener is not None
        assert zygote is not None
        poll = select.poll()
        for fd in (self._listener.fileno(), self._lifeline, self._wake):
            poll.register(fd, select.POLLIN)
        now = time.monotonic()
        until, fork_at = min(now + self._idle, self._leave_at), now + FORK_DELAY
        while True:
            if time.monotonic() >= fork_at:
                fork_at = math.inf
                try:
                    zygote.prepare()
                except ZygoteError:
                    return None
            events = dict(poll.poll(max(min(until, fork_at) - time.monotonic(), 0) * 1000 + 1))
            if self._lifeline in events:
                return None
            if self._wake in events:
                os.read(self._wake, 4096)
                reap(lambda pid, *_: zygote.on_end(pid))
                if not zygote.lives:
                    return None
            if self._listener.fileno() in events:
                with contextlib.suppress(OSError):
                    return self._listener.accept()[0]
            if time.monotonic() >= until:
                return None

    def _list(self) -> bool:
        """Have a name where horses find this process; False where that cannot be."""
        if self._listener is not None:
            return True
        assert self._zygote is not None
        partial = f"{self._name}.{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(partial)
            listener.listen(8)
            listener.setblocking(False)
            self._number = os.stat(partial).st_ino
            with open(f"{self._name}.size", "w", encoding="ascii") as file:
                file.write(str(self._zygote.size))
            os.rename(partial, self._name)
        except OSError:
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(partial)
            return False
        self._listener = listener
        return True

    def _unlist(self) -> None:
        """Give the name up, unless somebody else has it by now."""
        with contextlib.suppress(OSError):
            if self._listener is not None and os.stat(self._name).st_ino == self._number:
                os.unlink(self._name)
                os.unlink(f"{self._name}.size")


def receive(connection: socket.socket) -> "tuple[dict[str, Any], list[int], bytes] | None":
    """An order, the descriptors that came with it, and what came after it; None where the other side is gone."""
    connection.setblocking(True)
    data, fds = b"", []
    while b"\n" not in data:
        try:
            piece, new, _, _ = socket.recv_fds(connection, _ORDER, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            piece, new = b"", []
        fds += new
        if not piece:
            for fd in fds:
                os.close(fd)
            return None
        data += piece
    line, _, rest = data.partition(b"\n")
    return json.loads(line), fds, rest


def main(folder: str, name: str, lifeline: int, *, idle: float, age: float, largest: int) -> None:
    """Keep `name` of the folder (worker/warm.py)."""
    os.chdir(folder)  # a socket's address has little room
    os.set_inheritable(lifeline, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    Keeper(name, lifeline, idle=idle, age=age, largest=largest).run(connection)
    os._exit(0)

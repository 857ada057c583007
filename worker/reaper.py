"""Runs one command so that nothing it starts outlives its end, its limits, or the worker that asked for it.

A worker runs this file as a process of its own (`python -I -S reaper.py`, standard library only), one for each
command. It is a child subreaper (prctl(2)): whatever the command starts, also what double-forks into a daemon of
its own session, becomes its child at last, and it leaves only when it has no child left.

    stdin    the order, one line of JSON (`worker.contained.Command`), then `kill <word>` lines; its end means that
             the worker died, and so does the command
    stdout   its end, one line of JSON (`worker.contained.End`)
    stderr   the worker's

The command's stdout and stderr come through a pipe into a log that is capped: a flood neither blocks the command
nor fills the disk. What it has to say about itself comes as lines of JSON through its file descriptor 3; its number 5
leads to the worker.
"""

# ruff: noqa: PTH110, PTH123, PTH208 - pathlib would cost a third of this process's start, and each job starts one

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

MESSAGES_FD = 3
DUMP_SIGNAL = signal.SIGUSR1
"""Asks the runner to write down where its threads are (faulthandler); sent before a time-out kills."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform.startswith("linux")
"""Elsewhere (macOS, for rehearsals) are no subreapers and no /proc: ps(1) tells who descends from whom, and of what
lost its parent the command's process group alone is known."""
_F_SETPIPE_SZ = 1031
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss (getrusage(2))
_PIPE = 1 << 20
_TAIL = 64 * 1024
_MAX_MESSAGES = 1 << 20
_MEMORY_INTERVAL = 0.2
_DUMP_GRACE = 0.3
_KILL_PATIENCE = 30.0
_LONGEST_POLL = 3600.0


# -- processes


class Process(NamedTuple):
    """What the system says of a process: its parent, its process group, and whether it has ended (a zombie)."""

    parent: int
    group: int
    ended: bool


def family(root: int) -> dict[int, Process]:
    """Every living descendant of `root`: in the time that they take, however many processes there are beside them."""
    children = _children if _lists_children() else _lookup()
    found: dict[int, Process] = {}
    queue = [root]
    while queue:
        new = children(queue.pop())
        found.update(new)
        queue.extend(new)
    return found


@functools.cache
def _lists_children() -> bool:
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children(parent: int) -> dict[int, Process]:
    """A process's children, those of each of its threads (proc_pid_task(5); kernels without checkpoints lack it)."""
    found: dict[int, Process] = {}
    with contextlib.suppress(OSError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{parent}/task"):
            for pid in map(int, _read(f"/proc/{parent}/task/{thread}/children").split()):
                if (process := _process(pid)) is not None:
                    found[pid] = process
    return found


def _lookup() -> "Callable[[int], dict[int, Process]]":
    """The same by a look at every process there is."""
    if LINUX:
        listed = ((int(name), _process(int(name))) for name in os.listdir("/proc") if name.isdecimal())
        everybody = {pid: process for pid, process in listed if process is not None}
    else:
        everybody = {pid: Process(parent, group, ended=False) for pid, parent, group in _ps("pid", "ppid", "pgid")}
    families: dict[int, dict[int, Process]] = {}
    for pid, process in everybody.items():
        families.setdefault(process.parent, {})[pid] = process
    return lambda parent: families.get(parent, {})


def _process(pid: int) -> "Process | None":
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None  # it ended meanwhile
    return Process(int(fields[1]), int(fields[2]), fields[0] in b"ZX")


def _read(path: str) -> bytes:
    """A file of /proc, by half the system calls that a file object makes: a job's successor waits for it."""
    fd, data = os.open(path, os.O_RDONLY), b""
    try:
        while piece := os.read(fd, 1 << 16):
            data += piece
    finally:
        os.close(fd)
    return data


def _ps(*columns: str) -> "list[list[int]]":
    """The numbers that ps(1) knows of every process, where there is no /proc."""
    import subprocess  # noqa: PLC0415 - costs milliseconds, which Linux need not pay

    options = [option for column in columns for option in ("-o", f"{column}=")]
    with contextlib.suppress(OSError, ValueError):
        said = subprocess.run(["/bin/ps", "-A", *options], stdout=subprocess.PIPE, check=False).stdout
        return [[int(number) for number in line.split()] for line in said.splitlines()]
    return []


def kill_descendants(on_end: Any = None, patience: float = _KILL_PATIENCE, spare: int = 0) -> bool:
    """SIGKILL all descendants of this process, a subreaper, until none is left; False where some would not die.

    A process without a child has no descendant either, since orphans are handed to the subreaper. Groups are killed
    as a whole: that is one step for the kernel, and nothing that forks all the time gets between. `spare`, a child that
    leads a session of its own, may live. `on_end(pid, status, rusage)` is called for each child that ended.
    """
    ended = 0

    def note(*end: Any) -> None:
        nonlocal ended
        ended += 1
        if on_end is not None:
            on_end(*end)

    me = os.getpid()
    deadline, pause = time.monotonic() + patience, 0.001
    while not reap(note):
        before, found = ended, family(me)
        found.pop(spare, None)
        kill(found, but_groups={os.getpgrp(), 0, spare})
        if reap(note):
            return True
        if spare and not found and ended == before:
            return True  # what has ended before it could be read would have been reaped here
        if time.monotonic() > deadline:
            return False
        if found:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
    return True


def kill(processes: "dict[int, Process]", but_groups: "set[int]") -> None:
    """SIGKILL processes, and their process groups as a whole but for those."""
    for group in {process.group for process in processes.values()} - but_groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    for pid in processes:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def reap(on_end: Any = None) -> bool:
    """Take leave of the children that ended; True when there is no child left."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False
        if on_end is not None:
            on_end(pid, status, usage)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (prctl(2)); nothing where the system is another.

    Raises OSError where the kernel does not know the option.
    """
    if not LINUX:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# -- memory


def resident(pids: Any) -> int:
    """Bytes of memory that processes hold, pages they share counted for each."""
    if not LINUX:
        return sum(kilobytes * 1024 for pid, kilobytes in _ps("pid", "rss") if pid in pids)
    page, total = os.sysconf("SC_PAGESIZE"), 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
            total += int(file.read().split()[1]) * page
    return total


def proportional(pids: Any) -> int:
    """The same with each shared page counted once in all (slower, and never more than `resident`)."""
    if not LINUX:
        return resident(pids)
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
        except (OSError, StopIteration):
            total += resident([pid])
    return total


class OomKills:
    """How often the kernel's OOM killer struck: in this control group where that is counted, else on this host.

    The file is found and opened once: each job waits for the count, and its successor as well.
    """

    def __init__(self) -> None:
        self._fd = -1
        for path in [*_memory_events(), "/proc/vmstat"]:
            with contextlib.suppress(OSError):
                self._fd = os.open(path, os.O_RDONLY)
                if self._read() is not None:
                    return
                os.close(self._fd)
        self._fd = -1

    def count(self) -> int:
        """0 where nobody counts."""
        return self._read() or 0

    def _read(self) -> "int | None":
        data = b""
        with contextlib.suppress(OSError):  # no counter, or its control group is gone
            while piece := os.pread(self._fd, 1 << 16, len(data)):
                data += piece
        for line in data.splitlines():
            name, _, value = line.partition(b" ")
            if name == b"oom_kill" and value.isdigit():
                return int(value)
        return None


def _memory_events() -> "list[str]":
    """Where this process's control group counts, by cgroup v2 or v1 (cgroups(7))."""
    files = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                files.append(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                files.append(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    return files


# -- the log


class Log:
    """A file that takes so many bytes: the beginning, a mark where it was cut, and at the end the last of it."""

    def __init__(self, path: str, limit: int) -> None:
        self.size = 0
        self.cut = 0  # bytes left out
        self.fault: str | None = None  # why bytes were lost
        self._room = max(limit - _TAIL - 512, 0)
        self._tail = bytearray()
        self._lost = 0
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self.size = os.fstat(self._fd).st_size
        except OSError as error:
            self.fault = error.strerror

    def write(self, data: bytes) -> None:
        room = self._room - self.size
        if self.cut == 0 and len(data) <= room:
            self._put(data)
            return
        if self.cut == 0:
            end = data.rfind(b"\n", 0, max(room, 0)) + 1 or max(room, 0)
            self._put(data[:end])
            self._put(b"\n[dcm-processor: the log is full; what follows is left out but for its end]\n")
            data = data[end:]
        self.cut += len(data)
        self._tail = (self._tail + data)[-_TAIL:] if len(data) < _TAIL else bytearray(data[-_TAIL:])

    def close(self) -> None:
        if self.cut:
            end = bytes(self._tail)
            if self.cut > len(end):  # begin with a whole line
                end = end[end.find(b"\n") + 1 :]
            self._put(b"[dcm-processor: %d bytes left out]\n" % (self.cut - len(end)) + end)
        elif self._lost:
            self._put(b"")
        if self._fd >= 0:
            os.close(self._fd)

    def _put(self, data: bytes) -> None:
        if self._lost:
            data = b"\n[dcm-processor: %d bytes lost here: %s]\n" % (self._lost, (self.fault or "").encode()) + data
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            self.fault = self.fault or error.strerror
            self._lost += len(data) - written
        else:
            self._lost = 0
        self.size += written


# -- one command


def wakes() -> int:
    """A file descriptor that can be read when a child ended; signals that would end this process no longer do."""
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the worker decides; it may get the same signal
    return wake_read


class Reaper:
    """The command, what limits it, and what is known of it."""

    def __init__(self, order: dict[str, Any], control: "Lines", wake: int, oom_kills: OomKills) -> None:
        self.order = order
        self.control = control
        self._oom_kills = oom_kills
        self.log = Log(order["log"], order["log_limit"])
        self.killed: str | None = None
        self.status: int | None = None
        self.began: float | None = None
        self.peak = 0
        self.messages: list[Any] = []
        self.pid = 0
        self._poll = select.poll()
        self._sources: dict[int, Callable[[], bool]] = {}
        self._listen(wake, lambda: self._woken(wake))
        self._listen(control.fd, lambda: self._obey(control.read()))
        self._output = self._messages = -1
        self._pending = b""
        self._message_bytes = 0
        self._function: float | None = None  # when the function began, on the monotonic clock
        self._kill_at: float | None = None
        self._started = self._measure_at = 0.0

    def run(self) -> dict[str, Any]:
        """Run the command to its end and say how it was."""
        kills = self._oom_kills.count()
        self._start()
        self._started = self._measure_at = time.monotonic()
        self._obey(self.control.arrived())
        all_gone = self._enforce()
        while self.status is None and all_gone:
            for fd, _ in self._poll.poll(self._patience()):
                if fd in self._sources and not self._sources[fd]():
                    self._poll.unregister(fd)
                    del self._sources[fd]
            all_gone = self._enforce()
        all_gone = all_gone and self._kill()
        self._drain()
        self._hear()
        self.log.close()
        for fd in (self._output, self._messages):
            os.close(fd)
        code = -signal.SIGKILL if self.status is None else os.waitstatus_to_exitcode(self.status)
        return {
            "status": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "killed": self.killed,
            "began": self.began,
            "peak_memory": self.peak,
            "oom_kills": max(self._oom_kills.count() - kills, 0),
            "log_size": self.log.size,
            "log_cut": self.log.cut,
            "log_fault": self.log.fault,
            "messages": self.messages,
            "survivors": [] if all_gone else sorted(self._pids()),
        }

    def _listen(self, fd: int, act: Callable[[], bool]) -> None:
        """Call `act` whenever the descriptor can be read, until it returns False."""
        self._sources[fd] = act
        self._poll.register(fd, select.POLLIN)

    def _start(self) -> None:
        ends = self._open()
        self._spawn(ends)
        for fd in ends:
            os.close(fd)

    def _open(self) -> list[int]:
        """Open the pipes that are listened to; returns the command's ends.

        These are for its output, its messages, its input, and for its word that it has returned.
        """
        self._output, output_end = os.pipe()
        self._messages, messages_end = os.pipe()
        with contextlib.suppress(OSError):  # above the limit for users: the default size does
            fcntl.fcntl(self._output, _F_SETPIPE_SZ, _PIPE)
        for fd in (self._output, self._messages):
            os.set_blocking(fd, False)
        self._listen(self._output, lambda: self._drain(once=True))
        self._listen(self._messages, self._hear)
        given = self.order["input"], self.order.get("returned")  # a worker from before an update does not know this one
        return [output_end, messages_end, *(os.open(os.devnull, os.O_RDWR) if fd is None else fd for fd in given)]

    def _spawn(self, ends: "list[int]") -> None:
        """Start the command; it finds its ends as descriptors 1 and 2, 3, 4, 5, and what else there is from 6 on."""
        me, self.pid = os.getpid(), os.fork()
        if self.pid == 0:
            self._become(me, ends)

    def _become(self, parent: int, ends: "list[int]") -> NoReturn:
        """In the child: become the command."""
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("1000")  # should memory run out, the job goes, not the worker
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, which execve would keep
                signal.signal(number, signal.SIG_DFL)
            sources = [os.open(os.devnull, os.O_RDONLY), ends[0], *ends]
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in sources]
            for target, fd in enumerate(high):
                os.dup2(fd, target)
            os.closerange(len(high), 1 << 16)
            os.chdir(self.order["cwd"])
            os.execve(self.order["argv"][0], self.order["argv"], self.order["env"])  # noqa: S606 - no shell is wanted
        except OSError as error:
            text = f"{self.order['argv'][0]} in {self.order['cwd']} cannot be started: {error.strerror}"
            os.write(MESSAGES_FD, json.dumps({"kind": "unstartable", "error": text}).encode() + b"\n")
        finally:
            os._exit(127)

    def _on_end(self, pid: int, status: int, usage: Any) -> None:
        self.peak = max(self.peak, usage.ru_maxrss * _RSS_UNIT)
        if pid == self.pid:
            self.status = status
            if not LINUX:
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)

    def _woken(self, wake: int) -> bool:
        os.read(wake, 4096)
        reap(self._on_end)
        return True

    def _kill(self) -> bool:
        """Kill the command and all it started; False where some would not die."""
        return kill_descendants(self._on_end)

    def _pids(self) -> list[int]:
        """The command's processes."""
        return list(family(os.getpid()))

    def _ended(self) -> bool:
        """Whether the command has ended; asked before each judgement, since this process may have stood still."""
        if self.status is None:
            reap(self._on_end)
        return self.status is not None

    def _patience(self) -> float | None:
        """Milliseconds until something is due."""
        moments = [moment for moment in (self._deadline(), self._kill_at) if moment is not None]
        if self.order["memory"] is not None:
            moments.append(self._measure_at)
        if not moments:
            return None
        seconds = min(moments) - time.monotonic()
        return min(max(seconds, 0), _LONGEST_POLL) * 1000 + 1

    def _deadline(self) -> float | None:
        if self.killed is not None:
            return None
        if self._function is None:
            limit: float | None = self.order["start_timeout"]
            return None if limit is None else self._started + limit
        return self._function + float(self.order["timeout"])

    def _enforce(self) -> bool:
        """Kill what is due to be killed; False where it would not die."""
        now = time.monotonic()
        if self._ended():
            return True  # nothing is left to be limited; what it started goes in the end
        deadline = self._deadline()
        if deadline is not None and now >= deadline:
            self.killed = "timeout" if self._function is not None else "start"
            self._kill_at = now
            if self.order["dump"]:
                with contextlib.suppress(OSError):
                    os.kill(self.pid, DUMP_SIGNAL)
                self._kill_at = now + _DUMP_GRACE
        if self.order["memory"] is not None and now >= self._measure_at and self.killed is None:
            self._measure(now)
        return self._kill_at is None or now < self._kill_at or self._kill()

    def _measure(self, now: float) -> None:
        used = self._used()
        self.peak = max(self.peak, used)
        if used > self.order["memory"]:
            self.killed, self._kill_at = "memory", now
        self._measure_at = now + max(_MEMORY_INTERVAL, 20 * (time.monotonic() - now))  # at most 5 % of a core

    def _used(self) -> int:
        """Bytes of memory that the command's processes hold, exactly where they may be too many."""
        pids = self._pids()
        used = resident(pids)
        return proportional(pids) if used > self.order["memory"] else used

    def _obey(self, lines: list[bytes]) -> bool:
        """Take the worker's orders; False where it died."""
        if self._ended():
            return b"" not in lines  # it came to its own end before the order came
        for line in lines:
            if self.killed is None:
                self.killed = line.partition(b" ")[2].decode("ascii", "replace") if line else "orphaned"
            self._kill_at = time.monotonic()
        return b"" not in lines

    def _drain(self, *, once: bool = False) -> bool:
        """Take what the command printed; False at the end of it."""
        for _ in range(1 if once else 64):  # more than the pipe holds: what would not die may print for ever
            try:
                data = os.read(self._output, _PIPE)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        self.log.write(data)

    def _hear(self) -> bool:
        """Take what the command says about itself; False at the end of it."""
        while True:
            try:
                data = os.read(self._messages, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._message_bytes += len(data)
            if self._message_bytes > _MAX_MESSAGES:
                continue
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):  # a service may write what it likes
                    message = json.loads(line)
                    self.messages.append(message)
                    if message == {"kind": "begins"} and self._function is None:
                        self._function, self.began = time.monotonic(), time.time()


class Lines:
    """Lines that arrive on a file descriptor, and answers to them (None: the same takes them)."""

    def __init__(self, fd: int, arrived: bytes = b"", answers: "int | None" = None) -> None:
        self.fd = fd
        self._buffer = arrived
        self._answers = fd if answers is None else answers

    def first(self) -> bytes:
        """The first line, waited for; b"" where there is none."""
        while b"\n" not in self._buffer:
            data = os.read(self.fd, 1 << 16)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def arrived(self) -> list[bytes]:
        """The lines that came along with those read before."""
        *lines, self._buffer = self._buffer.split(b"\n")
        return lines

    def read(self) -> list[bytes]:
        """The lines that arrive; the last one is b"" where the other side is gone."""
        data = os.read(self.fd, 4096)
        self._buffer += data
        return [*self.arrived(), *([b""] if not data else [])]

    def answer(self, message: "dict[str, Any]") -> None:
        """Say something to the other side; nothing where it is gone."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._answers, data) :]


def main() -> None:
    """Run the command that stdin orders, and report on stdout."""
    control = Lines(0, answers=1)
    text = control.first()
    if not text:
        return  # the worker died before it could say what it wanted
    order = json.loads(text)
    for fd in order["keep"] + ([] if order["input"] is None else [order["input"]]):
        os.set_inheritable(fd, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    control.answer(Reaper(order, control, wakes(), OomKills()).run())
    os._exit(0)  # taking the interpreter apart would cost the next job milliseconds


if __name__ == "__main__":
    main()

"""Turns the runner, when it has imported a function's module, into a zygote: a process that forks one for each job.

In the service's own interpreter (Python 3.9 or newer, standard library alone). The keeper (worker/keeper.py) is at the
other end of descriptor 6, a socket of packets of JSON:

    zygote ▶ {"why": null}, or why it must not fork          once, when the import is done
    keeper ▶ {"fork": false}                                  run the job you were started for
    keeper ▶ {"fork": true}, with the other end of a socket   make a child of the keeper that waits there for its job
    zygote ▶ {"pid"}                                          its pid
    keeper ▶ {"cwd", "env", "parent"} there, with four descriptors: the job's output, messages, task, and
                                                          where it says that its function has returned

A fork is what a process of its own would be at this moment only if nothing of the import is shared by all forks or lost
in them; `Zygote.obstacle` looks for that.
"""

# ruff: noqa: PTH109, PTH115, PTH123, PTH208 - the service may not need pathlib

import contextlib
import ctypes
import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import warnings
from typing import Any

CONTROL_FD = 6
_MESSAGES_FD = 3
_PR_SET_PDEATHSIG = 1
_HARMLESS = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/tty")
_GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/dxg")


class Zygote:
    """To be made before the import, so that it can tell what the import left behind."""

    def __init__(self, control: int = CONTROL_FD) -> None:
        os.set_inheritable(control, False)
        self._control = socket.socket(fileno=control)
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._seeded = False
        self._seed = random.seed
        random.seed = self._noted_seed
        self._random: Any = None
        self._serves = False
        self._folder = os.getcwd()
        self._files = self._listing()
        self._open = {fd for fd, _ in _open_files()}

    def _noted_seed(self, *args: Any, **kwargs: Any) -> None:
        self._seeded = True
        self._seed(*args, **kwargs)

    def serve(self) -> None:
        """Fork whenever the keeper asks; returns in each process that is to run a job."""
        random.seed = self._seed
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self._control.send(json.dumps({"why": self.obstacle()}).encode())
        while True:
            text, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 8, socket.MSG_CMSG_CLOEXEC)
            if not text:
                os._exit(0)
            request = json.loads(text)
            if not request["fork"]:
                self._control.close()
                return
            if not self._serves:
                self._let_go()
            pid = self._double_fork()
            if pid == 0:
                self._become(socket.socket(fileno=fds[0]))
                return
            for fd in fds:
                os.close(fd)
            self._control.send(json.dumps({"pid": pid}).encode())

    # -- why not

    def obstacle(self) -> "str | None":  # noqa: PLR0911 - one reason a return
        """Why forks of this process would not do as processes of their own."""
        if not hasattr(socket, "recv_fds"):
            return "its Python is older than 3.9"
        torch = sys.modules.get("torch")
        with contextlib.suppress(Exception):
            if torch is not None and torch.cuda.is_initialized():
                return "its import initialises CUDA, which no fork can use"
        files = [target for fd, target in _open_files() if fd not in self._open and target not in _HARMLESS]
        if any(target.startswith(_GPUS) for target in files):
            return "its import opens the GPU, which no fork can use"
        if threading.active_count() > 1:
            return "its import starts threads, which no fork has"
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return "its import leaves a process running"
        if files:
            return f"its import leaves {files[0]} open, which all forks would share"
        if os.getcwd() != self._folder or self._listing() != self._files:
            return "its import changes or fills its working directory, which is another one for each job"
        if any(line.split()[1][3] == "s" and line.split()[1][1] == "w" for line in _mappings()):
            return "its import makes memory that all forks would share"
        if signal.getitimer(signal.ITIMER_REAL)[0] or signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL:
            return "its import sets a timer or handles SIGCHLD, which no fork would have alike"
        pid = self._fork()  # which ends what can come to terms with forks, OpenBLAS's threads for example
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        if len(os.listdir("/proc/self/task")) > 1:
            return "its import starts threads of a library, which no fork has"
        return None

    def _listing(self) -> "list[list[str]]":
        return [sorted(os.listdir(folder)) for folder in (self._folder, os.environ.get("TMPDIR", self._folder))]

    # -- forking

    def _let_go(self) -> None:
        """Hold nothing of the first job: its task tells of a patient. What is common to all forks is settled."""
        self._serves = True
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(CONTROL_FD):
            os.dup2(null, fd)
        os.close(null)
        if self._seeded:
            self._random = random.getstate()
        gc.collect()

    def _fork(self) -> int:
        with warnings.catch_warnings():  # of Python 3.12 and newer, about threads, which are looked for
            warnings.simplefilter("ignore")
            return os.fork()

    def _double_fork(self) -> int:
        """0 in the new process; here its pid, when it is the keeper's child. -1: there is none."""
        read, write = os.pipe()
        middle = self._fork()
        if middle == 0:
            try:
                pid = self._fork()
            except OSError:
                os._exit(1)
            if pid == 0:
                os.close(read)
                os.close(write)
                return 0
            os.write(write, str(pid).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            pid = int(file.read() or b"-1")
        os.waitpid(middle, 0)
        return pid

    def _become(self, connection: socket.socket) -> None:
        """In the new process: wait for the job, and be as the reaper makes one (`worker.reaper.Reaper._become`)."""
        self._control.close()
        os.setsid()
        text, fds, _, _ = socket.recv_fds(connection, 1 << 16, 8, socket.MSG_CMSG_CLOEXEC)
        connection.close()
        if not text:
            os._exit(0)
        request = json.loads(text)
        output, *others = fds
        self._prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != request["parent"]:
            os._exit(1)
        os.environ.update(request["env"])
        for target, fd in enumerate((output, output, *others), 1):
            os.dup2(fd, target, inheritable=target < _MESSAGES_FD)
        for fd in fds:
            os.close(fd)
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            said = f"the job in {request['cwd']} cannot be started: {error.strerror}"
            os.write(_MESSAGES_FD, json.dumps({"kind": "unstartable", "error": said}).encode() + b"\n")
            os._exit(127)
        if self._seeded:  # else Python has seeded it anew
            random.setstate(self._random)
        numpy = sys.modules.get("numpy.random")
        with contextlib.suppress(Exception):  # one without such a thing, or one that is no numpy
            if numpy is not None and numpy.mtrand._rand._bit_generator._seed_seq is not None:  # not by the module
                numpy.seed()


def _open_files() -> "list[tuple[int, str]]":
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found


def _mappings() -> "list[str]":
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        return file.readlines()

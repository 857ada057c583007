"""supervisord: start it, ask it, change what it runs, end it. One for each BASEDIR, reached by a Unix socket."""

import contextlib
import http.client
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dcm_processor.errors import StackError
from dcm_processor.settings import CHECKOUT

_TIMEOUT = 30  # seconds for one answer
_ALREADY_STARTED = 60  # supervisor.xmlrpc.Faults
_POLL = 0.05  # seconds
_LONGEST_SUFFIX = ".4194304"  # supervisord first binds <socket>.<its process number>


@dataclass(frozen=True)
class Status:
    """What supervisord says of one program: `pid` 0 while it does not run, `started` seconds since the epoch."""

    name: str
    state: str  # STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL UNKNOWN
    pid: int
    started: int


def place_for_socket(folder: Path) -> Path:
    """Where the socket goes: into `folder`, or into a private temporary one where the system allows none there.

    (A path over 107 bytes, or a file system without sockets.)
    """
    place = folder / "supervisord.sock"
    probe = folder / f"supervisord.sock{_LONGEST_SUFFIX}"
    with socket.socket(socket.AF_UNIX) as attempt:
        try:
            attempt.bind(os.fspath(probe))
        except OSError:
            return Path(tempfile.mkdtemp(prefix="dcm-processor-")) / place.name
        finally:
            probe.unlink(missing_ok=True)
    return place


class Supervisor:
    """The supervisord behind a socket; every method but `start` and `alive` raises StackError where none runs."""

    def __init__(self, socket_path: Path) -> None:
        self.socket = socket_path
        self._server = xmlrpc.client.ServerProxy("http://supervisord/RPC2", transport=_Transport(socket_path))

    def alive(self) -> bool:
        """Whether a supervisord answers.

        Raises StackError where one is there that this user may not ask.
        """
        try:
            self._ask("getState")
        except PermissionError:
            raise StackError(
                f"it runs as another user ({self.socket} is not for this one); go on as that user, or with sudo"
            ) from None
        except (OSError, http.client.HTTPException):
            return False
        return True

    def start(self, configuration: Path, environment: Mapping[str, str]) -> None:
        """Start supervisord, detached, with all its programs.

        Raises StackError with its own words where it does not start.
        """
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", os.fspath(configuration)],
            cwd=CHECKOUT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"supervisord did not start: {done.stdout.strip()}")

    def status(self) -> list[Status]:
        """Every program, by name."""
        return [
            Status(str(p["name"]), str(p["statename"]), int(p["pid"]), int(p["start"]))
            for p in cast("list[dict[str, Any]]", self._call("getAllProcessInfo"))
        ]

    def reread(self) -> None:
        """Read the configuration again: start programs that are new, end and forget those that are gone.

        A program that is in it as before is not touched.
        """
        [[added, _changed, removed]] = cast("list[list[list[str]]]", self._call("reloadConfig"))
        self.stop(removed)
        for name in removed:
            self._call("removeProcessGroup", name)
        for name in added:
            self._call("addProcessGroup", name)

    def start_stopped(self) -> None:
        """Start what somebody stopped by hand, and at once what was to be tried again later."""
        for program in self.status():
            if program.state == "BACKOFF":
                self.stop([program.name])
            if program.state in ("STOPPED", "EXITED", "FATAL", "BACKOFF"):
                try:
                    self._call("startProcess", program.name, False)
                except xmlrpc.client.Fault as fault:
                    if fault.faultCode != _ALREADY_STARTED:  # by supervisord, as it does what ends by itself
                        raise

    def stop(self, names: Iterable[str]) -> None:
        """End programs, all at once, and wait for them; supervisord kills each whose patience runs out."""
        wanted = set(names)
        for name in wanted:
            with contextlib.suppress(xmlrpc.client.Fault):  # not running
                self._call("stopProcess", name, False)
        while any(p.name in wanted and p.pid for p in self.status()):
            time.sleep(_POLL)

    def shut_down(self, patience: float) -> None:
        """End supervisord and whatever it still runs; wait until it is gone, `patience` seconds at most."""
        handle = os.pidfd_open(cast("int", self._call("getPID")))
        try:
            self._call("shutdown")
            select.select([handle], [], [], patience)
        finally:
            os.close(handle)

    def _call(self, method: str, *arguments: object) -> object:
        try:
            return self._ask(method, *arguments)
        except (OSError, http.client.HTTPException) as error:
            raise StackError(f"supervisord does not answer any more ({type(error).__name__}); see its log") from error

    def _ask(self, method: str, *arguments: object) -> object:
        return getattr(self._server.supervisor, method)(*arguments)


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, _host: object) -> http.client.HTTPConnection:
        return _Connection(self._path)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("supervisord", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(os.fspath(self._path))

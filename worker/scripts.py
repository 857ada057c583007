"""The script.sh of services: which have run on this machine, or in this container, how they ended, and running them.

    <scripts>/<service>-<digest>.json      how a script ended (`Run`); the digest is that of its text
    <scripts>/<service>-<digest>.log       what it printed
    <scripts>/wanted/<service>.<version>   a job of this version met a script that has not run here
    <scripts>/lock                         held (flock) by the one process that runs scripts

In containers root runs them before the worker begins (worker/container.py), and owns all of this but `wanted`, in which
a job can leave what it likes. In local mode the user does, where RUN_SCRIPTS says so. A script that has ended, well or
not, runs again when its text changes, or when its .json is gone.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dcm_processor.environments.environment_state import tail_of
from dcm_processor.errors import ServiceError
from dcm_processor.logging import get_logger
from dcm_processor.process import adopt_orphans
from dcm_processor.settings import Settings
from dcm_processor.store import SCRIPT, Store
from worker import reaper
from worker.contained import Command, Contained, End
from worker.environments import EnvironmentFailedError, locked

log = get_logger()

LIMIT = 1800.0
"""Seconds that a script may take."""
_LOG_LIMIT = 10_000_000
_PROGRESS_SECONDS = 60.0
_BASH = "/bin/bash"


class ScriptFailedError(EnvironmentFailedError):
    """The script.sh of a service did not end well here, so that its jobs cannot run; `tail` is the end of its log."""


@dataclass(frozen=True)
class Script:
    """A script.sh: `digest` names its text, `path` is the file in one of the versions that have it."""

    service: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Run:
    """How a script ended: `status` is None where it was ended, `fault` "" where all is well.

    `seconds` is what it took, `ended` is in seconds since the epoch, `tail` holds the last lines it printed.
    """

    status: int | None
    fault: str
    seconds: float
    ended: float
    tail: str


@dataclass(frozen=True)
class Owner:
    """The user that the worker runs as, and that module folders belong to."""

    uid: int
    gid: int


class Scripts:
    """The scripts of this machine or container."""

    def __init__(self, settings: Settings) -> None:
        self._store = Store.of(settings)
        self._folder = settings.scripts
        self._wanted = self._folder / "wanted"
        self._in_container = settings.MODE == "containers"
        self._digests: dict[Path, str] = {}  # of scripts; a version never changes

    def of_version(self, service: str, version: str) -> Script | None:
        """The script of a version, or None where it has none.

        Raises ServiceError where it cannot be read.
        """
        path = self._store.script(service, version)
        if path is None:
            return None
        if path not in self._digests:
            try:
                self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
            except OSError as error:
                raise ServiceError(f"{path} cannot be read: {error.strerror}; install the service again") from None
        return Script(service, self._digests[path], path)

    def current(self) -> list[Script]:
        """The scripts of the current versions, by service; one that cannot be read is for its jobs to tell.

        Raises ServiceError where the services cannot be read.
        """
        return self._of(self._store.current().items())

    def missing(self) -> list[Script]:
        """The scripts of the current versions, and of those that jobs asked for, that have not run here.

        Raises ServiceError where the services cannot be read.
        """
        found = [*self.current(), *self._of(name.partition(".")[::2] for name in self._asked())]
        return list({self._record(script): script for script in found if self._run_of(script) is None}.values())

    def has_run(self, script: Script) -> bool:
        """Whether a script has run here.

        Raises ScriptFailedError where it has, and not well.
        """
        run = self._run_of(script)
        if run is not None and run.fault:
            raise ScriptFailedError(
                f"the script.sh of service {script.service} {run.fault} on this worker; correct it and install the "
                f"service again, or {self._again(script)}",
                run.tail,
            )
        return run is not None

    def want(self, service: str, version: str) -> None:
        """Ask for the script of a version: the worker ends after this job, and the next one runs it first.

        Raises ServiceError where nobody would hear it.
        """
        try:
            (self._wanted / f"{service}.{version}").touch()
        except OSError as error:
            raise ServiceError(
                f"the script.sh of service {service} has not run here and cannot be asked for: {self._wanted}: "
                f"{error.strerror}; start the worker anew, in a container by `python -m worker.container`"
            ) from None

    def run_missing(self, env: Mapping[str, str], owner: Owner | None = None) -> None:
        """Run what has not run here, one after the other, with `env`; whoever else runs scripts here is waited for.

        `owner`, if it is another user, may read all and gets what scripts leave in module folders. Raises ServiceError
        where the services cannot be read, OSError where it cannot be written down how a script ended.
        """
        adopt_orphans()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._wanted.mkdir(exist_ok=True, mode=0o700)
        if owner is not None:
            self._folder.chmod(0o755)
            os.chown(self._wanted, owner.uid, owner.gid)
        with locked(self._folder / "lock") as lock:
            asked, missing = self._asked(), self.missing()
            for number, script in enumerate(missing, 1):
                about = {"service": script.service, "script": script.digest}
                log.info("running the script.sh of a service", **about, number=number, of=len(missing))
                run = self._run(script, env, lock)
                if owner is not None:
                    _give(script.path.parent, owner)
                if run.fault:
                    log.error("the script.sh failed", **about, seconds=run.seconds, why=run.fault, tail=run.tail)
                else:
                    log.info("the script.sh ran well", **about, seconds=run.seconds)
            for name in asked:
                with suppress(OSError):  # a folder that a job put there: it asks for nothing any more
                    (self._wanted / name).unlink()

    # -- one script

    def _run(self, script: Script, env: Mapping[str, str], lock: int) -> Run:
        log_file, began = self._record(script).with_suffix(".log"), time.monotonic()
        log_file.unlink(missing_ok=True)
        command = Command(
            argv=[_BASH, SCRIPT],
            env=env,
            cwd=str(script.path.parent),
            log=str(log_file),
            log_limit=_LOG_LIMIT,
            start_timeout=LIMIT,
            keep=[lock],  # nobody else runs scripts here before this one is gone, should we be killed
        )
        with Contained(command) as running, _progress(script, log_file):
            end = running.wait()
        if end.killed == "reaper":
            reaper.kill_descendants()
        seconds = round(time.monotonic() - began, 1)
        run = Run(end.status, _fault(end), seconds, time.time(), tail_of(log_file))
        record = self._record(script)
        partial = record.with_suffix(".new")
        partial.write_text(json.dumps(asdict(run)), encoding="utf-8")
        for file in (partial, log_file):
            with suppress(FileNotFoundError):  # a full disk took no log
                file.chmod(0o644)
        partial.replace(record)
        return run

    def _run_of(self, script: Script) -> Run | None:
        """How a script ended here, or None where it has yet to run."""
        try:
            return Run(**json.loads(self._record(script).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _record(self, script: Script) -> Path:
        return self._folder / f"{script.service}-{script.digest}.json"

    def _again(self, script: Script) -> str:
        """What has a script run again as it is."""
        if self._in_container:
            return "have it tried again in a new container: `docker compose up -d --force-recreate worker`"
        return f"delete {self._record(script)} to have it tried again"

    # -- which there are

    def _asked(self) -> list[str]:
        try:
            return sorted(os.listdir(self._wanted))  # noqa: PTH208 - names alone
        except OSError:
            return []

    def _of(self, versions: Iterable[tuple[str, str]]) -> list[Script]:
        found = []
        for service, version in versions:
            with suppress(ServiceError):  # no version, or one that cannot be read
                if (script := self.of_version(service, version)) is not None:
                    found.append(script)
        return found


@contextmanager
def _progress(script: Script, log_file: Path) -> Iterator[None]:
    """Inside, say from time to time that the script still runs: whoever waits for the worker reads it in its log."""
    ended, began = threading.Event(), time.monotonic()

    def say() -> None:
        while not ended.wait(_PROGRESS_SECONDS):
            seconds, last = round(time.monotonic() - began), tail_of(log_file).rpartition("\n")[2]
            log.info("the script.sh still runs", service=script.service, seconds=seconds, last=last)

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _fault(end: End) -> str:
    if end.killed == "start":
        return f"did not end within {LIMIT:.0f} s"
    if end.killed is not None or end.signal is not None:
        return f"was ended by {end.killed or f'signal {end.signal}'}"
    return f"failed with exit status {end.status}" if end.status else ""


def _give(folder: Path, owner: Owner) -> None:
    """Give away what this user has below a folder; whoever owns the folder may change it meanwhile, to no avail."""
    me = os.geteuid()
    if me == owner.uid:
        return
    for _, folders, files, fd in os.fwalk(folder):
        for name in (*folders, *files):
            with suppress(OSError):
                if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid == me:
                    os.chown(name, owner.uid, owner.gid, dir_fd=fd, follow_symlinks=False)

"""Environments of installed services are built before the first study needs them, and those nobody needs are deleted.

A worker looks from time to time; where there is something to do it starts `python -m worker.prebuild`, a process of low
priority, one at a time on a host (envs/.prebuild is held by it, flock). A job that needs an environment meanwhile waits
for the same build, or builds it itself.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dcm_processor.environments.environment_key import recipe
from dcm_processor.environments.environment_state import BUILDERS, Failed, held, state_of
from dcm_processor.errors import DcmProcessorError, ServiceError, SettingsError
from dcm_processor.logging import get_logger, set_up_logging
from dcm_processor.process import be_killed_first, die_with_parent
from dcm_processor.settings import Settings, checkout_from_environment
from dcm_processor.store import Store
from worker.environment_collection import COLLECTED, collect, is_due
from worker.environments import Environments
from worker.scripts import ScriptFailedError, Scripts

log = get_logger()

RETRY_SECONDS = 120.0
"""After which a build is tried again that failed for the network, an index or the disk."""
_LOOK_SECONDS = 3.0
_READ_SECONDS = 60.0  # services may be enabled without any version of theirs changing
_PAUSE_SECONDS = 15.0  # between two starts, should the process not get on
_LOCK = ".prebuild"
_NICENESS = 10


@dataclass(frozen=True)
class Wanted:
    """An environment that jobs of an installed service will run in; the first three are for `Environments.provide`."""

    module: Path
    version: str
    python_version: str | None
    service: str
    key: str


class Prebuilder:
    """A worker's part: it looks, starts the process, and ends it with the worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store.of(settings)
        self._child: subprocess.Popen[bytes] | None = None
        self._wanted: list[Wanted] = []
        self._current: Mapping[str, str] | None = None
        self._read_at = self._looked_at = self._started_at = float("-inf")
        with suppress(OSError):  # who cannot write there cannot build, either
            settings.envs.mkdir(parents=True, exist_ok=True)
            self._here = os.open(settings.envs / BUILDERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._here, fcntl.LOCK_SH)

    def look(self) -> None:
        """Start the process where there is something to do and nobody does it; costs next to nothing."""
        now = time.monotonic()
        if now < self._looked_at + _LOOK_SECONDS or (self._child is not None and self._child.poll() is None):
            return
        self._looked_at = now
        try:
            current = self._store.current()
            if current != self._current:
                self._started_at = float("-inf")
            if current != self._current or now > self._read_at + _READ_SECONDS:
                self._wanted = list(wanted(self._settings, self._store))
                self._current, self._read_at = current, now
            envs = self._settings.envs
            due = is_due(envs) or any(is_missing(envs, each.key) for each in self._wanted)
            if due and now > self._started_at + _PAUSE_SECONDS and not held(envs / _LOCK):
                self._started_at = now
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "worker.prebuild"],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # what is sent to the worker's group is not for it
                )
        except (ServiceError, OSError) as error:  # no reason to stop jobs, which build what they need
            log.warning("cannot see which environments are to be built", error=str(error))

    def stop(self) -> None:
        """End it; what it was building begins anew when it is next looked for."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def wanted(settings: Settings, store: Store) -> Iterator[Wanted]:
    """The environments of the current versions of all services, but for disabled ones, whose script.sh has run.

    Raises ServiceError where the services cannot be read; one whose files cannot be is for its jobs to tell.
    """
    scripts = Scripts(settings)
    for service in store.services():
        if not service.pythons:
            continue
        if settings.runs_scripts and not _script_has_run(scripts, service.name, service.digest):
            continue
        module = store.module_folder(service.name, service.digest)
        for python in service.pythons:
            with suppress(OSError):
                key = recipe(settings, module, service.digest, python).key
                yield Wanted(module, service.digest, python, service.name, key)


def _script_has_run(scripts: Scripts, service: str, digest: str) -> bool:
    """Whether all is there that packages may be compiled against; where a script failed, no job will run."""
    try:
        script = scripts.of_version(service, digest)
        return script is None or scripts.has_run(script)
    except (ServiceError, ScriptFailedError):
        return False


def is_missing(envs: Path, key: str) -> bool:
    """Whether an environment is to be built: nobody does, and it has not failed in a way that lasts."""
    state = state_of(envs, key).state
    if state != "failed":
        return state == "none"
    failed = Failed.read(envs, key)
    return failed is None or (failed.passing and abs(time.time() - failed.at) > RETRY_SECONDS)


def build(settings: Settings, environ: Mapping[str, str], store: Store) -> None:
    """Build what is missing, one after the other.

    Raises ServiceError where the services cannot be read, OSError where envs cannot be written.
    """
    environments = Environments(settings, environ)
    for each in wanted(settings, store):
        if is_missing(settings.envs, each.key):
            try:
                environments.provide(each.module, each.version, each.python_version)
            except DcmProcessorError as error:
                log.warning(
                    "the environment of a service cannot be built",
                    service=each.service, environment=each.key, error=str(error),
                )  # fmt: skip


def main() -> int:
    """Build, then collect; the exit status."""
    die_with_parent()
    be_killed_first()
    os.nice(_NICENESS)
    try:
        settings = Settings.load(checkout_from_environment())
    except SettingsError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    set_up_logging("worker")
    try:
        lock = os.open(settings.envs / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another worker's is at it
            return 0
        store = Store.of(settings)
        build(settings, os.environ, store)
        if is_due(settings.envs):
            (settings.envs / COLLECTED).touch()
            collect(settings, store)
    except (ServiceError, OSError) as error:
        log.warning("environments are not built ahead", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

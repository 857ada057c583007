"""The Python environments of services: made by uv, one for each content, kept under BASEDIR/envs and used again.

    envs/<key>/         the environment; complete once it holds `complete.json`. `service/` is a copy of the module
                        folder where requirements name files of it: a version's own files never change
    envs/<key>.log      what uv printed when it was built
    envs/<key>.lock     held (flock) by the one process of this host that builds it
    envs/<key>.used     held (flock, shared) by each attempt that runs in it, touched by each

The key is a digest of what decides the content (dcm_processor/environments/environment_key.py).
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcm_processor import service_tree
from dcm_processor.environments import uv_program
from dcm_processor.environments.build_network import of_build
from dcm_processor.environments.environment_key import PYTHON, Recipe, maker, own_python, recipe
from dcm_processor.environments.environment_state import Failed, tail_of
from dcm_processor.environments.requirements_lock import names_files, names_index, text_of
from dcm_processor.errors import OutageError, PermanentError, ServiceError
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings
from worker.contained import Command, Contained, End, Running

log = get_logger()

BUILD_LIMIT = 3600.0
"""Seconds that one call of uv may take."""
_LOG_LIMIT = 10_000_000
MARKER = "complete.json"
_SERVICE = "service"


class EnvironmentFailedError(PermanentError):
    """The requirements cannot be installed; `tail` is the end of the build log."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


class EnvironmentUnavailableError(OutageError):
    """An index, the network or the disk failed; `tail` is the end of the build log."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True)
class Environment:
    """A complete environment: its key and its interpreter."""

    key: str
    python: Path


Fault = EnvironmentFailedError | EnvironmentUnavailableError
Watch = Callable[[Running], End]
"""Waits for a command to end; a worker's also has it killed when the attempt is to stop."""


class Environments:
    """The environments of this host."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._folder = settings.envs

    def provide(
        self,
        module: Path,
        version: str,
        python_version: str | None = None,
        *,
        watch: Watch = lambda running: running.wait(),
        building: Callable[[str], None] = lambda _key: None,
    ) -> Environment:
        """The environment of a service's module folder, built should it be missing.

        `version` is the service's digest, `python_version` the `pythonVersion` of its job. `building(key)` is called
        before a build, or a wait for somebody else's. Raises EnvironmentFailedError, EnvironmentUnavailableError;
        OSError where the folder cannot be read or envs not be written.
        """
        made_from = recipe(self._settings, module, version, python_version)
        key = made_from.key
        if (found := self._find(key)) is not None:
            return found
        building(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / f"{key}.lock") as lock:
            if (found := self._find(key)) is not None:
                return found
            _Build(self._settings, self._environ, made_from, watch, lock).run()
        return Environment(key, self._interpreter(key))

    @contextmanager
    def using(self, environment: Environment) -> Iterator[int]:
        """Keep an environment from being collected, as long as anybody has a copy of the descriptor that this gives.

        Raises EnvironmentUnavailableError where it was collected since it was provided, OSError.
        """
        fd = os.open(self._folder / f"{environment.key}.used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            os.utime(fd)
            if self._find(environment.key) is None:
                raise EnvironmentUnavailableError(f"environment {environment.key} was deleted just now", "")
            yield fd
        finally:
            os.close(fd)

    def _interpreter(self, key: str) -> Path:
        return self._folder / key / "bin" / "python"

    def _find(self, key: str) -> Environment | None:
        python = self._interpreter(key)
        if (self._folder / key / MARKER).is_file() and os.access(python, os.X_OK):
            return Environment(key, python)
        return None


class _Build:
    """The making of one environment, by whoever holds its lock."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], made_from: Recipe, watch: Watch, lock: int
    ) -> None:
        self._settings = settings
        self._made_from = made_from
        text = text_of(made_from.requirements.read_bytes())
        self._env = of_build(settings, environ, site_index=not names_index(text))
        self._watch = watch
        self._lock = lock
        self._target = settings.envs / made_from.key
        self._log = settings.envs / f"{made_from.key}.log"

    def run(self) -> None:
        """Build; the marker comes last.

        Raises EnvironmentFailedError, EnvironmentUnavailableError, OSError.
        """
        if self._target.exists():  # a build that was killed, or whose Python is gone
            shutil.rmtree(self._target)
        self._log.unlink(missing_ok=True)
        Failed.forget(self._settings.envs, self._made_from.key)
        key, source, hashed = self._made_from.key, self._made_from.requirements, self._made_from.is_default
        log.info("building an environment", environment=key)
        began = time.monotonic()
        offline = self._settings.WHEEL_DIR is not None and not self._settings.PIP_INDEX_URL
        folder = self._settings.envs if hashed else source.parent  # where relative paths in it count from
        python = self._python()
        self._uv(folder, "venv", "--no-project", "--python", python, str(self._target))
        if not hashed and names_files(source.read_bytes()):  # a build leaves files beside what it builds
            service_tree.copy_folder(folder, self._target / _SERVICE)
            folder = self._target / _SERVICE
            source = folder / source.name
        install = ["pip", "install", "--python", str(self._target / "bin" / "python")]
        install += ["--requirements", str(source), "--compile-bytecode"]
        if hashed:
            install.append("--require-hashes")
        wheels = self._settings.WHEEL_DIR
        if wheels is not None:
            install += ["--find-links", str(wheels)]
        try:
            # An offline site has all it needs in its folder; elsewhere the folder may hold only some of it.
            self._uv(folder, *install, *(["--no-index"] if offline else []))
        except EnvironmentFailedError:
            if not offline:
                raise
            self._uv(folder, *install)
        seconds = round(time.monotonic() - began, 1)
        made = {"python": self._made_from.python_version or own_python(), "maker": maker(self._settings)}
        with (self._target / MARKER).open("w", encoding="utf-8") as file:
            json.dump({"builtAt": time.time(), "seconds": seconds, **made}, file)
            file.flush()
            os.fsync(file.fileno())
        log.info("built an environment", environment=key, seconds=seconds)

    def _python(self) -> str:
        version = self._made_from.python_version
        if version is None:
            return PYTHON
        try:
            return uv_program.find_python(version, self._env)
        except ServiceError as error:
            raise self._failed(EnvironmentFailedError(str(error), "")) from None

    def _uv(self, folder: Path, *arguments: str) -> None:
        command = Command(
            argv=[uv_program.binary(), *arguments],
            env=self._env,
            cwd=str(folder),
            log=str(self._log),
            log_limit=_LOG_LIMIT,
            start_timeout=BUILD_LIMIT,
            keep=[self._lock],  # nobody else builds here before uv is gone, should we be killed
        )
        with Contained(command) as running:
            end = self._watch(running)
        if end.status != 0:
            raise self._fault(end)

    def _fault(self, end: End) -> Fault:
        tail = tail_of(self._log)
        if end.killed == "start":
            return self._failed(EnvironmentFailedError(f"uv did not end within {BUILD_LIMIT:.0f} s", tail))
        if end.status is None:
            return EnvironmentUnavailableError(f"uv was ended by {end.killed or f'signal {end.signal}'}", tail)
        if end.log_fault is not None:
            return self._failed(
                EnvironmentUnavailableError(f"{self._settings.envs} cannot be written: {end.log_fault}", tail)
            )
        failure = uv_program.failure(end.status, tail)
        kind = EnvironmentUnavailableError if failure.passing else EnvironmentFailedError
        return self._failed(kind(failure.message, tail))

    def _failed(self, error: Fault) -> Fault:
        """Put it down for who asks how the environment stands."""
        passing = isinstance(error, EnvironmentUnavailableError)
        Failed(str(error), passing, time.time()).write(self._settings.envs, self._made_from.key)
        return error


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock of a file, waited for; who gets a copy of the descriptor holds it too."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)

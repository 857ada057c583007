"""The Python environments of services: made by uv, one for each content, kept under BASEDIR/envs and used again.

    envs/<key>/         the environment; complete once it holds `complete.json`
    envs/<key>.log      what uv printed when it was built
    envs/<key>.lock     held (flock) by the one process of this host that builds it

The key is a digest of what decides the content (dcm_processor/environment_key.py).
"""

import fcntl
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uv

from dcm_processor.environment_key import DEFAULT_REQUIREMENTS, PYTHON, environment_key
from dcm_processor.errors import OutageError, PermanentError
from dcm_processor.settings import Settings
from worker import surroundings
from worker.contained import Command, Contained, End

log = structlog.get_logger()

BUILD_LIMIT = 3600.0
"""Seconds that one call of uv may take."""
_LOG_LIMIT = 10_000_000
_TAIL_LINES, _TAIL_BYTES = 40, 16_000
_MARKER = "complete.json"
# What uv (exit status 2) says of a network or a disk that fails; read in its output, as its status does not tell.
_PASSING = re.compile(
    r"Request failed after|error sending request|HTTP status server error|429 Too Many Requests"
    r"|error reading a body|timed out|No space left on device|Disk quota exceeded",
)
_UNTRUSTED = "invalid peer certificate"
_ERROR = re.compile(r"^error: (.*)((?:\n  cause: .*)*)", re.MULTILINE)


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


Watch = Callable[[Contained], End]
"""Waits for a command to end; a worker's also has it killed when the attempt is to stop."""


class Environments:
    """The environments of this host."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._folder = settings.envs

    def provide(
        self,
        requirements: Path,
        version: str,
        watch: Watch = Contained.wait,
        building: Callable[[str], None] = lambda _key: None,
    ) -> Environment:
        """The environment for a requirements.txt, or the default one where there is none; built should it be missing.

        `version` is the service's digest. `building(key)` is called before a build, or a wait for somebody else's.
        Raises EnvironmentFailedError, EnvironmentUnavailableError; OSError where envs cannot be written.
        """
        source = requirements if requirements.is_file() else DEFAULT_REQUIREMENTS
        key = environment_key(source.read_bytes(), version)
        if (found := self._find(key)) is not None:
            return found
        building(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / f"{key}.lock") as lock:
            if (found := self._find(key)) is not None:
                return found
            _Build(self._settings, self._environ, key, watch, lock).run(
                source, PYTHON, hashed=source == DEFAULT_REQUIREMENTS
            )
        return Environment(key, self._interpreter(key))

    def _interpreter(self, key: str) -> Path:
        return self._folder / key / "bin" / "python"

    def _find(self, key: str) -> Environment | None:
        python = self._interpreter(key)
        if (self._folder / key / _MARKER).is_file() and os.access(python, os.X_OK):
            return Environment(key, python)
        return None


class _Build:
    """The making of one environment, by whoever holds its lock."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], key: str, watch: Watch, lock: int) -> None:
        self._settings = settings
        self._environ = environ
        self._key = key
        self._watch = watch
        self._lock = lock
        self._target = settings.envs / key
        self._log = settings.envs / f"{key}.log"

    def run(self, source: Path, python: str, *, hashed: bool) -> None:
        """Build; the marker comes last.

        Raises EnvironmentFailedError, EnvironmentUnavailableError, OSError.
        """
        if self._target.exists():  # a build that was killed, or whose Python is gone
            shutil.rmtree(self._target)
        self._log.unlink(missing_ok=True)
        log.info("building an environment", environment=self._key)
        began = time.monotonic()
        offline = self._settings.WHEEL_DIR is not None and not self._settings.PIP_INDEX_URL
        folder = self._settings.envs if hashed else source.parent  # where relative paths in it count from
        self._uv(folder, "venv", "--no-project", "--python", python, str(self._target))
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
        with (self._target / _MARKER).open("w", encoding="utf-8") as file:
            json.dump({"builtAt": time.time(), "seconds": seconds, "python": platform.python_version()}, file)
            file.flush()
            os.fsync(file.fileno())
        log.info("built an environment", environment=self._key, seconds=seconds)

    def _uv(self, folder: Path, *arguments: str) -> None:
        command = Command(
            argv=[uv.find_uv_bin(), *arguments],
            env=surroundings.of_build(self._settings, self._environ),
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

    def _fault(self, end: End) -> EnvironmentFailedError | EnvironmentUnavailableError:
        tail = tail_of(self._log)
        if end.killed == "start":
            return EnvironmentFailedError(f"uv did not end within {BUILD_LIMIT:.0f} s", tail)
        if end.status is None:
            return EnvironmentUnavailableError(f"uv was ended by {end.killed or f'signal {end.signal}'}", tail)
        if end.log_fault is not None:
            return EnvironmentUnavailableError(f"{self._settings.envs} cannot be written: {end.log_fault}", tail)
        message = f"uv: exit status {end.status}"
        for what, causes in _ERROR.findall(tail):
            why = causes.split("\n  cause: ")[1:]
            message = ": ".join([what, *why[:1], *why[1:][-1:]])
        if _UNTRUSTED in tail:
            message += "; name the authority that signed it (of a proxy that opens TLS?) by EXTRA_CA_FILE in .env.local"
        if end.status == 2 and _PASSING.search(tail):
            return EnvironmentUnavailableError(message, tail)
        return EnvironmentFailedError(message, tail)


def tail_of(log_file: Path) -> str:
    """The last lines of a log, or "" where it cannot be read."""
    try:
        text = log_file.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock of a file, waited for; who gets a copy of the descriptor holds it too."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)

"""How the environments of services stand on this host, as whoever builds them leaves them under BASEDIR/envs.

envs/<key>/complete.json    the environment is ready
envs/<key>.lock             held (flock) while somebody builds it
envs/<key>.failed           why the last build failed (`Failed`), gone when the next one begins
envs/<key>.log              what uv said at the last build
envs/.builders              held (flock) by each worker of this host: somebody is there to build
"""

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dcm_processor.environments.environment_key import recipe
from dcm_processor.settings import Settings

BUILDERS = ".builders"
_TAIL_LINES, _TAIL_BYTES = 40, 16_000


@dataclass(frozen=True)
class EnvironmentState:
    """How an environment stands; `none`: nobody has tried to build it here, `unknown`: its requirements cannot be read.

    `key` names it (None: unknown); `reason` is why it is unknown or could not be built.
    """

    state: Literal["none", "building", "ready", "failed", "unknown"]
    key: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Failed:
    """Why a build failed; `passing` where it may work later, as the network or an index failed.

    `at` is in seconds since the epoch.
    """

    reason: str
    passing: bool
    at: float

    @classmethod
    def read(cls, envs: Path, key: str) -> "Failed | None":
        """Of the last build, if it failed."""
        try:
            return cls(**json.loads((envs / f"{key}.failed").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, envs: Path, key: str) -> None:
        """A full disk takes none, and the build is tried again."""
        partial = envs / f"{key}.failed.new"
        with suppress(OSError):
            partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
            partial.replace(envs / f"{key}.failed")

    @staticmethod
    def forget(envs: Path, key: str) -> None:
        """Have it tried again at once."""
        with suppress(OSError):
            (envs / f"{key}.failed").unlink(missing_ok=True)


def states_of(settings: Settings, module: Path, version: str, pythons: Iterable[str | None]) -> list[EnvironmentState]:
    """How the environments stand of a service's version: one for each Python that its jobs ask for.

    `module` is the module folder of the version, `version` its digest.
    """
    found = []
    for python in dict.fromkeys(pythons):
        try:
            key = recipe(settings, module, version, python).key
        except OSError as error:
            reason = f"its requirements cannot be read: {error.strerror}"
            found.append(EnvironmentState("unknown", None, reason))
        else:
            found.append(state_of(settings.envs, key))
    return list(dict.fromkeys(found))


def least(states: Iterable[EnvironmentState]) -> EnvironmentState | None:
    """The one that is furthest from ready: what stands for the service as a whole; None where there is none."""
    order = ("unknown", "failed", "none", "building", "ready")
    return min(states, key=lambda each: order.index(each.state), default=None)


def state_of(envs: Path, key: str) -> EnvironmentState:
    """How one environment stands."""
    if (envs / key / "complete.json").is_file():
        return EnvironmentState("ready", key)
    if held(envs / f"{key}.lock"):
        return EnvironmentState("building", key)
    if (failed := Failed.read(envs, key)) is not None:
        return EnvironmentState("failed", key, failed.reason)
    return EnvironmentState("none", key)


def held(lock: Path, *, exclusively: bool = False) -> bool:
    """Whether somebody holds the lock, so that it could not be shared, or not be had `exclusively`.

    It is asked without keeping anybody from it for longer than the question.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def tail_of(log_file: Path) -> str:
    """The last lines of a log, or "" where it cannot be read."""
    try:
        text = log_file.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])

"""How the environments of services stand on this host, as whoever builds them leaves them under BASEDIR/envs.

envs/<key>/complete.json    the environment is ready
envs/<key>.lock             held (flock) while somebody builds it
envs/<key>.log              what uv said at the last build
"""

import fcntl
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcm_processor.environment_key import recipe
from dcm_processor.settings import Settings

_TAIL = 16_000
_ERROR = re.compile(r"^error: (.*)", re.MULTILINE)


@dataclass(frozen=True)
class EnvironmentState:
    """How an environment stands; `none`: nobody has tried to build it here, `unknown`: its requirements cannot be read.

    `key` names it (None: unknown); `reason` is why it is unknown or could not be built.
    """

    state: Literal["none", "building", "ready", "failed", "unknown"]
    key: str | None
    reason: str | None = None


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
    if (said := _said(envs / f"{key}.log")) is not None:
        return EnvironmentState("failed", key, said)
    return EnvironmentState("none", key)


def held(lock: Path) -> bool:
    """Whether somebody holds the lock; asked without keeping anybody from it for longer than the question."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _said(log: Path) -> str | None:
    """uv's last error, None where there is no log: nobody tried."""
    try:
        text = log.read_bytes()[-_TAIL:].decode("utf-8", "replace")
    except OSError:
        return None
    errors = _ERROR.findall(text)
    return errors[-1] if errors else "the build did not end; the next job tries again"

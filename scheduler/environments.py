"""How the environments of services stand on this host, as the workers that build them leave them under BASEDIR/envs.

envs/<key>/complete.json    the environment is ready
envs/<key>.lock             held while somebody builds it
envs/<key>.log              what uv said at the last build
"""

import fcntl
import os
import re
from pathlib import Path

from dcm_processor.environment_key import DEFAULT_REQUIREMENTS, environment_key
from scheduler.api.models import Environment

_TAIL = 16_000
_ERROR = re.compile(r"^error: (.*)", re.MULTILINE)


def environment_of(envs: Path, module: Path, version: str) -> Environment:
    """How the environment stands that jobs of a service run in; `module` is the folder of its version."""
    try:
        own = module / "requirements.txt"
        key = environment_key((own if own.is_file() else DEFAULT_REQUIREMENTS).read_bytes(), version)
    except OSError as error:
        return Environment(state="unknown", key=None, reason=f"its requirements cannot be read: {error.strerror}")
    if (envs / key / "complete.json").is_file():
        return Environment(state="ready", key=key, reason=None)
    if _held(envs / f"{key}.lock"):
        return Environment(state="building", key=key, reason=None)
    if (said := _said(envs / f"{key}.log")) is not None:
        return Environment(state="failed", key=key, reason=said)
    return Environment(state="none", key=key, reason=None)


def _held(lock: Path) -> bool:
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

"""Environments that no kept version of a service calls for are deleted, after a while; never one that is in use.

envs/.collected     touched when it was last looked
envs/.trash-…       what is being deleted
"""

import fcntl
import json
import os
import re
import shutil
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

from dcm_processor.environments.environment_key import maker, recipe
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from worker.environments import MARKER

log = get_logger()

GRACE = 24 * 3600.0
"""Seconds without use after which an environment goes that nobody needs."""
GRACE_OF_OTHERS = 90 * 24 * 3600.0
"""The same of one that another system or Python made, whose worker may share the folder."""
INTERVAL = 3600.0
COLLECTED = ".collected"
_TRASH = ".trash-"
_KEY = re.compile(r"[0-9a-f]{16}")


def is_due(envs: Path) -> bool:
    """Whether it is time to look again; not at first.

    Raises OSError where envs cannot be written.
    """
    try:
        return abs(time.time() - (envs / COLLECTED).stat().st_mtime) > INTERVAL
    except FileNotFoundError:
        (envs / COLLECTED).touch()
        return False


def collect(settings: Settings, store: Store) -> list[str]:
    """Delete what no version calls for that is here, and nobody used for GRACE; returns the keys.

    Raises ServiceError where the services cannot be read, OSError where envs cannot be written.
    """
    envs = settings.envs
    for trash in envs.glob(f"{_TRASH}*"):
        shutil.rmtree(trash)
    if not settings.modules.is_dir():  # as where a mount is missing: nothing can be said
        return []
    needed = _needed(settings, store)
    deleted = []
    for folder in sorted(envs.iterdir()):
        key = folder.name
        if _KEY.fullmatch(key) and folder.is_dir() and key not in needed and _is_old(settings, folder):
            with ExitStack() as stack:
                unused = all(_lock(stack, envs / f"{key}.{kind}") for kind in ("lock", "used"))
                if unused and _is_old(settings, folder):  # nobody came between
                    trash = envs / f"{_TRASH}{uuid.uuid4().hex}"
                    folder.rename(trash)
                    shutil.rmtree(trash)
                    for kind in ("log", "failed"):
                        (envs / f"{key}.{kind}").unlink(missing_ok=True)
                    deleted.append(key)
    if deleted:
        log.info("environments that no service needs are deleted", environments=deleted)
    return deleted


def _needed(settings: Settings, store: Store) -> set[str]:
    """The keys that any version here calls for. One that cannot be read calls for none."""
    needed = set()
    for (service, digest), jobs in store.kept().items():
        for python in {None, *(job.python_version for job in jobs)}:
            try:
                needed.add(recipe(settings, store.module_folder(service, digest), digest, python).key)
            except OSError as error:
                log.warning("a version of a service cannot be read", service=service, digest=digest, error=str(error))
    return needed


def _is_old(settings: Settings, folder: Path) -> bool:
    """Whether nobody has used it for long."""
    marker, used = folder / MARKER, folder.with_name(f"{folder.name}.used")
    last = max(path.stat().st_mtime for path in (folder, marker, used) if path.exists())
    try:
        ours = json.loads(marker.read_text(encoding="utf-8")).get("maker") == maker(settings)
    except FileNotFoundError:  # never completed
        ours = True
    except (ValueError, AttributeError):
        ours = False
    return time.time() - last > (GRACE if ours else GRACE_OF_OTHERS)


def _lock(stack: ExitStack, path: Path) -> bool:
    """Take a lock, for as long as `stack` lasts; False where somebody has it."""
    new = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    if new:
        os.utime(fd, (0, 0))  # that we look is no use
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

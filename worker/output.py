"""A job's output folder: made before the function runs, there after it, and sent if the scheduler has another DATA."""

import errno
import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dcm_processor.archives.archive import OUTPUT, survey
from dcm_processor.service_tree import remove
from dcm_processor.settings import Settings
from worker.exchange import Exchange, patiently

FAULTS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What a disk says once of what it did not take."""
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL)
"""What says that a path is nothing that can be on the disk; the last: there is no such wish on this file system."""
_REMEMBERED = 10_000


class State(NamedTuple):
    """What tells of a change to what lies under a path."""

    mode: int
    inode: int
    size: int
    modified: int
    changed: int


Kept = Mapping[str, State]
"""Paths, and what was had on the disk there."""


def make(output: Path) -> None:
    """An empty folder, whatever an earlier start of the attempt left there."""
    if output.exists():
        remove(output)
    output.mkdir(parents=True)


def have(output: Path) -> None:
    """A folder, though the function deleted it, or put something else in its place, which then stands aside."""
    if output.is_symlink() or not output.is_dir():
        if output.is_symlink() or output.exists():
            output.rename(output.with_name(f"{output.name}.misplaced"))
        output.mkdir()


def keep(output: Path, kept: Kept = MappingProxyType({})) -> Kept:
    """Have all of it on the disk itself, before anybody is told that it is there; returns what is, as far as that goes.

    What is as it was `kept` is left alone. What cannot be opened, by its mode or because it lies too deep, is left to
    the system. Raises OSError where the disk fails, or is full only now. The function's processes may still be there,
    and put what they like in the place of what was seen.
    """
    now: dict[str, State] = {}
    folders = [str(output)]
    while folders:
        folder = folders.pop()
        try:
            state = _state(os.lstat(folder))
            if not stat.S_ISDIR(state.mode):
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        _keep(entry.path, _state(entry.stat(follow_symlinks=False)), kept, now)
            _keep(folder, state, kept, now)
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
    return now


def _keep(path: str, state: State, kept: Kept, now: dict[str, State]) -> None:
    if kept.get(path) != state:
        try:
            opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
    if len(now) < _REMEMBERED:
        now[path] = state


def _state(status: os.stat_result) -> State:
    return State(status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def send(settings: Settings, attempt_id: str, output: Path, patience: float | None) -> tuple[str, ...]:
    """Send it to the scheduler, tried again for so many seconds or (None) for ever; returns names that cannot travel.

    Nobody waiting for it any more is no error. Raises what Exchange.send_output and survey raise.
    """
    _open_up(output)
    contents = survey({"": output}, OUTPUT)
    with Exchange(settings) as exchange:
        patiently(partial(exchange.send_output, attempt_id, contents), patience)
    return contents.left_out


def _open_up(output: Path) -> None:
    """Have our own files readable for us; a job may have taken that away."""
    output.chmod(0o700)
    for parent, folders, files in os.walk(output):
        for names, mode in ((folders, 0o700), (files, 0o600)):
            for path in (Path(parent, name) for name in names):
                status = path.lstat()
                if not stat.S_ISLNK(status.st_mode) and status.st_mode & mode != mode:
                    path.chmod(stat.S_IMODE(status.st_mode) | mode)  # before the walk goes into it

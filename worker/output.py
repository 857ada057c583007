"""A job's output folder: made before the function runs, there after it, and sent if the scheduler has another DATA."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dcm_processor.archives.archive import OUTPUT, survey
from dcm_processor.service_tree import remove, sync
from dcm_processor.settings import Settings
from worker.exchange import Exchange, patiently

_CLOSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL)  # the last: no such wish on this file system


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


def keep(output: Path) -> None:
    """Have all of it on the disk itself, before anybody is told that it is there.

    What cannot be opened, by its mode or because it lies too deep, is left to the system. Raises OSError where the disk
    fails, or is full only now.
    """
    folders = [output]
    while folders:
        folder = folders.pop()
        with _but_for_closed(), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    with _but_for_closed():
                        sync(Path(entry.path))
            sync(folder)


@contextmanager
def _but_for_closed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CLOSED:
            raise


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

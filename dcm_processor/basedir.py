"""The folders and secrets of BASEDIR: made at the first start, left alone afterwards."""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcm_processor.errors import SettingsError
from dcm_processor.settings import Settings

SECRETS = (
    "redis_password",
    "orthanc_password",  # user dcmproc: the platform
    "orthanc_admin_password",  # user admin: people
    "hook_token",
    "worker_token",
    "scheduler_token",
    "dashboard_password",
)
_PRIVATE = ("secrets", "run", "db", "orthanc", "redis")  # what is in them is for their owner alone


def prepare(settings: Settings) -> None:
    """Have every folder and every secret there; what is there already stays as it is.

    Raises SettingsError naming the folder or secret that cannot be made, and why.
    """
    base = settings.BASEDIR
    public = (settings.registry, settings.modules, settings.data, settings.logs, settings.envs, settings.cache)
    try:
        for folder in (*public, base / "rules"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in _PRIVATE:
            (base / name).mkdir(parents=True, exist_ok=True)
            (base / name).chmod(0o700)
        for name in SECRETS:
            make_secret(base / "secrets" / name)
    except OSError as error:
        raise unusable(base, error) from None


def unusable(base: Path, error: OSError) -> SettingsError:
    """What to tell a user whose BASEDIR cannot be written."""
    return SettingsError(
        f"{error.filename or base} cannot be made: {error.strerror}; give BASEDIR to this user "
        "(what was started with sudo goes on with sudo), or name another BASEDIR in .env.local"
    )


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """One start, stop or rotation at a time for a BASEDIR; whoever comes second waits.

    Raises SettingsError where BASEDIR cannot be used.
    """
    try:
        settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (settings.run / "stack.lock").open("w")
    except OSError as error:
        raise unusable(settings.BASEDIR, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def new_secret() -> str:
    """32 random bytes as text: letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(32)


def make_secret(path: Path) -> None:
    """Put 32 random bytes, as text, into a new file of mode 0600 in one step; a file that is there stays.

    Raises SettingsError where it is there and empty.
    """
    if not path.exists():
        write_private(path, new_secret() + "\n")
    path.chmod(0o600)
    if not path.read_text(encoding="utf-8").strip():
        raise SettingsError(f"the secret {path} is empty; put one in, or delete the file and start again")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, and have it on the disk; a file of that name is replaced."""
    unfinished = unfinished_of(path)
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    sync_folder(path.parent)


def unfinished_of(path: Path) -> Path:
    """Where `write_private` leaves a part of the text if it is killed."""
    return path.with_name(f"{path.name}.new")


def overwrite(path: Path, text: str) -> None:
    """Write another text into a file that is there, and have it on the disk; the file itself stays the same.

    A container that has the file mounted would never see one that took its place. The text goes in by one write and
    never shortens the file (line ends fill it up), so that no reader finds half of it, or nothing.

    Raises OSError.
    """
    with os.fdopen(os.open(path, os.O_WRONLY), "wb", buffering=0) as file:
        content = text.encode().ljust(os.fstat(file.fileno()).st_size, b"\n")
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())
        # The write itself sets the time before the bytes are there. Who read in between, and goes by the time, would
        # never look again.
        now = time.time_ns()
        os.utime(file.fileno(), ns=(now, now))


def put_private(path: Path, text: str) -> None:
    """Have a file with this text that only its owner may read; one that is there is written over, not replaced."""
    if path.exists():
        overwrite(path, text)
    else:
        write_private(path, text)


def sync_folder(folder: Path) -> None:
    """Have on the disk which files are in the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

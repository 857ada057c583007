"""A source as a folder on this machine, for as long as something is installed from it.

    BASEDIR/run/source-<random>/    what is unpacked or fetched; locked (flock) while somebody works on it

What a killed one left is cleared away by the next.
"""

import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from dcm_processor import service_tree
from dcm_processor.archives import foreign_archive
from dcm_processor.environments import build_network
from dcm_processor.errors import ArchiveError, ServiceError, SourceError
from dcm_processor.settings import Settings
from dcm_processor.sources import git
from dcm_processor.sources.origin import Origin
from dcm_processor.sources.source import ARCHIVES, Local, Source

_PLACE = "source-"
_FILES = "files"
_BARE = ("HEAD", "objects", "refs")


@dataclass(frozen=True)
class Fetched:
    """A source's files: its top folder, where it is from, and files that did not come (relative to it) with why."""

    top: Path
    origin: Origin
    missing: Mapping[Path, str] = field(default_factory=dict)


@contextmanager
def fetched(source: Source, settings: Settings, environ: Mapping[str, str]) -> Iterator[Fetched]:
    """Have a source's files until the end of the block; `environ` is this process's own.

    Raises SourceError where they cannot be had, or hold what they must not.
    """
    with _files(source):
        if isinstance(source, Local) and source.path.is_dir():
            yield Fetched(_inside(source, source.path, source.subdirectory), _origin(source))
            return
        with _place(settings.run) as place, _named_by_source(source, place / _FILES):
            yield _unpacked(source, place, settings, environ)


def _unpacked(source: Source, place: Path, settings: Settings, environ: Mapping[str, str]) -> Fetched:
    files = place / _FILES
    if isinstance(source, Local):
        _check_archive(source.path)
        foreign_archive.unpack(source.path, files)
        return Fetched(_inside(source, files, source.subdirectory), _origin(source))
    build_network.make_ca_bundle(settings)
    came = git.check_out(source, place, files, {**environ, **build_network.of_network(settings)})
    missing = {Path(path): why for path, why in came.missing.items()}
    return Fetched(files, _origin(source, source.ref, came.commit), missing)


def _origin(source: Source, ref: str | None = None, commit: str | None = None) -> Origin:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(str(source), ref, commit, now, metadata.version("dcm-processor"))


def _check_archive(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"{path} is not there; name a folder, an archive ({', '.join(ARCHIVES)}) or git+URL")
    if not path.is_file() or not path.name.endswith(ARCHIVES):
        raise SourceError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)})")


def _inside(source: Local, folder: Path, subdirectory: str | None) -> Path:
    if subdirectory is not None:
        top, folder = folder, folder / subdirectory
        if not folder.is_dir() or not folder.resolve().is_relative_to(top.resolve()):
            raise SourceError(f"{source.path} has no folder {subdirectory}")
    elif all((folder / name).exists() for name in _BARE) and not (folder / "registry").exists():
        raise SourceError(f"{folder} is a git repository; name it as git+file://{folder}")
    return folder


@contextmanager
def _place(run: Path) -> Iterator[Path]:
    """An empty folder, gone at the end; those of killed ones go first."""
    if not run.exists():
        run.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # with sudo: the platform, which is not root, writes to it later
            owner = run.parent.stat()
            os.chown(run, owner.st_uid, owner.st_gid)
    for left in run.glob(f"{_PLACE}*"):
        with suppress(OSError):
            _remove_unless_used(left)
    place = run / f"{_PLACE}{uuid.uuid4().hex}"
    lock = _locked(place)
    try:
        yield place
    finally:
        service_tree.remove(place)
        os.close(lock)


def _locked(place: Path) -> int:
    """Make a folder and lock it; another process may take it for one of a killed one before it is locked."""
    while True:
        place.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if place.exists() and os.path.samestat(os.fstat(lock), place.stat()):
                return lock
            os.close(lock)


def _remove_unless_used(place: Path) -> None:
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        service_tree.remove(place)
    finally:
        os.close(lock)


@contextmanager
def _files(source: Source) -> Iterator[None]:
    """Have what is wrong with files, ours or the source's, as an error that says what was to be installed."""
    try:
        yield
    except ArchiveError as error:
        raise SourceError(f"{source}: {error}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise SourceError(f"{source} cannot be installed: {where}{error.strerror or error}") from None


@contextmanager
def _named_by_source(source: Source, files: Path) -> Iterator[None]:
    """Have errors name what was unpacked by its place in the source: where it lies now is gone when they are read."""
    try:
        yield
    except ServiceError as error:
        known_as = source.path if isinstance(source, Local) else source
        raise type(error)(str(error).replace(str(files), str(known_as))) from None

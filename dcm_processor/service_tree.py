"""A service's two folders as files: taken from a source nobody vouches for, copied, named by content, deleted.

A source is any folder with `registry/` and `module/`. Only regular files and symlinks that stay within their
folder are taken; what tools leave behind (`__pycache__`, `.git` …) and empty folders are not.
"""

import errno
import hashlib
import itertools
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcm_processor.errors import ServiceError

PARTS = ("registry", "module")
"""The folders of a source, and of a backup."""
MAX_FILES = 20_000
MAX_BYTES = 4 * 1024**3

_LEFT_OUT = frozenset(
    {"__pycache__", ".git", ".hg", ".svn", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store"}
)
_CHUNK = 1 << 20
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """A file, or a symlink to `target`; `path` is relative to the part's folder."""

    path: PurePosixPath
    target: str | None = None


def check_source(source: Path, name: str) -> None:
    """Make sure that `source` has both parts.

    Raises ServiceError that says what is missing, with the nearest guess at what was meant.
    """
    if not source.is_dir():
        raise ServiceError(f"{source} is {'no folder' if source.exists() else 'not there'}; {_EXPECTED}")
    missing = [part for part in PARTS if not (source / part).is_dir()]
    if not missing:
        for part in PARTS:
            if not (source / part).resolve().is_relative_to(source.resolve()):
                raise ServiceError(
                    f"{source / part} is a symlink that leads out of {source}; put the folder itself there"
                )
        return
    what = " and ".join(f"{part}/" for part in missing)
    raise ServiceError(f"{source} has no {what}; {_guess(source, name) or _EXPECTED}")


_EXPECTED = "a service is a folder with the sub-folders registry/ (settings.json, callback) and module/ (worker)"


def _guess(source: Path, name: str) -> str | None:
    parent, below = source.absolute().parent, source / name
    if source.absolute().name in PARTS and all((parent / part).is_dir() for part in PARTS):
        return f"did you mean {parent}?"
    if all((below / part).is_dir() for part in PARTS):
        return f"did you mean {below}?"
    for part, wrong in (("module", "modules"), ("registry", "registries"), ("registry", "register")):
        if (source / wrong).is_dir() and not (source / part).is_dir():
            return f"rename its {wrong}/ to {part}/"
    if (source / "settings.json").is_file():
        return f"it looks like the registry/ folder itself; {_EXPECTED}"
    return None


def entries(folder: Path) -> list[Entry]:
    """What of a folder is taken, sorted by path.

    Raises ServiceError for special files, symlinks that lead out of the folder, and sizes no service should
    have.
    """
    found: list[Entry] = []
    size = 0
    for path, status in _walk(folder):
        relative = PurePosixPath(path.relative_to(folder))
        if stat.S_ISLNK(status.st_mode):
            found.append(Entry(relative, inner_target(folder, relative)))
        elif stat.S_ISREG(status.st_mode):
            found.append(Entry(relative))
            size += status.st_size
        else:
            raise ServiceError(f"{path} is neither a file, a folder nor a symlink; take it out of the service")
        if len(found) > MAX_FILES or size > MAX_BYTES:
            limit = f"{MAX_FILES:,} files or {MAX_BYTES // 1024**3} GB"
            raise ServiceError(
                f"{folder} holds more than {limit}: is it the right folder? Keep data outside of services"
            )
    return sorted(found, key=lambda entry: os.fsencode(str(entry.path)))


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as children:
        for child in children:
            if child.name in _LEFT_OUT or child.name.endswith(".pyc"):
                continue
            if child.is_dir(follow_symlinks=False):
                yield from _walk(Path(child.path))
            else:
                yield Path(child.path), child.stat(follow_symlinks=False)


def inner_target(folder: Path, link: PurePosixPath) -> str:
    """Where a symlink (its path is relative to the folder) leads, as text.

    Raises ServiceError where that is nothing, or out of the folder.
    """
    path, target = folder / link, os.readlink(folder / link)  # noqa: PTH115 - as text, not normalised
    depth = len(link.parts) - 1
    for part in PurePosixPath(target).parts:
        depth += -len(part) if part == "/" else {"..": -1}.get(part, 1)
        if depth < 0:
            break
    try:
        inside = (
            depth >= 0 and not target.startswith("/") and path.resolve(strict=True).is_relative_to(folder.resolve())
        )
    except (OSError, RuntimeError):  # to nothing, or to itself
        raise ServiceError(f"{path} is a symlink to nothing; remove it, or put the file itself there") from None
    if not inside:
        raise ServiceError(f"{path} is a symlink that leads out of {folder}; put the file itself there")
    return target


def copy(sources: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    """Copy each part's entries into a new folder, with this process's umask; of modes only "executable" is kept.

    Raises ServiceError as `entries` does, and OSError.
    """
    for part in PARTS:
        copy_folder(sources[part], targets[part])


def copy_folder(source: Path, target: Path) -> None:
    """Copy the entries of one folder, as `copy` does."""
    target.mkdir(parents=True)
    for entry in entries(source):
        place = target / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.target is not None:
            place.symlink_to(entry.target)
        else:
            _copy_file(source / entry.path, place)


def _copy_file(source: Path, target: Path) -> None:
    # neither following a symlink nor waiting for a pipe that somebody put there meanwhile
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as reading:
        mode = os.fstat(reading.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ServiceError(f"{source} changed while it was copied; try again")
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if mode & stat.S_IXUSR else 0o666)
        with os.fdopen(made, "wb") as writing:
            shutil.copyfileobj(reading, writing, _CHUNK)


def digest(folders: Mapping[str, Path]) -> str:
    """32 hexadecimal digits that name both parts' content: paths, symlinks, "executable", bytes.

    Raises ServiceError as `entries` does, and OSError.
    """
    whole = hashlib.sha256()
    for part in PARTS:
        for entry in entries(folders[part]):
            path = folders[part] / entry.path
            if entry.target is not None:
                kind, content = b"link", hashlib.sha256(os.fsencode(entry.target)).digest()
            else:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
                    kind = b"program" if os.fstat(file.fileno()).st_mode & stat.S_IXUSR else b"file"
            whole.update(b"\0".join((part.encode(), os.fsencode(str(entry.path)), kind, content.hex().encode(), b"\n")))
    return whole.hexdigest()[:32]


def freeze(folder: Path) -> None:
    """Make the files below readable to all and writable to nobody (root aside); `rm -r` works all the same."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        elif not path.is_symlink():
            path.chmod(0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444)


def sync_tree(folder: Path) -> None:
    """Have a folder with all that is in it on the disk."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            sync(path)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def move(path: Path, to: Path) -> None:
    """Rename; that of a folder into another one takes the right to write to it, which a job may have taken away.

    Raises OSError.
    """
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
        path.chmod(stat.S_IMODE(mode) | 0o700)
    path.rename(to)


def remove(folder: Path) -> None:
    """Delete a folder, however deep it is and whatever its folders' modes are; symlinks are deleted, never followed.

    What lies deeper is brought up before it is deleted: no path gets long, and nothing is recursive.

    Raises OSError.
    """
    if folder.is_symlink():  # chmod would follow it
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    folder.chmod(0o700)
    top = os.open(folder, _OPEN_FOLDER)
    try:
        inner, up = _empty(top), secrets.token_hex(8)
        for number in itertools.count():
            if not inner:
                break
            name = inner.pop()
            opened = os.open(name, _OPEN_FOLDER, dir_fd=top)
            try:
                for place, deeper in enumerate(_empty(opened)):
                    inner.append(f"{up}-{number}-{place}")
                    os.rename(deeper, inner[-1], src_dir_fd=opened, dst_dir_fd=top)
            finally:
                os.close(opened)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    folder.rmdir()


def _empty(folder: int) -> list[str]:
    """Delete what an open folder holds but for its folders; returns their names, which may be moved and opened then."""
    with os.scandir(folder) as found:
        entries = list(found)
    inner = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.name, 0o700, dir_fd=folder)
            inner.append(entry.name)
        else:
            os.unlink(entry.name, dir_fd=folder)
    return inner

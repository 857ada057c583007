"""A folder that is filled with what nobody vouches for: nothing is written beside it, nor through a symlink.

Entries come by paths that `checked` took. Symlinks are made last, so that none is there while files are written; each
folder on the way is opened as one, step by step, whoever put it there.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dcm_processor import service_tree
from dcm_processor.archives.archive import DEPTH, FOLDER, opened
from dcm_processor.errors import ArchiveError, ServiceError

_NAME_BYTES, _PATH_BYTES = 255, 4096
# What the system says of names that an archive should not hold.
_ITS_OWN_FAULT = (
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EILSEQ,
    errno.ENAMETOOLONG,
)


def checked(name: str) -> PurePosixPath:
    """A path inside; raises ArchiveError if it could lead anywhere else."""
    parts = name.rstrip("/").split("/")
    encoded = [os.fsencode(part) for part in parts]
    if any(part in (b"", b".", b"..") or b"\0" in part or len(part) > _NAME_BYTES for part in encoded):
        raise ArchiveError("the archive holds a name that leads out of it, or is none")
    if len(parts) > DEPTH + 1 or sum(map(len, encoded)) > _PATH_BYTES:
        raise ArchiveError("the archive holds a name that is too long")
    return PurePosixPath(*parts)


class NewFolder:
    """A folder while it is filled; `filling` makes it.

    Methods raise ArchiveError for what cannot be made or comes twice, and OSError.
    """

    def __init__(self, target: Path, root: int, *, durable: bool) -> None:
        self._target = target
        self._root = root
        self._durable = durable
        self._links: list[tuple[PurePosixPath, str]] = []

    def folder(self, path: PurePosixPath) -> None:
        """Make a folder that is not there."""
        with _named(), self._parent(path) as folder:
            os.mkdir(path.name, dir_fd=folder)

    def folders(self, path: PurePosixPath) -> None:
        """Make a folder, and those it lies in, where they are not there yet."""
        for part in (*reversed(path.parents), path):
            if part.name:
                with _named(), self._parent(part) as folder:
                    try:
                        os.mkdir(part.name, dir_fd=folder)
                    except FileExistsError:
                        os.close(os.open(part.name, FOLDER, dir_fd=folder))

    def file(self, path: PurePosixPath, pieces: Iterable[bytes | memoryview], *, executable: bool) -> None:
        """Make a file of pieces of bytes; its folder is there."""
        with _named(), self._parent(path) as folder:
            mode = 0o777 if executable else 0o666
            opened_file = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        with os.fdopen(opened_file, "wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
            if self._durable:
                os.fsync(opened_file)

    def link(self, path: PurePosixPath, target: str) -> None:
        """Have a symlink made at the end."""
        self._links.append((path, target))

    def make_links(self) -> None:
        """Make the symlinks, wherever they lead."""
        for path, target in self._links:
            try:
                with self._parent(path) as folder:
                    os.symlink(target, path.name, dir_fd=folder)
            except ValueError:
                raise ArchiveError("the archive holds a symlink that cannot be made") from None
            except OSError as error:
                if error.errno in _ITS_OWN_FAULT:
                    raise ArchiveError("the archive holds a symlink that cannot be made") from None
                raise

    def check_links(self) -> None:
        """Refuse symlinks that lead out of the folder, or to nothing."""
        try:
            for path, _ in self._links:
                service_tree.inner_target(self._target, path)
        except (ServiceError, ValueError):
            raise ArchiveError("the archive holds a symlink that leads out of it, or to nothing") from None

    @contextmanager
    def _parent(self, path: PurePosixPath) -> Iterator[int]:
        """The folder of an entry, opened step by step: a symlink on the way is refused, whoever put it there."""
        folder = os.dup(self._root)
        try:
            for name in path.parts[:-1]:
                inner = os.open(name, FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


@contextmanager
def filling(target: Path, *, durable: bool = False) -> Iterator[NewFolder]:
    """Make the folder `target`; whatever is raised inside, nothing of it is left. `durable`: files are on the disk."""
    target.mkdir()
    try:
        with opened(target) as root:
            yield NewFolder(target, root, durable=durable)
        if durable:
            _sync_folders(target)
    except BaseException:
        service_tree.remove(target)
        raise


@contextmanager
def _named() -> Iterator[None]:
    """Have what the system says of a name as the archive's fault."""
    try:
        yield
    except OSError as error:
        if error.errno in _ITS_OWN_FAULT:
            raise ArchiveError(
                f"the archive holds a name that cannot be made or comes twice ({error.strerror})"
            ) from None
        raise


def _sync_folders(folder: Path) -> None:
    service_tree.sync(folder)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            service_tree.sync(path)

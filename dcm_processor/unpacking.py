"""The receiver's side of an archive: a stream of bytes becomes a folder, or nothing.

Whoever sends is not believed: names, kinds, numbers and sizes are checked before anything is written, nothing is
written through a symlink, and a stream that ends early is noticed by what its global header counts. Python's own
`tarfile` reads single headers here and no more: it has filters only since 3.11.4, takes an archive that ends between
two entries for a whole one, and reads extended headers of any size into memory.
"""

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcm_processor import service_tree
from dcm_processor.archive import DEPTH, ENTRIES, FOLDER, SIZE, Extent, opened
from dcm_processor.errors import ArchiveCutError, ArchiveError, ServiceError

_UNIT = tarfile.BLOCKSIZE
_LONGEST = 64 * 1024  # bytes of a pax header, and of what may follow the end
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


def unpack(blocks: Iterable[bytes], target: Path, limits: Extent, *, durable: bool = False) -> Extent:
    """Make the folder `target` of an archive; `durable`: all of it is on the disk then. Returns how much came.

    Whatever is raised, nothing of it is left. Raises ArchiveError for what no `pack` of ours sends or is more than the
    limits, ArchiveCutError where the stream ends early, and OSError (ENOSPC at once where there is too little room).
    """
    target.mkdir()
    try:
        with opened(target) as root:
            came = _Unpacking(_Reader(blocks), target, root, limits, durable=durable).run()
        if durable:
            _sync_folders(target)
    except BaseException:
        service_tree.remove(target)
        raise
    return came


class _Unpacking:
    """One archive becoming a folder."""

    def __init__(self, reader: "_Reader", target: Path, root: int, limits: Extent, *, durable: bool) -> None:
        self._reader = reader
        self._target = target
        self._root = root
        self._limits = limits
        self._durable = durable
        self._entries = 0
        self._size = 0
        self._links: list[tuple[PurePosixPath, str]] = []

    def run(self) -> Extent:
        announced = self._announced()
        for entry in self._entries_of_archive():
            self._entries += 1
            self._size += entry.size
            if self._entries > announced.entries or self._size > announced.size:
                raise ArchiveError("the archive holds more than it announces")
            try:
                self._make(entry)
            except OSError as error:
                if error.errno in _ITS_OWN_FAULT:
                    raise ArchiveError(
                        f"the archive holds a name that cannot be made or comes twice ({error.strerror})"
                    ) from None
                raise
        if (self._entries, self._size) != (announced.entries, announced.size):
            raise ArchiveCutError(f"of the archive's {announced.entries} entries {self._entries} came")
        self._reader.finish()
        self._make_links()  # last, so that nothing is ever written through one
        return announced

    def _announced(self) -> Extent:
        info = self._next()
        if info is None or info.type != tarfile.XGLTYPE:
            raise ArchiveError("this is no archive of ours: it does not begin by counting what it holds")
        counts = self._pax(info)
        announced = Extent(_number(counts.get(ENTRIES)), _number(counts.get(SIZE)))
        if announced.entries > self._limits.entries or announced.size > self._limits.size:
            raise ArchiveError(f"an archive of more than {self._limits} is not taken")
        if announced.size > shutil.disk_usage(self._target).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._target))
        return announced

    def _entries_of_archive(self) -> Iterator["_Entry"]:
        extended: Mapping[str, str] = {}
        while (info := self._next()) is not None:
            if info.type == tarfile.XHDTYPE:
                extended = self._pax(info)
                continue
            size = _number(extended["size"]) if "size" in extended else info.size
            kind = tarfile.REGTYPE if info.type == tarfile.AREGTYPE else info.type
            if kind not in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE):
                raise ArchiveError("the archive holds something that is neither a file, a folder nor a symlink")
            if size < 0 or (size and kind != tarfile.REGTYPE):
                raise ArchiveError("the archive holds an entry of an impossible size")
            path = _checked(extended.get("path", info.name))
            yield _Entry(path, kind, size, extended.get("linkpath", info.linkname), bool(info.mode & stat.S_IXUSR))
            extended = {}

    def _next(self) -> tarfile.TarInfo | None:
        """The next header; None at the end."""
        header = self._reader.exactly(_UNIT)
        if not any(header):
            return None
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError):
            raise ArchiveError("this is no archive of ours: a header is none of tar's") from None

    def _pax(self, info: tarfile.TarInfo) -> dict[str, str]:
        """An extended header: records of `<length> <key>=<value>\\n`."""
        if not 0 <= info.size <= _LONGEST:
            raise ArchiveError("the archive holds a header of an impossible size")
        text = self._reader.exactly(info.size)
        self._reader.exactly(-info.size % _UNIT)
        found: dict[str, str] = {}
        while text:
            digits, space, _ = text[:16].partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            key, equals, value = text[len(digits) + 1 : max(0, length - 1)].partition(b"=")
            if not equals or text[length - 1 : length] != b"\n":
                raise ArchiveError("the archive holds a header that cannot be read")
            found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            text = text[length:]
        return found

    def _make(self, entry: "_Entry") -> None:
        if entry.kind == tarfile.SYMTYPE:
            self._links.append((entry.path, entry.target))
            return
        with self._parent(entry.path) as folder:
            if entry.kind == tarfile.DIRTYPE:
                os.mkdir(entry.path.name, dir_fd=folder)
                return
            mode = 0o777 if entry.executable else 0o666
            opened = os.open(entry.path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        with os.fdopen(opened, "wb", buffering=0) as file:
            for piece in self._reader.pieces(entry.size):
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
            if self._durable:
                os.fsync(opened)
        self._reader.exactly(-entry.size % _UNIT)

    def _make_links(self) -> None:
        try:
            for path, target in self._links:
                with self._parent(path) as folder:
                    os.symlink(target, path.name, dir_fd=folder)
            for path, _ in self._links:
                service_tree.inner_target(self._target, path)
        except (ServiceError, ValueError):
            raise ArchiveError("the archive holds a symlink that leads out of it, or to nothing") from None
        except OSError as error:
            if error.errno in _ITS_OWN_FAULT:
                raise ArchiveError("the archive holds a symlink that cannot be made") from None
            raise

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


@dataclass(frozen=True)
class _Entry:
    """A checked header; of a file `size` bytes follow."""

    path: PurePosixPath
    kind: bytes
    size: int
    target: str
    executable: bool


class _Reader:
    """Blocks of any length as a stream of bytes."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes.

        Raises ArchiveCutError where there are fewer.
        """
        while size:
            if not self._rest:
                block = next(self._blocks, b"")
                if not block:
                    raise ArchiveCutError("the archive ends before its end")
                self._rest = memoryview(block)
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def finish(self) -> None:
        """Read what fills the stream up after its end, so that its connection can be used again."""
        after = len(self._rest)
        for block in self._blocks:
            after += len(block)
            if after > _LONGEST:
                raise ArchiveError("the archive goes on after its end")


def _checked(name: str) -> PurePosixPath:
    """A path inside the archive; refused if it could lead anywhere else."""
    parts = name.rstrip("/").split("/")
    encoded = [os.fsencode(part) for part in parts]
    if any(part in (b"", b".", b"..") or b"\0" in part or len(part) > _NAME_BYTES for part in encoded):
        raise ArchiveError("the archive holds a name that leads out of it, or is none")
    if len(parts) > DEPTH + 1 or sum(map(len, encoded)) > _PATH_BYTES:
        raise ArchiveError("the archive holds a name that is too long")
    return PurePosixPath(*parts)


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ArchiveError("the archive holds a number that is none")
    return int(text)


def _sync_folders(folder: Path) -> None:
    service_tree.sync(folder)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            service_tree.sync(path)

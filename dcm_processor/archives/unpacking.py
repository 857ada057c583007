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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcm_processor.archives.archive import ENTRIES, SIZE, Extent
from dcm_processor.archives.new_folder import NewFolder, checked, filling
from dcm_processor.errors import ArchiveCutError, ArchiveError

_UNIT = tarfile.BLOCKSIZE
_LONGEST = 64 * 1024  # bytes of a pax header, and of what may follow the end


def unpack(blocks: Iterable[bytes], target: Path, limits: Extent, *, durable: bool = False) -> Extent:
    """Make the folder `target` of an archive; `durable`: all of it is on the disk then. Returns how much came.

    Whatever is raised, nothing of it is left. Raises ArchiveError for what no `pack` of ours sends or is more than the
    limits, ArchiveCutError where the stream ends early, and OSError (ENOSPC at once where there is too little room).
    """
    with filling(target, durable=durable) as folder:
        return _Unpacking(_Reader(blocks), target, folder, limits).run()


class _Unpacking:
    """One archive becoming a folder."""

    def __init__(self, reader: "_Reader", target: Path, folder: NewFolder, limits: Extent) -> None:
        self._reader = reader
        self._target = target
        self._folder = folder
        self._limits = limits
        self._entries = 0
        self._size = 0

    def run(self) -> Extent:
        announced = self._announced()
        for entry in self._entries_of_archive():
            self._entries += 1
            self._size += entry.size
            if self._entries > announced.entries or self._size > announced.size:
                raise ArchiveError("the archive holds more than it announces")
            self._make(entry)
        if (self._entries, self._size) != (announced.entries, announced.size):
            raise ArchiveCutError(f"of the archive's {announced.entries} entries {self._entries} came")
        self._reader.finish()
        self._folder.make_links()
        self._folder.check_links()
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
            path = checked(extended.get("path", info.name))
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
            self._folder.link(entry.path, entry.target)
        elif entry.kind == tarfile.DIRTYPE:
            self._folder.folder(entry.path)
        else:
            self._folder.file(entry.path, self._reader.pieces(entry.size), executable=entry.executable)
            self._reader.exactly(-entry.size % _UNIT)


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


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ArchiveError("the archive holds a number that is none")
    return int(text)

"""Archives that others made (.zip, .tar, .tar.gz): unpacked into a new folder, or refused.

What they hold is bounded in number, size and ratio, and checked entry by entry; names that lead out, hard links
and devices are refused. A symlink is made as it is, after all files; who takes files from the folder checks where it
leads. Python's own readers get no more memory than they need: headers of any size, and methods that want gigabytes,
are refused before they are read.
"""

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from dcm_processor.archives import archive
from dcm_processor.archives.new_folder import NewFolder, checked, filling
from dcm_processor.errors import ArchiveError

LIMITS = archive.VERSION
"""The most that an archive may hold."""
RATIO = 200
FREE = 256 * 1024**2
"""Bytes that an archive may unpack to whatever its ratio; beyond that at most RATIO times its own size."""

_LONGEST_HEADER = 1024**2
_LONGEST_LINK = 4096
_CHUNK = 256 * 1024
# APPNOTE.TXT 4.3.16, 4.3.14 (with 4.3.15): how much a zip's directory holds
_END, _END_SIZE = b"PK\x05\x06", 22
_END_64, _END_64_SIZE = b"PK\x06\x06", 56 + 20
_MADE_ON_WINDOWS = 0
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    IndexError,
    NotImplementedError,
)


def unpack(file: Path, target: Path) -> None:
    """Make the folder `target` of an archive, whose kind its name tells.

    Whatever is raised, nothing of it is left. Raises ArchiveError for what is damaged, or holds what it must not, and
    OSError.
    """
    try:
        with filling(target) as folder:
            unpacking = _Unpacking(folder, file.stat().st_size)
            if file.name.endswith(".zip"):
                unpacking.zip(file)
            else:
                unpacking.tar(file)
            folder.make_links()
    except _DAMAGE:
        raise ArchiveError("the archive is damaged, or was cut: it cannot be read to its end") from None


class _Unpacking:
    """One archive becoming a folder."""

    def __init__(self, folder: NewFolder, size: int) -> None:
        self._folder = folder
        self._most = min(LIMITS.size, max(FREE, RATIO * size))
        self._entries = 0
        self._size = 0

    def zip(self, file: Path) -> None:
        """APPNOTE.TXT, the zip file format."""
        with file.open("rb") as opened:
            _check_directory(opened)
            with zipfile.ZipFile(opened) as found:
                for info in found.infolist():
                    self._count()
                    self._member(found, info)

    def _member(self, found: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        kind = stat.S_IFMT(info.external_attr >> 16)
        # Tools of Windows, such as PowerShell's Compress-Archive, write backslashes, which no name holds there.
        name = info.filename.replace("\\", "/") if info.create_system == _MADE_ON_WINDOWS else info.filename
        path = _inside(name)
        if _is_of_macos(path):
            return
        if info.flag_bits & 0x1:
            raise ArchiveError("the archive is encrypted; make one that is not")
        if info.compress_type not in _METHODS:
            raise ArchiveError("the archive is compressed by another method than deflate, which all tools know")
        if name.endswith("/"):
            self._folder.folders(path)
        elif kind == stat.S_IFLNK:
            with found.open(info) as target:
                self._link(path, b"".join(self._bounded(target, most=_LONGEST_LINK)).decode("utf-8", "surrogateescape"))
        elif kind in (0, stat.S_IFREG):
            self._folder.folders(path.parent)
            with found.open(info) as content:
                executable = bool(info.external_attr >> 16 & stat.S_IXUSR)
                self._folder.file(path, self._bounded(content), executable=executable)
        else:
            raise ArchiveError("the archive holds something that is neither a file, a folder nor a symlink")

    def tar(self, file: Path) -> None:
        """POSIX.1-2001 (pax), and GNU's and older kinds."""
        compressed = not file.name.endswith(".tar")
        with gzip.open(file) if compressed else file.open("rb") as opened:
            stream = _Forward(opened, self._most + LIMITS.entries * 4 * tarfile.BLOCKSIZE)  # with headers
            with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as found:  # type: ignore[call-overload]
                for info in found:
                    self._count()
                    self._entry(found, info)
            if stream.last != bytes(tarfile.BLOCKSIZE):
                raise ArchiveError("the archive is damaged, or was cut: it has no end")

    def _entry(self, found: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        if info.isdir() and not info.name.strip("./"):
            return  # the folder that was packed
        path = _inside(info.name)
        if _is_of_macos(path):
            return
        if info.isdir():
            self._folder.folders(path)
        elif info.issym():
            self._link(path, info.linkname)
        elif info.isreg() and not info.issparse() and info.size >= 0:
            self._folder.folders(path.parent)
            content = found.extractfile(info)
            assert content is not None
            with content:
                self._folder.file(path, self._bounded(content), executable=bool(info.mode & stat.S_IXUSR))
        else:
            kind = "a hard link (tar's --hard-dereference makes files of them)" if info.islnk() else "a device, or such"
            raise ArchiveError(f"the archive holds {kind}; only files, folders and symlinks are taken")

    def _link(self, path: PurePosixPath, target: str) -> None:
        if not target or len(target) > _LONGEST_LINK:
            raise ArchiveError("the archive holds a symlink that cannot be made")
        self._folder.folders(path.parent)
        self._folder.link(path, target)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > LIMITS.entries:
            raise _too_much()

    def _bounded(self, content: IO[bytes], most: int | None = None) -> Iterator[bytes]:
        """What an entry holds, as far as it may."""
        size = 0
        while piece := content.read(_CHUNK):
            size += len(piece)
            self._size += len(piece)
            if self._size > self._most or (most is not None and size > most):
                raise _too_much()
            yield piece


class _Forward:
    """A stream for `tarfile`: read from front to back, in pieces that are no burden; `last` is the last one."""

    def __init__(self, stream: io.BufferedIOBase, most: int) -> None:
        self._stream = stream
        self._most = most
        self._at = 0
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ArchiveError("the archive holds a header of an impossible size")
        self.last = self._stream.read(size)
        self._at += len(self.last)
        if self._at > self._most:
            raise _too_much()
        return self.last

    def seek(self, position: int) -> int:
        if position < self._at:
            raise ArchiveError("the archive holds an entry of an impossible size")
        while self._at < position:
            if not self.read(min(position - self._at, _CHUNK)):
                break
        return self._at

    def tell(self) -> int:
        return self._at


def _inside(name: str) -> PurePosixPath:
    """A path inside, as `checked` has it; `./` before it is how some tools say so."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return checked(name)


def _is_of_macos(path: PurePosixPath) -> bool:
    """Whether this is what macOS puts beside each file of an archive: attributes of its own, under the file's name."""
    return path.parts[0] == "__MACOSX" or path.name.startswith("._")


def _check_directory(opened: IO[bytes]) -> None:
    """Refuse a zip whose directory, which `zipfile` reads into memory, is larger than that of any that is taken.

    Its end is looked for where `zipfile` does.
    """
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(0, size - 0xFFFF - _END_SIZE - _END_64_SIZE))
    tail = opened.read()
    at = len(tail) - _END_SIZE
    if tail[at : at + 4] != _END or tail[-2:] != b"\0\0":
        at = tail.rfind(_END)
    if at < 0:
        return  # `zipfile` finds none either
    sizes = [(tail[at + 10 : at + 12], tail[at + 12 : at + 16])]
    at_64 = at - _END_64_SIZE
    if at_64 >= 0 and tail[at_64 : at_64 + 4] == _END_64:
        sizes.append((tail[at_64 + 32 : at_64 + 40], tail[at_64 + 40 : at_64 + 48]))
    for entries, directory in sizes:
        said = directory != b"\xff\xff\xff\xff"  # else zip64's record says it
        if int.from_bytes(entries, "little") > LIMITS.entries or (
            said and int.from_bytes(directory, "little") > LIMITS.entries * 1024
        ):
            raise _too_much()


def _too_much() -> ArchiveError:
    return ArchiveError(
        f"the archive unpacks to more than a service may be ({LIMITS}), or to more than {RATIO} times its own size"
    )

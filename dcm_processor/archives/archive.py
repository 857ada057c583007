"""Folders on their way between hosts: a tar stream (POSIX pax), made and taken apart while it travels.

    pack       folders ─▶ blocks of bytes: one global header that counts what follows, then each entry, then the end
    unpack     (`unpacking`) blocks of bytes ─▶ a new folder that holds all of it, or no folder at all

What travels are folders, regular files and symlinks that stay inside; of modes only "executable". Neither side holds
more in memory than a block.
"""

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcm_processor import service_tree
from dcm_processor.errors import ArchiveCutError, ArchiveError, ServiceError

MEDIA_TYPE = "application/x-tar"
BLOCK = 256 * 1024
"""Bytes that are sent, read and written at once, about."""
DEPTH = 64
"""How deep folders may lie in each other."""
ENTRIES, SIZE = "DCMPROC.entries", "DCMPROC.size"
"""The keys of the global header, which says how much the archive holds."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened: as one, and not through a symlink."""
_UNIT = tarfile.BLOCKSIZE
_CHANGED = "the folder changed while it was packed; try again"


@dataclass(frozen=True)
class Extent:
    """How much an archive holds, or may hold: entries (folders count), and bytes of all files together."""

    entries: int
    size: int

    def __str__(self) -> str:
        return f"{self.entries:,} files and folders or {self.size // 1024**3} GB"


OUTPUT = Extent(200_000, 128 * 1024**3)
"""The most that a job may leave."""
VERSION = Extent(4 * service_tree.MAX_FILES, 2 * service_tree.MAX_BYTES)
"""The most that a service's version may hold, with folders and compiled files beside what counts at install."""


@dataclass(frozen=True)
class Contents:
    """What of some folders travels: `entries` of them, `size` bytes; `left_out` names what cannot.

    `folders` maps the name in the archive to the folder; the name "" puts the folder's contents at the top.
    """

    folders: Mapping[str, Path]
    entries: int
    size: int
    left_out: tuple[str, ...]


def survey(folders: Mapping[str, Path], limits: Extent) -> Contents:
    """Look at what is to be packed.

    Raises ArchiveError where it is more, or deeper, than what may travel, and OSError.
    """
    entries = size = 0
    left_out: list[str] = []
    for found in _walk(folders):
        if found.travels:
            entries += 1
            size += found.size
        else:
            left_out.append(found.path)
        if entries + len(left_out) > limits.entries or size > limits.size:
            raise ArchiveError(f"a folder of more than {limits} cannot be sent to another host")
    return Contents(folders, entries, size, tuple(left_out))


def pack(contents: Contents) -> Iterator[bytes]:
    """The archive in blocks.

    Raises ArchiveCutError where the folders are no more what the survey saw, and OSError; the end is missing then.
    """
    block = bytearray()
    for piece in _pieces(contents):
        block += piece
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _pieces(contents: Contents) -> Iterator[bytes]:
    yield tarfile.TarInfo.create_pax_global_header({ENTRIES: str(contents.entries), SIZE: str(contents.size)})
    entries = size = 0
    for found in _walk(contents.folders):
        if not found.travels:
            continue
        entries += 1
        size += found.size
        if entries > contents.entries or size > contents.size:
            raise ArchiveCutError(_CHANGED)
        if found.kind == tarfile.REGTYPE:
            yield from _file(found)
        else:
            yield _header(found, 0, executable=found.kind == tarfile.DIRTYPE)
    if (entries, size) != (contents.entries, contents.size):
        raise ArchiveCutError(_CHANGED)
    yield bytes(2 * _UNIT)


def _file(found: "_Found") -> Iterator[bytes]:
    # neither following a symlink nor waiting for a pipe that somebody put there meanwhile
    opened = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=found.folder)
    with os.fdopen(opened, "rb", buffering=0) as file:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode) or status.st_size != found.size:
            raise ArchiveCutError(_CHANGED)
        yield _header(found, found.size, executable=bool(status.st_mode & stat.S_IXUSR))
        left = found.size
        while left:
            piece = file.read(min(left, BLOCK))
            if not piece:
                raise ArchiveCutError(_CHANGED)
            left -= len(piece)
            yield piece
    yield bytes(-found.size % _UNIT)


def _header(found: "_Found", size: int, *, executable: bool) -> bytes:
    info = tarfile.TarInfo(found.path)
    info.type, info.size, info.linkname = found.kind, size, found.target
    info.mode = 0o755 if executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@dataclass(frozen=True)
class _Found:
    """Something in a folder: `name` in the open `folder`, `path` in the archive; `kind` as tar has it, b"" for none."""

    path: str
    kind: bytes
    size: int
    target: str
    folder: int
    name: str

    @property
    def travels(self) -> bool:
        return self.kind != b""


def _walk(folders: Mapping[str, Path]) -> Iterator[_Found]:
    """Folders before what is in them, each folder's names in order; by open folders, so that no path is trusted."""
    for name, folder in folders.items():
        with opened(folder) as root:
            if name:
                yield _Found(name, tarfile.DIRTYPE, 0, "", root, "")
            yield from _below(folder, root, PurePosixPath(), PurePosixPath(name))


def _below(top: Path, folder: int, inside: PurePosixPath, inside_archive: PurePosixPath) -> Iterator[_Found]:
    for name in sorted(os.listdir(folder)):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        kind, size, target = b"", 0, ""
        if stat.S_ISDIR(status.st_mode):
            kind = tarfile.DIRTYPE
        elif stat.S_ISREG(status.st_mode):
            kind, size = tarfile.REGTYPE, status.st_size
        elif stat.S_ISLNK(status.st_mode):
            try:
                kind, target = tarfile.SYMTYPE, service_tree.inner_target(top, inside / name)
            except ServiceError:
                kind = b""
        yield _Found(str(inside_archive / name), kind, size, target, folder, name)
        if kind == tarfile.DIRTYPE:
            if len(inside.parts) + 1 >= DEPTH:
                raise ArchiveError(f"folders more than {DEPTH} deep in each other cannot be sent to another host")
            inner = os.open(name, FOLDER, dir_fd=folder)
            try:
                yield from _below(top, inner, inside / name, inside_archive / name)
            finally:
                os.close(inner)


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """The folder's descriptor, inside."""
    descriptor = os.open(folder, FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

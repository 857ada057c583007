"""Finds DICOM instances in files, folders and zip archives, told by their content, never by their name alone."""

import os
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Self

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dcm_processor.errors import PermanentError, UsageError

MEMBER_LIMIT = 1 << 30
"""Bytes of one instance in a zip archive: it is unpacked in memory."""
ARCHIVE_MEMBERS = 1_000_000
ARCHIVE_RATIO = 200
ARCHIVE_FREE = 4 << 30
"""Bytes that an archive may unpack to whatever its ratio; an empty mask of a segmentation shrinks a thousandfold."""

_HEAD = 16 * 1024  # the identifying elements stand within the first bytes of an instance
_DICOMDIR = "1.2.840.10008.1.3.10"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class DicomFile:
    """One instance that can be sent: where it lies and what a presentation context needs to know of it."""

    name: str  # as shown to the user: its path, or `archive.zip:member`
    path: Path  # of the file or of the archive
    member: str | None  # within the archive
    sop_class: UID
    transfer_syntax: UID
    is_file_format: bool  # as PS3.10 wants it; else a bare dataset, or a header with gaps or of another instance

    @property
    def is_sendable_as_is(self) -> bool:
        """Whether its bytes can be streamed from disk without having been looked at."""
        return self.member is None and self.is_file_format


@dataclass(frozen=True)
class Refusal:
    """A file that was not taken, and why."""

    name: str
    reason: str


@dataclass
class Found:
    """What lies at some paths.

    `left_out`: what is no DICOM instance and does not claim to be one. `rejected`: what was named by the user, or is
    DICOM by its looks, and still cannot be used.
    """

    files: list[DicomFile] = field(default_factory=list)
    left_out: list[Refusal] = field(default_factory=list)
    rejected: list[Refusal] = field(default_factory=list)


class _NotDicomError(Exception):
    """The content is no DICOM instance; the message says what it is, as far as can be told."""


class _DamagedError(Exception):
    """The content is DICOM, but not usable; the message says why."""


def find_dicom(paths: Iterable[Path], on_file: Callable[[], None] = lambda: None) -> Found:
    """Look through files, folders (at any depth, in order of name) and zip archives; `on_file` is called for each file.

    Links to folders are not followed. Archives within archives are not opened.
    Raises UsageError where a path does not exist.
    """
    found = Found()
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist; name files, folders or zip archives")
    for path in paths:
        if path.is_dir():
            for inner in _walk(path, found):
                on_file()
                _look_at(inner, found, named=False)
        else:
            on_file()
            _look_at(path, found, named=True)
    return found


class Reader:
    """Reads whole instances; the archive that the last one lay in stays open for the next, until `close`."""

    def __init__(self) -> None:
        self._archive: tuple[Path, zipfile.ZipFile] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave no file open."""
        if self._archive is not None:
            self._archive[1].close()
            self._archive = None

    def read(self, file: DicomFile) -> FileDataset:
        """The instance, in memory, with its transfer syntax in `file_meta`.

        Raises PermanentError where it cannot be read (any more), or unpacks to more than MEMBER_LIMIT.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote values of elements
                dataset = dcmread(
                    file.path if file.member is None else self._unpack(file.path, file.member), force=True
                )
        except _DamagedError as error:
            raise PermanentError(str(error)) from None
        except OSError as error:
            raise PermanentError(f"cannot be read: {error.strerror or type(error).__name__}") from None
        except Exception as error:  # noqa: BLE001 - pydicom raises whatever the broken content led to
            raise PermanentError(f"cannot be read as DICOM ({type(error).__name__})") from None
        dataset.file_meta.TransferSyntaxUID = file.transfer_syntax
        return dataset

    def _unpack(self, path: Path, member: str) -> BytesIO:
        """The member's bytes, never more than MEMBER_LIMIT whatever the archive says of itself."""
        if self._archive is None or self._archive[0] != path:
            self.close()
            self._archive = path, _open_archive(path)
        content = _read_member(self._archive[1], member, MEMBER_LIMIT + 1)
        if len(content) > MEMBER_LIMIT:
            raise _DamagedError(f"unpacks to more than {MEMBER_LIMIT:,} bytes")
        return BytesIO(content)


def _walk(folder: Path, found: Found) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        found.rejected.append(Refusal(str(error.filename), f"cannot be read: {error.strerror}"))

    for base, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in list(folders):
            if Path(base, name).is_symlink():
                found.left_out.append(Refusal(str(Path(base, name)), "a link to a folder"))
        yield from (Path(base, name) for name in sorted(names))


@contextmanager
def _refusals(found: Found, name: str, *, suspect: bool) -> Iterator[None]:
    """Record what is wrong with one file; `suspect` ones should have been DICOM."""
    try:
        yield
    except _NotDicomError as error:
        (found.rejected if suspect else found.left_out).append(Refusal(name, str(error)))
    except _DamagedError as error:
        found.rejected.append(Refusal(name, str(error)))
    except OSError as error:
        found.rejected.append(Refusal(name, f"cannot be read: {error.strerror or type(error).__name__}"))


def _look_at(path: Path, found: Found, *, named: bool) -> None:
    with _refusals(found, str(path), suspect=named or path.suffix.lower() in _SUFFIXES):
        if not stat.S_ISREG(path.stat().st_mode):
            raise _NotDicomError("not a regular file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head[:4] in _ZIP and (named or path.suffix.lower() == ".zip"):
            _look_into(path, found)
        else:
            found.files.append(DicomFile(str(path), path, None, *_identify(head)))


def _look_into(path: Path, found: Found) -> None:
    with _open_archive(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        _refuse_bomb(members, path.stat().st_size)
        for member in sorted(members, key=lambda member: member.filename):
            name = f"{path}:{member.filename}"
            with _refusals(found, name, suspect=Path(member.filename).suffix.lower() in _SUFFIXES):
                _refuse_member(member)
                head = _read_member(archive, member, _HEAD)
                if head[:4] in _ZIP:
                    raise _NotDicomError("an archive within the archive: unpack it first")
                found.files.append(DicomFile(name, path, member.filename, *_identify(head)))


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _DamagedError(f"not a usable zip archive: {error}") from None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | str, limit: int) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(limit)
    except Exception as error:  # noqa: BLE001 - zipfile raises zlib's, lzma's, struct's and its own errors
        raise _DamagedError(f"cannot be unpacked ({type(error).__name__})") from None


def _refuse_bomb(members: list[zipfile.ZipInfo], size: int) -> None:
    """An archive's own figures must make sense; what it really unpacks to is counted once more while reading."""
    packed, unpacked = (sum(getattr(m, key) for m in members) for key in ("compress_size", "file_size"))
    if packed > size:
        raise _DamagedError("refused: its members overlap, as in a zip bomb")
    if len(members) > ARCHIVE_MEMBERS:
        raise _DamagedError(f"refused: more than {ARCHIVE_MEMBERS:,} members; unpack it and send the folder")
    if unpacked > max(ARCHIVE_FREE, ARCHIVE_RATIO * size):
        raise _DamagedError(
            f"refused: unpacks to {unpacked:,} bytes, as a zip bomb does; unpack it and send the folder"
        )


def _refuse_member(member: zipfile.ZipInfo) -> None:
    place = PurePosixPath(member.filename.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or re.match("[A-Za-z]:/", str(place)):
        raise _DamagedError("refused: its name leaves the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _NotDicomError("a link")
    if member.flag_bits & 0x1:
        raise _DamagedError("encrypted: unpack it and send the folder")
    if member.file_size > MEMBER_LIMIT:
        raise _DamagedError(f"larger than {MEMBER_LIMIT:,} bytes: unpack it and send the folder")


def _identify(head: bytes) -> tuple[UID, UID, bool]:
    """SOP class, transfer syntax, and whether the file is as PS3.10 7.1 wants it, from the first bytes of a file."""
    if head[128:132] == b"DICM":
        read = _of_file_format
    elif head[:2] in (b"\x08\x00", b"\x02\x00"):  # group 0008 or 0002: a dataset without preamble
        read = _of_bare_dataset
    else:
        raise _NotDicomError("not DICOM" if head else "empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of elements
            sop_class, syntax, is_file_format = read(head)
    except (_NotDicomError, _DamagedError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever the broken content led to
        raise _DamagedError(f"damaged: its header cannot be read ({type(error).__name__})") from None
    if sop_class == _DICOMDIR:
        raise _NotDicomError("a DICOMDIR: an index of other files")
    return sop_class, syntax, is_file_format


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag.group != 2)


def _past_instance_uid(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > 0x00080018)


def _of_file_format(head: bytes) -> tuple[UID, UID, bool]:
    stream = BytesIO(head)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=_past_meta)
    sop_class, sop_instance, syntax = (
        UID(meta.get(keyword) or "")
        for keyword in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
    )
    if not syntax.is_valid:
        raise _DamagedError("damaged: its header does not say the transfer syntax")
    if not (sop_class.is_valid and sop_instance.is_valid):
        return _sop_class_of_dataset(head), syntax, False
    if syntax != DeflatedExplicitVRLittleEndian and sop_class != _DICOMDIR:
        with suppress(Exception):  # what pydicom does not understand is sent as it is
            uids = _uids_of_dataset(head)
            if all(uid.is_valid for uid in uids) and uids != (sop_class, sop_instance):
                return uids[0], syntax, False  # changed by a tool that left the header alone: peers go by the dataset
    return sop_class, syntax, True


def _of_bare_dataset(head: bytes) -> tuple[UID, UID, bool]:
    try:
        sop_class = _sop_class_of_dataset(head)
    except Exception:  # noqa: BLE001 - two bytes that look like DICOM make no DICOM
        raise _NotDicomError("not DICOM") from None
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return sop_class, (ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian), False


def _sop_class_of_dataset(head: bytes) -> UID:
    sop_class, sop_instance = _uids_of_dataset(head)
    if not (sop_class.is_valid and sop_instance.is_valid):
        raise _DamagedError("damaged: its SOP class or instance UID is missing")
    return sop_class


def _uids_of_dataset(head: bytes) -> tuple[UID, UID]:
    dataset = read_partial(BytesIO(head), stop_when=_past_instance_uid, force=True)
    return UID(dataset.get("SOPClassUID") or ""), UID(dataset.get("SOPInstanceUID") or "")

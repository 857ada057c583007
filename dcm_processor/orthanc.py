"""Orthanc's REST API, as far as this project uses it; the same with Orthanc 1.10 and 1.12.

Failures are not tried again here: the one layer that retries is the caller's. Proxies and .netrc of the environment are
not used. Every method raises OrthancUnavailableError where Orthanc does not answer, or not as Orthanc does; those that
name a study or an instance raise StudyGoneError where Orthanc does not hold it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self, TypeVar, cast

from dcm_processor.errors import OrthancUnavailableError, StudyGoneError
from dcm_processor.json_values import sort_key
from dcm_processor.rest import GONE, Body, Rest
from dcm_processor.settings import Settings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_NAMES = ("SOPInstanceUID", "StudyInstanceUID")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_LISTING_TIMEOUT = 300.0
"""Seconds to the first of a study's instances: Orthanc 1.10 lists them all before it sends one, 0.05 to 0.1 ms each."""

T = TypeVar("T")


@dataclass(frozen=True)
class StudyContents:
    """What a study held when it was asked for."""

    patient_id: str  # Orthanc's identifiers, not DICOM's
    study_id: str
    study_instance_uid: str
    instances: dict[str, tuple[str, ...]]  # seriesId -> instance ids by (InstanceNumber, SOPInstanceUID)
    last_update: str = ""  # Orthanc's LastUpdate before they were listed; "" while the study still grows


@dataclass(frozen=True)
class StudyStatus:
    """What Orthanc says of a study without looking into it."""

    study_id: str
    last_update: str  # when its last instance came: a text to compare with an earlier one, to the second
    is_stable: bool  # also of one that came just before Orthanc was restarted


class StoredFile(NamedTuple):
    """A file in Orthanc; another `uuid` means that it was stored anew."""

    uuid: str
    size: int  # bytes


@dataclass(frozen=True)
class Parent:
    """The series that holds an instance."""

    study_id: str
    series_id: str
    instances: tuple[str, ...]  # all of the series


@dataclass(frozen=True)
class Change:
    """An entry of /changes."""

    seq: int
    kind: str  # NewInstance, StableStudy, …
    resource_id: str
    date: str

    @property
    def mark(self) -> str:
        """A text by which the entry is recognised later; see Orthanc.changes."""
        return f"{self.seq} {self.kind} {self.resource_id} {self.date}"


@dataclass(frozen=True)
class Changes:
    """A page of /changes."""

    entries: tuple[Change, ...]
    last: int  # seq of the last entry, of the newest one of all where there are no entries
    done: bool
    same_database: bool = True  # False: this is not the database that `since` and `mark` came from
    gap: bool = False  # neither the entry at `since` nor the one after it is there any more


def is_orthanc_id(text: object) -> bool:
    """Whether the text has the form of Orthanc's identifiers, and so is harmless in a path."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


class Orthanc:
    """One Orthanc; threads may share it, `connections` of them at full speed.

    `password` gives the password as it is now; it is asked again where Orthanc refuses the one before.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: Callable[[], str],
        *,
        timeout: float = 30.0,
        connections: int = 8,
        ca_file: str | None = None,
    ) -> None:
        self._rest = Rest(url, username, password, timeout=timeout, connections=connections, ca_file=ca_file)

    @classmethod
    def of(cls, settings: Settings, *, timeout: float = 30.0, connections: int = 8) -> Self:
        """The Orthanc that the settings name, asked as the platform's own user."""
        return cls(
            settings.orthanc_url,
            settings.ORTHANC_REST_USERNAME,
            lambda: settings.orthanc_password,
            timeout=timeout,
            connections=connections,
            ca_file=str(settings.EXTRA_CA_FILE) if settings.EXTRA_CA_FILE else None,
        )

    def __str__(self) -> str:
        return str(self._rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._rest.close()

    # -- studies

    def study(self, study_id: str) -> StudyContents:
        """The study with all its instances, in two calls."""
        _check_id(study_id)
        study = self._rest.json(f"/studies/{study_id}", gone="study")
        status = self._rest.expect(lambda: _status(study), "a study")
        by_series: dict[str, list[tuple[int, float, str, str]]] = {}
        for series_id, place in self._instances(study_id, _series_and_place):
            by_series.setdefault(series_id, []).append(place)
        if not by_series:  # it went between the two calls
            raise StudyGoneError(GONE.format("study"))
        return self._rest.expect(
            lambda: StudyContents(
                patient_id=study["ParentPatient"],
                study_id=study_id,
                study_instance_uid=study["MainDicomTags"].get("StudyInstanceUID", ""),
                instances={
                    series: tuple(instance for *_, instance in sorted(by_series.pop(series)))
                    for series in sorted(by_series)
                },
                last_update=status.last_update if status.is_stable else "",
            ),
            "a study",
        )

    def files(self, study_id: str) -> dict[str, StoredFile]:
        """Instance id -> its file, of the whole study in one call."""
        _check_id(study_id)
        return dict(self._instances(study_id, _id_and_file))

    def _instances(self, study_id: str, read: Callable[[Any], T]) -> Iterator[T]:
        """What `read` takes of each of the study's instances, in one call, whose answer is never held whole."""
        listed = self._rest.elements(f"/studies/{study_id}/instances?expand", gone="study", timeout=_LISTING_TIMEOUT)
        for instance in listed:
            yield self._rest.expect(partial(read, instance), "an instance")

    def studies_page(self, since: int, limit: int) -> list[str]:
        """Study ids, from the one at position `since` on."""
        return self._rest.expect(
            lambda: [str(i) for i in self._rest.json(f"/studies?since={since}&limit={limit}")], "studies"
        )

    def statuses(self, since: int, limit: int) -> list[StudyStatus]:
        """The same of studies' statuses; fewer than there are where studies are deleted meanwhile."""
        page = self._rest.json(f"/studies?expand&since={since}&limit={limit}")
        return self._rest.expect(lambda: [_status(study) for study in page], "studies")

    # -- instances

    def dataset(self, instance_id: str) -> "Dataset":
        """The instance's elements up to its pixel data, which are not transferred; one call.

        Raises OrthancUnavailableError where they do not say which instance of which study it is: Orthanc stores no file
        without these (PS3.3 C.12.1, C.7.2.1), so this one is damaged.
        """
        from dcm_processor.elements import read_dataset, text_of  # noqa: PLC0415 - pydicom, which only planning needs

        with self._file(instance_id) as body:
            dataset = read_dataset(cast("BinaryIO", body))
            body.spare_the_connection()
        if lacking := [keyword for keyword in _NAMES if not text_of(dataset, keyword)]:
            raise OrthancUnavailableError(
                f"{self} sends a damaged file for instance {instance_id}: no {' and no '.join(lacking)} can be read; "
                "delete it in Orthanc, then send it anew"
            )
        return dataset

    def download(self, instance_id: str, file: BinaryIO) -> int:
        """Write the instance's file to `file`; returns its size in bytes.

        Raises OSError where `file` does.
        """
        size = 0
        with self._file(instance_id) as body:
            for chunk in body.chunks():
                file.write(chunk)
                size += len(chunk)
        return size

    def stored_by(self, instance_id: str) -> str:
        """The Orthanc user who stored the instance over HTTP, "" for DICOM; one call."""
        _check_id(instance_id)
        metadata = self._rest.json(f"/instances/{instance_id}/metadata?expand", gone="instance")
        return self._rest.expect(lambda: str(metadata.get("HttpUsername", "")), "metadata")

    def parent_of(self, instance_id: str) -> Parent:
        """The series that holds the instance; one call."""
        _check_id(instance_id)
        series = self._rest.json(f"/instances/{instance_id}/series", gone="instance")
        return self._rest.expect(
            lambda: Parent(series["ParentStudy"], series["ID"], tuple(map(str, series["Instances"]))), "a series"
        )

    # -- the server

    def system(self) -> dict[str, Any]:
        """What Orthanc says of itself."""
        system = self._rest.json("/system")
        return self._rest.expect(lambda: {"Version": system["Version"], **system}, "its version")

    def changes(self, since: int, *, limit: int = 1000, mark: str = "") -> Changes:
        """What changed after `since`, in order.

        `mark` is the mark of the entry at `since`, as it was when it was read. Where the numbering ends before `since`,
        or another entry stands there now, this is another database (or an older copy of it): `same_database` is False.
        Where the entry is gone, with its study or by `DELETE /changes`, nothing speaks against it.
        """
        position = since - 1 if mark else since
        page = self._rest.json(f"/changes?since={position}&limit={limit + 1 if mark else limit}")

        def read() -> Changes:
            entries = tuple(
                Change(int(e["Seq"]), str(e["ChangeType"]), str(e["ID"]), str(e.get("Date", "")))
                for e in page["Changes"]
            )
            marked = [entry.mark for entry in entries if entry.seq == since]
            newer, last = tuple(entry for entry in entries if entry.seq > since), int(page["Last"])
            return Changes(
                entries=newer,
                last=last,
                done=bool(page["Done"]),
                same_database=last >= since and (not mark or marked in ([], [mark])),
                gap=not marked and (newer[0].seq if newer else last + 1) > since + 1,
            )

        return self._rest.expect(read, "changes")

    def last_change(self) -> int:
        """Number of the newest change, 0 if there is none."""
        newest = self._rest.json("/changes?last")
        return self._rest.expect(lambda: int(newest["Last"]), "the last change")

    def first_change(self) -> int:
        """Number of the oldest change there is, 0 if there is none."""
        oldest = self._rest.json("/changes?since=0&limit=1")
        return self._rest.expect(lambda: next((int(entry["Seq"]) for entry in oldest["Changes"]), 0), "changes")

    def reset(self) -> None:
        """Have it begin anew, in the same process and with all it holds: it reads its configuration again.

        It goes on answering for a moment, and is then away for some seconds.
        """
        self._rest.post("/tools/reset")

    def _file(self, instance_id: str) -> AbstractContextManager[Body]:
        _check_id(instance_id)
        return self._rest.file(f"/instances/{instance_id}/file", gone="instance")


def _status(study: Any) -> StudyStatus:
    """Of a study as Orthanc describes it; raises ValueError or KeyError where it is none."""
    if not is_orthanc_id(study["ID"]):
        raise ValueError("no identifier of Orthanc's")
    # What older versions do not say of themselves, the ledger's column could not hold.
    return StudyStatus(study["ID"], str(study.get("LastUpdate", ""))[:32], bool(study["IsStable"]))


def _series_and_place(instance: Any) -> tuple[str, tuple[int, float, str, str]]:
    """The series' id, and what its instances are ordered by; the last part is the instance's id."""
    tags = instance["MainDicomTags"]
    key = sort_key(tags.get("InstanceNumber"), tags.get("SOPInstanceUID", ""))
    return str(instance["ParentSeries"]), (*key, str(instance["ID"]))


def _id_and_file(instance: Any) -> tuple[str, StoredFile]:
    return str(instance["ID"]), StoredFile(str(instance.get("FileUuid", "")), int(instance.get("FileSize", 0)))


def _check_id(text: str) -> None:
    if not is_orthanc_id(text):
        raise StudyGoneError("Orthanc cannot hold that: it is no identifier of Orthanc's")

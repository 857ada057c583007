"""A study's files on this host: fetched from Orthanc once, and exactly what the plan pinned.

    DATA/dicom/<studyId>/<seriesId>/<instanceId>.dcm    read-only; what jobs see
    DATA/dicom/.copies/<studyId>.lock                   held by the one process of the host that works on the copy
    DATA/dicom/.copies/<studyId>.json                   what the copy holds, and the plan it was last compared for
    DATA/dicom/.copies/<studyId>.part/                  downloads under way, renamed into place when they are whole

`worker.copies` has what makes room for a study, and keeps the copies that are used.

One folder serves all plans of a study: only one of them runs at a time (its successor waits for what runs), and before
a job starts, whatever its plan did not pin goes out of the folder that the job sees. So `headers["dcmpath"]` and
`dicom_dir` are the same place, and it holds nothing else.

Orthanc's identifiers are made from UIDs: a study that was deleted, corrected and sent again has the same ones. The
first fetch for a plan therefore asks Orthanc which files it has now (one call), and drops copies of others.
"""

import errno
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from dcm_processor.compact_json import dumps, loads
from dcm_processor.errors import OrthancAwayError, OrthancUnavailableError, PermanentError, StudyGoneError
from dcm_processor.orthanc import Orthanc, StoredFile, is_orthanc_id
from dcm_processor.settings import Settings
from dcm_processor.transport import Order, PlanOrder
from worker.copies import NO_LIMITS, Copies, Limits, Unfinished, full_disk, locked

CONNECTIONS = 4
"""Files that one fetch downloads at a time."""


def provide(settings: Settings, order: Order, plan: PlanOrder, unfinished: Unfinished = frozenset) -> Path:
    """`dicom_dir` of an attempt, which keeps it by `copies.using`.

    Raises what `fetch` raises, OrthancAwayError where Orthanc does not even say who it is.
    """
    limits = Limits(settings.DATA_BUDGET, settings.MIN_FREE)
    with Orthanc.of(settings, connections=CONNECTIONS) as orthanc:
        try:
            return fetch(orthanc, settings.data, plan, order.seriesId, limits=limits, unfinished=unfinished)
        except OrthancUnavailableError as error:
            try:
                orthanc.system()
            except OrthancUnavailableError:
                raise OrthancAwayError(str(error)) from error
            raise


def fetch(
    orthanc: Orthanc,
    data: Path,
    plan: PlanOrder,
    series_id: str | None = None,
    *,
    connections: int = CONNECTIONS,
    limits: Limits = NO_LIMITS,
    unfinished: Unfinished = frozenset,
) -> Path:
    """Have the plan's instances on this host, or those of one series; returns their folder.

    Copies of other studies go where there is too little room within `limits`, as `worker.copies` chooses; who does not
    say which plans are unfinished keeps all that have one. Waits while another process of this host fetches the same
    study. Files that are there already are kept; a fetch that was killed leaves nothing that looks whole.

    Raises StudyGoneError where Orthanc no longer holds what the plan pinned, OrthancUnavailableError, DataFullError,
    PermanentError where the plan names what cannot be in Orthanc, and OSError for what else a disk may do.
    """
    _check_names(plan, series_id)
    wanted = plan.instances if series_id is None else {series_id: plan.instances[series_id]}
    dicom = data / "dicom"
    copy = _Copy(dicom / plan.studyId, dicom / ".copies" / plan.studyId)
    copies = Copies(data, limits, unfinished)
    with full_disk(data):
        (dicom / ".copies").mkdir(parents=True, exist_ok=True)
        with locked(copy.lock):
            copy.remove_all_but(wanted, whole_study=series_id is None)
            copy.compare(orthanc, plan)
            missing = copy.missing(wanted)
            coming = sum(file.stored.size for file in missing)
            with copies.room(plan.studyId, plan.planId, coming, changed=copy.changed):
                copy.download(orthanc, missing, connections)
    return copy.folder if series_id is None else copy.folder / series_id


@dataclass(frozen=True)
class _Record:
    """What the copy was when it was last compared with Orthanc."""

    plan_id: str
    files: Mapping[str, StoredFile]  # instance id -> the file that its copy is, or is going to be

    @classmethod
    def load(cls, path: Path) -> "_Record":
        """An empty one where there is none that can be read."""
        try:
            found = loads(path.read_bytes())
            return cls(
                str(found["planId"]), {i: StoredFile(uuid, int(size)) for i, (uuid, size) in found["files"].items()}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls("", {})

    def save(self, path: Path) -> None:
        new = path.with_suffix(".json.new")
        try:
            new.write_text(dumps({"planId": self.plan_id, "files": self.files}), encoding="utf-8")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Missing:
    """A file to be fetched."""

    instance_id: str
    path: Path  # where it goes
    stored: StoredFile


class _Copy:
    """The copy of one study on this host."""

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder = folder
        self.lock = beside.with_name(beside.name + ".lock")
        self.changed = False  # something was deleted
        self._record_file = beside.with_name(beside.name + ".json")
        self._part = beside.with_name(beside.name + ".part")
        self._record = _Record("", {})

    def remove_all_but(self, wanted: Mapping[str, Sequence[str]], *, whole_study: bool) -> None:
        """Leave nothing else in the wanted series' folders, nor, for the whole study, beside them."""
        _make_folder(self.folder)
        if whole_study:
            self.changed |= _remove_others(self.folder, set(wanted))
        for series, instances in wanted.items():
            _make_folder(self.folder / series)
            names = {self._path(series, instance).name for instance in instances}
            self.changed |= _remove_others(self.folder / series, names)

    def compare(self, orthanc: Orthanc, plan: PlanOrder) -> None:
        """Once a plan: drop copies of files that Orthanc does not have any more, and note what it has."""
        shutil.rmtree(self._part, ignore_errors=True)  # of a fetch that was killed
        self._record = _Record.load(self._record_file)
        if self._record.plan_id == plan.planId or not any(plan.instances.values()):
            return
        stored = orthanc.files(plan.studyId)
        pinned = {instance: series for series, instances in plan.instances.items() for instance in instances}
        for instance, series in pinned.items():
            if instance not in stored or self._record.files.get(instance) != stored[instance]:
                with suppress(FileNotFoundError, NotADirectoryError):
                    self._path(series, instance).unlink()
                    self.changed = True
        self._record = _Record(plan.planId, {instance: stored[instance] for instance in pinned if instance in stored})
        self._record.save(self._record_file)

    def missing(self, wanted: Mapping[str, Sequence[str]]) -> list[_Missing]:
        """What is not here, or not whole, as after a power failure.

        Raises StudyGoneError where Orthanc did not have it either.
        """
        names = [(series, instance) for series, instances in wanted.items() for instance in instances]
        if gone := sum(instance not in self._record.files for _, instance in names):
            raise StudyGoneError(
                f"Orthanc does not hold {gone} of the {len(names)} instances that the job needs (any more)"
            )
        files = [
            _Missing(instance, self._path(series, instance), self._record.files[instance]) for series, instance in names
        ]
        return [file for file in files if not _is_whole(file.path, file.stored)]

    def download(self, orthanc: Orthanc, missing: Sequence[_Missing], connections: int) -> None:
        """Fetch them, several at a time; the first failure ends the others."""
        if not missing:
            return
        self._part.mkdir()
        stop = threading.Event()
        pool = ThreadPoolExecutor(min(connections, len(missing)), thread_name_prefix="fetch")
        try:
            futures = [pool.submit(self._download_one, orthanc, file, stop) for file in missing]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            shutil.rmtree(self._part, ignore_errors=True)

    def _download_one(self, orthanc: Orthanc, missing: _Missing, stop: threading.Event) -> None:
        part = self._part / missing.instance_id
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            size = orthanc.download(missing.instance_id, cast("BinaryIO", _Stoppable(file, stop)))
        if missing.stored.size not in (0, size):
            self._record_file.unlink(missing_ok=True)  # it was stored anew just now: the next fetch compares again
            raise OrthancUnavailableError(f"Orthanc sent {size} bytes of a file of {missing.stored.size}")
        part.rename(missing.path)

    def _path(self, series_id: str, instance_id: str) -> Path:
        return self.folder / series_id / f"{instance_id}.dcm"


class _Stoppable:
    """A file that takes nothing more once the fetch is over."""

    def __init__(self, file: FileIO, stop: threading.Event) -> None:
        self._file = file
        self._stop = stop

    def write(self, chunk: bytes) -> None:
        if self._stop.is_set():
            raise OSError(errno.ECANCELED, "the fetch is over")
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]


def _is_whole(path: Path, stored: StoredFile) -> bool:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    return size == stored.size or (stored.size == 0 and size > 0)


def _make_folder(path: Path) -> None:
    """A real folder, whatever a job has put there."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        path.unlink()
    path.mkdir(exist_ok=True)


def _remove_others(folder: Path, names: set[str]) -> bool:
    """Whether there were others."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in names or entry.name.endswith(".dcm"):
                    shutil.rmtree(entry.path)
                    found = True
            elif entry.name not in names or not entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
                found = True
    return found


def _check_names(plan: PlanOrder, series_id: str | None) -> None:
    """What becomes part of a path came through Redis."""
    names = chain([plan.studyId], plan.instances, *plan.instances.values())
    if not all(map(is_orthanc_id, names)):
        raise PermanentError("the plan names a study, series or instance that cannot be one of Orthanc's")
    if series_id is not None and series_id not in plan.instances:
        raise PermanentError("the plan pins no instance of the series that the job is about")

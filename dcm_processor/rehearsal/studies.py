"""The studies in a folder of DICOM, as Orthanc would hold them: its identifiers, its order, and the same headers."""

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileDataset

from dcm_processor import identity
from dcm_processor.dicomfiles import DicomFile, Reader, Refusal, find_dicom
from dcm_processor.elements import read_dataset, text_of
from dcm_processor.errors import PermanentError
from dcm_processor.headers import SeriesSource, build_headers
from dcm_processor.json_values import sort_key

_NAMES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True)
class Series:
    """A series: Orthanc's name, its first instance, and instance id -> file, in Orthanc's order."""

    series_id: str
    first: Dataset
    instances: Mapping[str, DicomFile]


@dataclass(frozen=True)
class Study:
    """A study, by Orthanc's names."""

    patient_id: str
    study_id: str
    series: tuple[Series, ...]

    @property
    def plan_id(self) -> str:
        """As the first plan of just these instances is called on the platform."""
        instances = (instance for series in self.series for instance in series.instances)
        return identity.plan_id(self.study_id, identity.revision(instances), 1)

    @property
    def number_of_instances(self) -> int:
        return sum(len(series.instances) for series in self.series)

    def headers(self, selected: Sequence[str]) -> dict[str, Any]:
        """The study's `headers`, by the same rules as those of a study in Orthanc."""
        sources = [SeriesSource(each.series_id, len(each.instances), each.first) for each in self.series]
        return build_headers(self.patient_id, self.study_id, sources, selected)


@dataclass(frozen=True)
class Studies:
    """What a folder holds; `rejected` is DICOM, or claims to be, and cannot be used."""

    found: tuple[Study, ...]
    rejected: tuple[Refusal, ...]


def studies_in(paths: Iterable[Path], on_file: Callable[[], None] = lambda: None) -> Studies:
    """Look through files, folders and zip archives.

    Of two files of one instance the first counts, as in Orthanc. Raises UsageError where a path does not exist,
    PermanentError where there is no DICOM instance.
    """
    looked_at = find_dicom(paths, on_file)
    rejected = list(looked_at.rejected)
    series: dict[tuple[str, str, str], dict[str, tuple[tuple[Any, ...], DicomFile]]] = {}
    firsts: dict[tuple[str, str, str], tuple[tuple[Any, ...], Dataset]] = {}
    with Reader() as reader:
        for file in looked_at.files:
            try:
                dataset = _dataset(file, reader)
            except PermanentError as error:
                rejected.append(Refusal(file.name, str(error)))
                continue
            patient, study, of_series, instance = (text_of(dataset, name) for name in _NAMES)
            if not (study and of_series and instance):
                rejected.append(Refusal(file.name, "damaged: a UID of its study, series or instance is missing"))
                continue
            key = (patient, study, of_series)
            instance_id = identity.orthanc_id(*key, instance)
            place = (*sort_key(text_of(dataset, "InstanceNumber"), instance), instance_id)
            if instance_id in series.setdefault(key, {}):
                continue
            series[key][instance_id] = (place, file)
            if key not in firsts or place < firsts[key][0]:
                firsts[key] = (place, dataset)
    studies: dict[tuple[str, str], list[Series]] = {}
    for key, instances in series.items():
        ordered = {instance: file for instance, (_, file) in sorted(instances.items(), key=lambda each: each[1][0])}
        studies.setdefault(key[:2], []).append(Series(identity.orthanc_id(*key), firsts[key][1], ordered))
    if not studies:
        why = f"; {rejected[0].name}: {rejected[0].reason}" if rejected else ""
        raise PermanentError(f"there is no DICOM instance in what you named{why}")
    found = (
        Study(identity.orthanc_id(patient), identity.orthanc_id(patient, study), tuple(each))
        for (patient, study), each in studies.items()
    )
    return Studies(tuple(found), tuple(rejected))


def lay_out(study: Study, data: Path) -> Path:
    """Copy the files to where a worker has them, read-only: `data`/dicom/<studyId>/<seriesId>/<instanceId>.dcm.

    Raises PermanentError for a file that cannot be read, OSError where `data` cannot be written.
    """
    top = data / "dicom" / study.study_id
    with Reader() as reader:
        for series in study.series:
            folder = top / series.series_id
            folder.mkdir(parents=True)
            for instance, file in series.instances.items():
                target = folder / f"{instance}.dcm"
                if file.is_sendable_as_is:
                    shutil.copyfile(file.path, target)
                else:
                    _write(reader.read(file), target)
                target.chmod(0o444)
            folder.chmod(0o555)
    top.chmod(0o555)
    return top


def _dataset(file: DicomFile, reader: Reader) -> Dataset:
    """The elements up to the pixel data, as `Orthanc.dataset` has them."""
    try:
        if file.is_sendable_as_is:
            with file.path.open("rb") as opened:
                return read_dataset(opened)
        whole = BytesIO()
        _write(reader.read(file), whole)
        return read_dataset(BytesIO(whole.getvalue()))
    except OSError as error:
        raise PermanentError(f"cannot be read: {error.strerror or type(error).__name__}") from None


def _write(dataset: FileDataset, target: Path | BytesIO) -> None:
    """Write it as PS3.10 wants it. Raises PermanentError for what no file can hold, OSError where the disk fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of elements
            dataset.save_as(target, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever the broken content led to
        raise PermanentError(f"damaged: cannot be written as DICOM ({type(error).__name__})") from None

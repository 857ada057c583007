"""DICOM files for tests, made by pydicom; small, valid enough for Orthanc, with made-up people."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

_SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}


@dataclass(frozen=True)
class StudyFiles:
    """A study on disk."""

    patient_id: str
    study_instance_uid: str
    files: tuple[Path, ...]

    @property
    def study_id(self) -> str:
        """Orthanc's identifier of the study."""
        return orthanc_study_id(self.patient_id, self.study_instance_uid)


def make_study(
    directory: Path, series: Sequence[Mapping[str, Any]] = ({"Modality": "MR", "instances": 3},), **keywords: Any
) -> StudyFiles:
    """Write a study; each series is a mapping of DICOM keywords, and `instances`, the number of its files."""
    study_uid = str(keywords.pop("StudyInstanceUID", generate_uid()))
    study = {
        "PatientID": "TEST-1",
        "PatientName": "Test^Person",
        "PatientSex": "O",
        "StudyDate": "20260101",
        "StudyTime": "120000",
        "StudyDescription": "A study made by a test",
        "AccessionNumber": "A1",
        "StudyID": "1",
        **keywords,
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for number, given in enumerate(series, start=1):
        entry = {"SeriesNumber": number, "SeriesInstanceUID": generate_uid(), "Modality": "MR", **given}
        for instance in range(1, int(entry.pop("instances", 3)) + 1):
            path = directory / f"{number:03d}-{instance:04d}.dcm"
            _write(path, {**study, **entry, "StudyInstanceUID": study_uid, "InstanceNumber": instance})
            files.append(path)
    return StudyFiles(str(study["PatientID"]), study_uid, tuple(files))


def _write(path: Path, elements: Mapping[str, Any]) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = elements.get("SpecificCharacterSet", "ISO_IR 192")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID = _SOP_CLASSES.get(str(elements.get("Modality")), MRImageStorage)
    dataset.SOPInstanceUID = elements.get("SOPInstanceUID", generate_uid())
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes(128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def orthanc_study_id(patient_id: str, study_instance_uid: str) -> str:
    """Orthanc's identifier: SHA-1 of `PatientID|StudyInstanceUID` in five groups (Orthanc Book, "Identifiers")."""
    digest = hashlib.sha1(f"{patient_id}|{study_instance_uid}".encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[i : i + 8] for i in range(0, 40, 8))


def upload(url: str, auth: tuple[str, str], files: Iterable[Path]) -> None:
    """Store files over REST (as the user in `auth`)."""
    with requests.Session() as session:
        session.auth = auth
        for path in files:
            session.post(f"{url}/instances", data=path.read_bytes(), timeout=30).raise_for_status()

"""The studies that are sent: shapes and identifiers come from a seed, and with them everything that is expected."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
_ROOT = "1.2.826.0.1.3680043.8.498"  # pydicom's


@dataclass(frozen=True)
class Instance:
    """One instance; `instance_id` is Orthanc's identifier of it."""

    sop_instance_uid: str
    instance_id: str

    @property
    def pixels(self) -> bytes:
        """128 bytes that no other instance has; they end its file."""
        return hashlib.sha256(self.sop_instance_uid.encode()).digest() * 4


@dataclass(frozen=True)
class Series:
    """One series and its instances."""

    series_instance_uid: str
    series_id: str
    modality: str
    number: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Study:
    """One study. `pauses`: seconds before each of its instances; `senders`: how many send all of it at once."""

    number: int
    patient_id: str
    study_instance_uid: str
    series: tuple[Series, ...]
    pauses: tuple[float, ...]
    senders: int

    @cached_property
    def study_id(self) -> str:
        return _orthanc_id(self.patient_id, self.study_instance_uid)

    @cached_property
    def instances(self) -> dict[str, Instance]:
        """Its instances by Orthanc's identifier."""
        return {each.instance_id: each for series in self.series for each in series.instances}

    def datasets(self) -> Iterator[tuple[str, Dataset]]:
        """Orthanc's identifier and the dataset of each instance, in order."""
        for series in self.series:
            for number, instance in enumerate(series.instances, start=1):
                yield instance.instance_id, _dataset(self, series, number, instance)


def draw(seed: int, count: int) -> list[Study]:
    """The studies of a seed."""
    return [_draw(random.Random(f"{seed}/study/{number}"), seed, number) for number in range(count)]


def _draw(chance: random.Random, seed: int, number: int) -> Study:
    patient, study_uid = f"FAULTS-{seed}-{number}", f"{_ROOT}.{seed}.{number + 1}"
    series = []
    for which in range(1, chance.choice((1, 1, 1, 2, 2, 3)) + 1):
        series_uid = f"{study_uid}.{which}"
        sops = [f"{series_uid}.{instance}" for instance in range(1, chance.randint(1, 6) + 1)]
        instances = tuple(Instance(sop, _orthanc_id(patient, study_uid, series_uid, sop)) for sop in sops)
        series_id = _orthanc_id(patient, study_uid, series_uid)
        series.append(Series(series_uid, series_id, chance.choice(("CT", "MR")), which, instances))
    total = sum(len(each.instances) for each in series)
    slowly = chance.random() < 0.15  # with more than StableAge in its middle: it grows
    pauses = [0.0] * total
    if slowly and total > 1:
        pauses[chance.randrange(1, total)] = chance.uniform(0.5, 4)
    return Study(number, patient, study_uid, tuple(series), tuple(pauses), 2 if chance.random() < 0.1 else 1)


def _orthanc_id(*parts: str) -> str:
    """Orthanc's identifier: SHA-1 of the parts, joined by `|`, in five groups (Orthanc Book, "Identifiers")."""
    digest = hashlib.sha1("|".join(parts).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[i : i + 8] for i in range(0, 40, 8))


def _dataset(study: Study, series: Series, number: int, instance: Instance) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = _CLASSES[series.modality], instance.sop_instance_uid
    dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
    dataset.AccessionNumber, dataset.StudyID = str(study.number), str(study.number)
    dataset.Modality = series.modality
    dataset.StudyDescription = f"study {study.number}"
    dataset.PatientName, dataset.PatientID = "Faults^Nobody", study.patient_id
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study.study_instance_uid, series.series_instance_uid
    dataset.SeriesNumber, dataset.InstanceNumber = series.number, number
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = instance.pixels
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = instance.sop_instance_uid
    return dataset

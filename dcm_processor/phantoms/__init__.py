"""The two sample studies of the demo: a chest by CT and a head by MR, drawn, not measured; nobody's data.

Both are valid instances of their IODs (PS3.3 A.3, A.4), their geometry is consistent, and the same seed gives the same
files, byte for byte.

Reading order: raster (how a slice is drawn), thorax, head, then this file (how slices become studies).
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from dcm_processor.identity import orthanc_id
from dcm_processor.phantoms import head, thorax
from dcm_processor.phantoms.raster import SCALE, Noise, Slice

SEED = "dcm-processor demo"
TINY_SEED = "dcm-processor tiny"
SLICES = 24
"""Instances of each series."""

_NAMESPACE = uuid.UUID("6d1f0c3e-55a0-5c7e-9a7e-2f6b8c0d4e11")
_RESCALE_INTERCEPT = -1024
_CT_NOISE_BITS, _MR_NOISE_BITS = 4, 6


@dataclass(frozen=True)
class SampleStudy:
    """A study on disk that a scanner could have made."""

    modality: str
    description: str
    patient_id: str
    study_instance_uid: str
    series: Mapping[str, str]  # SeriesInstanceUID -> SeriesDescription
    files: tuple[Path, ...]

    @property
    def study_id(self) -> str:
        """Orthanc's name for it."""
        return orthanc_id(self.patient_id, self.study_instance_uid)

    @property
    def series_names(self) -> dict[str, str]:
        """Orthanc's name for each series -> its description."""
        return {orthanc_id(self.patient_id, self.study_instance_uid, uid): name for uid, name in self.series.items()}


@dataclass(frozen=True)
class _Series:
    description: str
    brightness: Mapping[int, int]
    elements: Mapping[str, Any]


@dataclass(frozen=True)
class _Study:
    sop_class: UID
    draw: Callable[[float], Slice]
    heights: Sequence[float]  # z of each slice, mm
    thickness: float  # mm; slices touch
    noise_bits: int
    elements: Mapping[str, Any]
    series: Sequence[_Series]


def make_samples(directory: Path, seed: str = SEED) -> tuple[SampleStudy, ...]:
    """Write both sample studies below `directory`, one folder a series: 96 files, 13 MB; another seed, other UIDs.

    Raises OSError where the folder cannot be written.
    """
    return tuple(_write(study, directory, seed) for study in (_chest(), _head()))


def make_tiny(directory: Path) -> tuple[SampleStudy, ...]:
    """Write both with three slices a series: what a service is tried on in no time; 12 files, 1.6 MB.

    Raises OSError where the folder cannot be written.
    """
    tiny = (replace(study, heights=study.heights[SLICES // 2 - 1 : SLICES // 2 + 2]) for study in (_chest(), _head()))
    return tuple(_write(study, directory, TINY_SEED) for study in tiny)


def _chest() -> _Study:
    def stored(hu: Mapping[int, int]) -> dict[int, int]:
        mean = Noise.mean_of(_CT_NOISE_BITS)
        return {tissue: round((value - _RESCALE_INTERCEPT - mean) / SCALE) for tissue, value in hu.items()}

    return _Study(
        sop_class=CTImageStorage,
        draw=thorax.chest,
        heights=[-90 + 7.5 * number for number in range(SLICES)],
        thickness=7.5,
        noise_bits=_CT_NOISE_BITS,
        elements={
            "Modality": "CT",
            "StudyDescription": "Demo: chest",
            "PatientName": "Phantom^CT",
            "PatientID": "DEMO-CT",
            "StudyTime": "093000",
            "BodyPartExamined": "CHEST",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "KVP": "120",
            "XRayTubeCurrent": "200",
            "ExposureTime": "500",
            "GantryDetectorTilt": "0",
            "DataCollectionDiameter": "500",
            "ConvolutionKernel": "STANDARD",
            "RescaleIntercept": str(_RESCALE_INTERCEPT),
            "RescaleSlope": "1",
            "RescaleType": "HU",
            "WindowCenter": ["40", "-600"],
            "WindowWidth": ["400", "1500"],
            "WindowCenterWidthExplanation": ["SOFT TISSUE", "LUNG"],
        },
        series=(
            _Series("Chest native", stored(thorax.NATIVE), {}),
            _Series(
                "Chest arterial",
                stored(thorax.CONTRAST),
                {"ContrastBolusAgent": "Phantom agent", "ContrastBolusRoute": "IV"},
            ),
        ),
    )


def _head() -> _Study:
    return _Study(
        sop_class=MRImageStorage,
        draw=head.head,
        heights=[-52.5 + 5 * number for number in range(SLICES)],
        thickness=5,
        noise_bits=_MR_NOISE_BITS,
        elements={
            "Modality": "MR",
            "StudyDescription": "Demo: head",
            "PatientName": "Phantom^MR",
            "PatientID": "DEMO-MR",
            "StudyTime": "101500",
            "BodyPartExamined": "HEAD",
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": "",
            "MRAcquisitionType": "2D",
            "MagneticFieldStrength": "1.5",
            "ImagingFrequency": "63.87",
            "ImagedNucleus": "1H",
            "EchoNumbers": "1",
            "NumberOfAverages": "1",
            "EchoTrainLength": "1",
            "PixelBandwidth": "130",
            "FlipAngle": "90",
            "WindowCenter": "1700",
            "WindowWidth": "3400",
        },
        series=(
            _Series("Head T1", head.T1, {"RepetitionTime": "550", "EchoTime": "12"}),
            _Series("Head T2", head.T2, {"RepetitionTime": "4200", "EchoTime": "95"}),
        ),
    )


def _write(study: _Study, directory: Path, seed: str) -> SampleStudy:
    modality = study.elements["Modality"]

    def uid(*what: object) -> str:
        """A UID derived from a UUID (PS3.5 B.2), here from what it names."""
        return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, (seed, modality, *what)))).int}"

    pictures = [study.draw(z) for z in study.heights]
    noise = Noise(pictures[0].size, study.noise_bits, f"{seed}/{modality}")
    files = []
    for series_number, series in enumerate(study.series, 1):
        folder = directory / modality / series.description.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        dataset = _template(study, series, series_number, uid)
        for number, (z, picture) in enumerate(zip(study.heights, pictures, strict=True), 1):
            dataset.SOPInstanceUID = uid(series_number, number)
            dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
            dataset.InstanceNumber = dataset.AcquisitionNumber = str(number)
            edge = -(picture.size - 1) / 2 * picture.spacing
            dataset.ImagePositionPatient = [f"{edge:g}", f"{edge:g}", f"{z:g}"]
            dataset.SliceLocation = f"{z:g}"
            dataset.PixelData = picture.pixels(series.brightness, noise.piece())
            files.append(folder / f"IM{number:04}.dcm")
            dataset.save_as(files[-1], enforce_file_format=True)
    return SampleStudy(
        modality=modality,
        description=study.elements["StudyDescription"],
        patient_id=study.elements["PatientID"],
        study_instance_uid=uid(),
        series={uid(number): series.description for number, series in enumerate(study.series, 1)},
        files=tuple(files),
    )


def _template(study: _Study, series: _Series, number: int, uid: Callable[..., str]) -> FileDataset:
    """Everything the instances of a series share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = study.sop_class
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    picture = study.draw(study.heights[0])
    common = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": study.sop_class,
        "StudyInstanceUID": uid(),
        "SeriesInstanceUID": uid(number),
        "FrameOfReferenceUID": uid("frame of reference"),
        "PositionReferenceIndicator": "",
        "StudyDate": "20240102",
        "SeriesDate": "20240102",
        "SeriesTime": study.elements["StudyTime"],
        "ContentDate": "20240102",
        "ContentTime": study.elements["StudyTime"],
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyID": "DEMO",
        "SeriesNumber": str(number),
        "SeriesDescription": series.description,
        "ProtocolName": series.description,
        "Manufacturer": "dcm-processor",
        "ManufacturerModelName": "Phantom",
        "InstitutionName": "",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": "1",
        "PatientPosition": "HFS",
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "PixelSpacing": [f"{picture.spacing:g}"] * 2,
        "SliceThickness": f"{study.thickness:g}",
        "SpacingBetweenSlices": f"{study.thickness:g}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": picture.size,
        "Columns": picture.size,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
    }
    for keyword, value in (common | dict(study.elements) | dict(series.elements)).items():
        setattr(dataset, keyword, value)
    return dataset

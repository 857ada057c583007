"""DICOM that is odd, and right all the same or nearly: what headers have to be the same of, however they are made."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from tests.dicom import make_study

_LEFT_OUT = (
    "rtdose_rle.dcm",
    "rtdose_rle_1frame.dcm",
)  # their very UIDs are of VR UN: Orthanc 1.10 takes them for empty


def write_odd_dicom(folder: Path) -> list[Path]:
    """Files of our own and those that pydicom brings: missing, empty, multi-valued and private elements, character sets
    (ISO_IR 100, 192, ISO 2022 IR 87 …), several series, numbers that are none, an enhanced multi-frame image.
    """
    folder.mkdir(parents=True)
    _made(folder / "made")
    for path in _of_pydicom():
        shutil.copy(path, folder / path.name)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _of_pydicom() -> Iterator[Path]:
    data = Path(str(pydicom.__file__)).parent / "data"
    for name in ("charset_files", "test_files"):
        for path in sorted((data / name).glob("*.dcm")):
            if path.read_bytes()[128:132] == b"DICM" and path.name not in _LEFT_OUT:
                yield path  # bare datasets are nobody's to store as they are


def _made(folder: Path) -> None:
    make_study(
        folder / "latin",
        [{"Modality": "CT", "SeriesNumber": 2, "instances": 3}, {"Modality": "CT", "SeriesNumber": None}],
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller^Jörg",
        PatientID=" L-1 ",
        AccessionNumber="",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        SoftwareVersions=["a", "", "b"],
        KVP="",
    )
    make_study(
        folder / "unicode",
        [{"SeriesNumber": 10}, {"SeriesNumber": 9}, {"SeriesNumber": 9, "Modality": "OT", "EchoTime": "2.50"}],
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        PatientID="",
        StudyDescription="Ω ≤ 5 \\ µ",
    )
    make_study(
        folder / "kanji",
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        PatientID="K-1",
        SeriesDescription="頭部 単純",
    )
    study = make_study(folder / "frames", [{"instances": 1}], PatientID="F-1")
    dataset = pydicom.dcmread(study.files[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = 3
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_frame(number) for number in (1, 2, 3)])
    dataset.PixelData = bytes(3 * 128)
    dataset.private_block(0x0011, "A VENDOR", create=True).add_new(0x01, "LO", "private")
    dataset.save_as(study.files[0], enforce_file_format=True)
    study = make_study(folder / "order", [{"instances": 4}], PatientID="O-1")
    for path, number in zip(study.files, ("10", "9", None, "9"), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.EchoTime = str(len(path.name))
        dataset.save_as(path, enforce_file_format=True)


def _frame(number: int) -> Dataset:
    content, frame = Dataset(), Dataset()
    content.FrameAcquisitionNumber = number
    content.DimensionIndexValues = [1, number]
    frame.FrameContentSequence = Sequence([content])
    return frame

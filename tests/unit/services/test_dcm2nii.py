"""Which series dcm2nii converts, and how it runs dcm2niix (a stand-in here; the real one runs in tests/e2e)."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Services = Callable[[str], Any]


@pytest.mark.parametrize(
    ("headers", "applies"),
    [
        ({"Modality": "CT", "NumberOfInstances": 3}, True),
        ({"Modality": "MR", "NumberOfInstances": 300}, True),
        ({"Modality": "PT", "NumberOfInstances": 3}, True),
        ({"Modality": "MR", "NumberOfInstances": 2}, False),
        ({"Modality": "SR", "NumberOfInstances": 30}, False),
        ({"NumberOfInstances": 30}, False),
        ({"Modality": "", "NumberOfInstances": 30}, False),
        ({"Modality": "MR", "NumberOfInstances": 1, "NumberOfFrames": 40}, True),
        ({"Modality": "MR", "NumberOfInstances": 1, "NumberOfFrames": None}, False),
    ],
)
def test_volumes_of_ct_mr_and_pet_are_converted(service: Services, headers: dict[str, Any], applies: bool) -> None:
    assert service("dcm2nii").callback(headers) is applies


@pytest.fixture
def dcm2niix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a program that stands in for dcm2niix; returns the file that gets its arguments."""

    def make(script: str) -> Path:
        program, arguments = tmp_path / "program", tmp_path / "arguments"
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{arguments}\n{script}\n")
        program.chmod(0o755)
        module = ModuleType("dcm2niix")
        module.bin_path = program  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dcm2niix", module)
        return arguments

    return make


WRITES = 'eval out=\\${10}; touch "$out/1_T1.nii.gz" "$out/1_T1.json"'


def test_the_image_is_named_by_number_and_description(
    service: Services, dcm2niix: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = dcm2niix(WRITES)
    headers = {"SeriesNumber": 1, "SeriesDescription": "T1"}
    service("dcm2nii").worker(headers, dicom_dir="/dicom", output_dir=str(tmp_path))
    given = arguments.read_text().splitlines()
    assert given[given.index("-f") + 1] == "1_T1"
    assert given[-3:] == ["-o", str(tmp_path), "/dicom"]
    assert "1_T1.nii.gz" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("number", "description", "name"),
    [
        (3, "../../etc/passwd", "3_etc-passwd"),
        (3, "%n %i", "3_n-i"),
        (3, "; rm -rf /", "3_rm-rf"),
        ("-1", "", "1_series"),
        (None, "日本語", "0_series"),
        ("1\n2", ["a", "b"], "12_a-b"),
        (10**12, "x" * 300, "10000000_" + "x" * 40),
    ],
)
def test_no_header_can_choose_where_a_file_goes(
    service: Services, dcm2niix: Callable[[str], Path], tmp_path: Path, *, number: Any, description: Any, name: str
) -> None:
    arguments = dcm2niix(WRITES)
    headers = {"SeriesNumber": number, "SeriesDescription": description}
    service("dcm2nii").worker(headers, dicom_dir="/dicom", output_dir=str(tmp_path))
    given = arguments.read_text().splitlines()
    assert given[given.index("-f") + 1] == name


@pytest.mark.parametrize(
    ("script", "says"),
    [("exit 0", "made no image"), ("exit 2", "status 2"), (f"{WRITES}; exit 10", "status 10 and 1 images")],
)
def test_a_conversion_that_fails_or_makes_nothing_fails_the_job(
    service: Services, dcm2niix: Callable[[str], Path], tmp_path: Path, script: str, says: str
) -> None:
    dcm2niix(script)
    with pytest.raises(RuntimeError, match=says):
        service("dcm2nii").worker({}, dicom_dir="/dicom", output_dir=str(tmp_path))

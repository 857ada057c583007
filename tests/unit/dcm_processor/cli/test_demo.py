"""`dcm-processor demo --files`: the sample studies without anything that runs."""

import json
from pathlib import Path

import pydicom

from tests.unit.dcm_processor.cli.conftest import Cli


def test_the_sample_s_files_are_written_into_a_new_folder(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "sample"
    studies = json.loads(cli.done("demo", "--files", folder, "--json"))
    assert [study["Modality"] for study in studies] == ["CT", "MR"]
    files = [Path(file) for study in studies for file in study["files"]]
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    for study in studies:
        read = [pydicom.dcmread(file, stop_before_pixels=True) for file in study["files"]]
        assert {dataset.Modality for dataset in read} == {study["Modality"]}
        assert len({dataset.StudyInstanceUID for dataset in read}) == 1


def test_it_says_where_they_are(cli: Cli, tmp_path: Path) -> None:
    said = cli.done("demo", "--files", tmp_path / "sample")
    assert f"CT Demo: chest: 48 instances in {tmp_path / 'sample' / 'CT'}\n" in said


def test_a_folder_that_is_there_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    said = cli.refused("demo", "--files", tmp_path / "mine", status=2)
    assert "name a folder that is not there yet" in said
    assert list((tmp_path / "mine").iterdir()) == []

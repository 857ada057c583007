"""The template does what its comments say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.contract import AddedParams, interpret
from tests.dicom import make_study

Services = Callable[[str], Any]

HEADERS = {
    "studyId": "s",
    "seriesIds": ["a", "b"],
    "series": [
        {"seriesId": "a", "NumberOfInstances": 3, "Modality": "MR", "SeriesDescription": "T1"},
        {"seriesId": "b", "NumberOfInstances": 2, "Modality": "SR"},
    ],
}


@pytest.fixture
def dicom_dir(tmp_path: Path) -> Path:
    """A study's files as a worker has them: one folder a series."""
    for name, count in (("a", 3), ("b", 2)):
        make_study(tmp_path / "dicom" / name, [{"Modality": "MR", "instances": count}])
    return tmp_path / "dicom"


def test_without_modalities_it_applies_to_every_study_and_tells_later_jobs_what_it_saw(service: Services) -> None:
    assert interpret(service("temp").callback(HEADERS)) == (True, {"modalities": ["MR", "SR"], "numberOfInstances": 5})


@pytest.mark.parametrize(("modalities", "applies"), [(["CT"], False), (["CT", "MR"], True)])
def test_with_modalities_one_such_series_is_enough(service: Services, modalities: list[str], applies: bool) -> None:
    assert interpret(service("temp").callback(HEADERS, params={"modalities": modalities}))[0] is applies


def test_series_without_modality_do_not_trouble_it(service: Services) -> None:
    headers = {**HEADERS, "series": [{"seriesId": "a", "NumberOfInstances": 1}]}
    assert interpret(service("temp").callback(headers)) == (True, {"modalities": [], "numberOfInstances": 1})


def test_the_worker_writes_a_summary(service: Services, dicom_dir: Path, tmp_path: Path) -> None:
    temp = service("temp")
    added = AddedParams({"temp": temp.callback(HEADERS)[1]}, {"temp": "temp"})
    output = tmp_path / "output"
    output.mkdir()
    temp.worker(HEADERS, added_params=added, dicom_dir=str(dicom_dir), output_dir=str(output), inputs={}, attempt=1)
    assert sorted(path.name for path in output.iterdir()) == ["summary.json", "summary.txt"]
    summary = json.loads((output / "summary.json").read_text())
    assert [(each["modality"], each["files"]) for each in summary["series"]] == [("MR", 3), ("SR", 2)]
    assert summary["series"][0]["bytes"] > 0


def test_the_worker_fails_where_files_are_missing(service: Services, dicom_dir: Path, tmp_path: Path) -> None:
    next((dicom_dir / "a").iterdir()).unlink()
    added = AddedParams({"temp": {"modalities": [], "numberOfInstances": 5}}, {"temp": "temp"})
    with pytest.raises(RuntimeError, match="1 of 5 files"):
        service("temp").worker(
            HEADERS, added_params=added, dicom_dir=str(dicom_dir), output_dir=str(tmp_path), inputs={}
        )

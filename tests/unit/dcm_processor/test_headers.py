"""`headers` as DESIGN §2 describes them, from datasets."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_store
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dcm_processor.elements import read_dataset
from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS, PATIENT_AND_STUDY_KEYWORDS
from dcm_processor.headers import SeriesSource, build_headers

STUDY = "27f7126f-4f66fb14-03f4081b-f9341db2-53925988"
PATIENT = "d7169ad4-7117accb-99f76bfa-735990a2-930f1403"


def series(series_id: str, instances: int = 1, **keywords: Any) -> SeriesSource:
    dataset = Dataset()
    for keyword, value in keywords.items():
        setattr(dataset, keyword, value)
    return SeriesSource(series_id, instances, dataset)


def build(*sources: SeriesSource, selected: tuple[str, ...] = ("*",)) -> dict[str, Any]:
    headers = build_headers(PATIENT, STUDY, sources, selected)
    assert json.loads(json.dumps(headers, allow_nan=False)) == headers
    return headers


def test_the_shape_of_the_design() -> None:
    """Identifiers and folders, patient and study at the top, a dict a series with its first instance's elements."""
    study = {"StudyInstanceUID": "1.2", "PatientID": "P", "StudyDate": "20260101"}
    headers = build(
        series("aa", 35, **study, SeriesNumber=1, Modality="MR", SeriesDescription="T1"),
        series("bb", 20, **study, SeriesNumber=2, Modality="MR", SeriesDescription="T2"),
    )
    assert headers == {
        "patientId": PATIENT,
        "studyId": STUDY,
        "seriesIds": ["aa", "bb"],
        "dcmpath": f"dicom/{STUDY}",
        "StudyDate": "20260101",
        "PatientID": "P",
        "StudyInstanceUID": "1.2",
        "Modality": "MR",
        "series": [
            {
                "seriesId": "aa",
                "dcmpath": f"dicom/{STUDY}/aa",
                "NumberOfInstances": 35,
                "Modality": "MR",
                "SeriesDescription": "T1",
                "SeriesNumber": 1,
            },
            {
                "seriesId": "bb",
                "dcmpath": f"dicom/{STUDY}/bb",
                "NumberOfInstances": 20,
                "Modality": "MR",
                "SeriesDescription": "T2",
                "SeriesNumber": 2,
            },
        ],
    }


def test_only_what_all_series_agree_on_stands_at_the_top() -> None:
    """A pure CT study has a Modality; one with a report beside the images has none, nor what one series lacks."""
    pure = build(series("aa", Modality="CT", KVP=120), series("bb", Modality="CT", KVP=120.0))
    assert (pure["Modality"], pure["KVP"]) == ("CT", 120.0)
    mixed = build(series("aa", Modality="CT", KVP=120), series("bb", Modality="SR"))
    assert "Modality" not in mixed
    assert "KVP" not in mixed
    assert mixed["series"][0]["KVP"] == 120.0


def test_what_two_series_both_have_empty_they_agree_on() -> None:
    headers = build(series("aa", KVP=None), series("bb", KVP=None))
    assert headers["KVP"] is None


def test_a_study_element_comes_from_the_first_series_that_has_a_value() -> None:
    """A report without PatientWeight before the PET series that has it."""
    headers = build(
        series("aa", SeriesNumber=1, PatientWeight=None, PatientSex="", PatientAge="045Y"),
        series("bb", SeriesNumber=2, PatientWeight=70.5, PatientSex="F", PatientAge="046Y"),
        series("cc", SeriesNumber=3, PatientComments=""),
    )
    assert (headers["PatientWeight"], headers["PatientSex"], headers["PatientAge"]) == (70.5, "F", "045Y")
    assert headers["PatientComments"] == ""
    assert not any(keyword in entry for entry in headers["series"] for keyword in PATIENT_AND_STUDY_KEYWORDS)


def test_series_are_ordered_by_number_then_uid() -> None:
    """As numbers, not as text; series without a number come last."""
    headers = build(
        series("aa", SeriesInstanceUID="1.9"),
        series("bb", SeriesNumber=10, SeriesInstanceUID="1.2"),
        series("cc", SeriesNumber=9, SeriesInstanceUID="1.3"),
        series("dd", SeriesNumber=10, SeriesInstanceUID="1.1"),
        series("ee", SeriesInstanceUID="1.10"),
        selected=("Modality",),
    )
    assert headers["seriesIds"] == ["cc", "dd", "bb", "ee", "aa"]
    assert [entry["seriesId"] for entry in headers["series"]] == headers["seriesIds"]


@given(st.permutations(["aa", "bb", "cc", "dd"]))
def test_the_order_in_which_series_are_handed_over_does_not_matter(order: list[str]) -> None:
    sources = {
        name: series(name, SeriesNumber=number, Modality="MR") for number, name in enumerate(("aa", "bb", "cc", "dd"))
    }
    assert build(*(sources[name] for name in order)) == build(*sources.values())


def test_only_selected_elements_are_shown() -> None:
    headers = build(
        series("aa", PatientName="Doe^Jane", PatientID="P", Modality="MR", KVP=1), selected=("PatientID", "Modality")
    )
    assert set(headers) == {"patientId", "studyId", "seriesIds", "dcmpath", "PatientID", "Modality", "series"}
    assert set(headers["series"][0]) == {"seriesId", "dcmpath", "NumberOfInstances", "Modality"}


def test_no_series_at_all() -> None:
    """A study that holds nothing but our own results."""
    assert build() == {
        "patientId": PATIENT,
        "studyId": STUDY,
        "seriesIds": [],
        "dcmpath": f"dicom/{STUDY}",
        "series": [],
    }


def test_a_first_instance_that_nobody_could_read() -> None:
    assert build(series("aa", 3))["series"] == [
        {"seriesId": "aa", "dcmpath": f"dicom/{STUDY}/aa", "NumberOfInstances": 3}
    ]


def test_the_default_selection_are_keywords_of_dicom_each_once() -> None:
    assert [word for word in DEFAULT_HEADER_FIELDS if tag_for_keyword(word) is None] == []
    assert len(set(DEFAULT_HEADER_FIELDS)) == len(DEFAULT_HEADER_FIELDS)


def test_the_default_selection_has_what_the_design_names() -> None:
    named = {"StudyInstanceUID", "PatientID", "StudyDate", "Modality", "SeriesDescription"}
    assert named <= set(DEFAULT_HEADER_FIELDS)


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_a_study_of_all_real_files_is_json() -> None:
    """Each file of pydicom-data a series: nothing raises, and selecting all or the default gives the same values."""
    roots = (Path(pydicom.__file__).parent / "data", Path(next(iter(data_store.__path__))))
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    sources = [
        SeriesSource(f"{number:04d}", 1, read_dataset(io.BytesIO(path.read_bytes())))
        for number, path in enumerate(files)
    ]
    assert len(sources) > 100
    whole, default = build(*sources), build(*sources, selected=DEFAULT_HEADER_FIELDS)
    assert default["seriesIds"] == whole["seriesIds"]
    for some, everything in zip(default["series"], whole["series"], strict=True):
        assert some.items() <= everything.items()

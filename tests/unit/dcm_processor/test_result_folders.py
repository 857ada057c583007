"""Folder names from what came over DICOM: readable, and harmless whatever came."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor.result_folders import cleaned, folder_of

STUDY = "c5ea2cc5-00000000-00000000-00000000-00000000"
SERIES = "0f5b1b1c-00000000-00000000-00000000-00000000"


def result(**values: Any) -> dict[str, Any]:
    elements = {"PatientID": "ABC-001", "StudyDate": "20240131", "StudyDescription": "Thorax nativ", "Modality": "CT"}
    elements |= {"SeriesNumber": "2", "SeriesDescription": "Lunge 1.5 B60f", "jobName": "volume"}
    return {**elements, "studyId": STUDY, "seriesId": None, **values}


def test_names_are_readable() -> None:
    assert folder_of(result()) == ("ABC-001_20240131_Thorax_nativ_c5ea2cc5", "volume")
    of_series = ("ABC-001_20240131_Thorax_nativ_c5ea2cc5", "2_Lunge_1.5_B60f_0f5b1b1c", "volume")
    assert folder_of(result(seriesId=SERIES)) == of_series


def test_what_is_absent_is_left_out() -> None:
    nothing = dict.fromkeys(("PatientID", "StudyDate", "StudyDescription", "SeriesNumber", "SeriesDescription"))
    assert folder_of(result(**nothing, seriesId=SERIES)) == ("no-PatientID_c5ea2cc5", "CT_0f5b1b1c", "volume")
    assert folder_of(result(**nothing | {"Modality": None}, seriesId=SERIES))[1] == "0f5b1b1c"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc_passwd"), ("..", "_"), (".", "_"), ("/", "_"), ("a/b\\c:d", "a_b_c_d"), ("-rf", "rf"),
        (".hidden", "hidden"), ("a\0b\nc", "a_b_c"), ("CON", "CON_"), ("nul.txt", "nul.txt_"), ("com1", "com1_"),
        ("$(rm -rf ~)", "rm_-rf"), ("Müller^Anna", "Müller_Anna"), ("山田", "山田"), ("\u202egpj.exe", "gpj.exe"),
        ("u\u0308ber", "über"), ("trailing. ", "trailing"), ("x" * 100, "x" * 40), ('*?<>|"', "_"),
    ],
)  # fmt: skip
def test_hostile_texts_become_plain_names(text: str, name: str) -> None:
    assert cleaned(text, 40) == name


TEXT = st.one_of(st.none(), st.text(max_size=300), st.sampled_from(["..", "../x", "CON", "a" * 5000, "\u5c71" * 300]))


@given(st.lists(TEXT, min_size=5, max_size=5), st.text(min_size=1))
def test_every_name_is_one_folder_below_the_other(texts: list[Any], job: str) -> None:
    keys = ("PatientID", "StudyDate", "StudyDescription", "SeriesNumber", "SeriesDescription")
    names = folder_of(result(**dict(zip(keys, texts, strict=True)), jobName=job, seriesId=SERIES))
    assert len(names) == 3
    for name in names:
        assert name not in ("", ".", "..")
        assert not name.startswith((".", "-"))
        assert not name.endswith((".", " "))
        assert not set(name) & set('/\\\0\n:*?"<>|$`')
        assert len(os.fsencode(name)) <= 255 - 32  # with room for what stands there while it comes


@given(st.lists(st.text(max_size=20), min_size=3, max_size=3))
def test_studies_that_say_the_same_of_themselves_have_folders_of_their_own(texts: list[str]) -> None:
    same = dict(zip(("PatientID", "StudyDate", "StudyDescription"), texts, strict=True))
    assert folder_of(result(**same)) != folder_of(result(**same, studyId="d" * 8 + STUDY[8:]))

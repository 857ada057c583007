"""What a query means, by PS3.4 C.2.2.2."""

import fnmatch
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor.errors import UsageError
from dcm_processor.matching import Query, wild

HEADERS = {
    "PatientID": "ABC-001", "PatientName": "Müller^Anna=山田^太郎", "StudyDate": "20240131", "StudyTime": "101530.5",
    "StudyInstanceUID": "1.2.3", "PatientWeight": 71.5, "StudyDescription": "", "PatientSize": None,
    "StudyID": "5*", "AcquisitionDateTime": "20240131101530",
    "series": [
        {"seriesId": "a", "Modality": "MR", "SeriesDescription": "T1 mprage", "ImageType": ["ORIGINAL", "PRIMARY"]},
        {"seriesId": "b", "Modality": "PT", "SeriesDescription": "PET", "SeriesNumber": 7},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text", "holds"),
    [
        ("PatientID", "ABC-001", True), ("PatientID", "abc-001", False), ("PatientID", "ABC", False),
        ("PatientID", "ABC-*", True), ("PatientID", "*-00?", True), ("PatientID", "ABC-00??", False),
        ("PatientID", " ABC-001 ", True), ("PatientID", "", True), ("PatientID", "*", True),
        ("PatientID", "X\\ABC-001", True), ("0010,0020", "ABC-001", True), ("(0010,0020)", "X", False),
        ("PatientName", "müller^*", True), ("PatientName", "MÜLLER^ANNA", True), ("PatientName", "山田*", True),
        ("PatientName", "Müller", False), ("PatientName", "müller^anna^", False),
        ("StudyDate", "20240131", True), ("StudyDate", "2024-01-31", True), ("StudyDate", "20240130", False),
        ("StudyDate", "20240101-20240131", True), ("StudyDate", "20240201-", False), ("StudyDate", "-20240131", True),
        ("StudyDate", "2024-01-01-2024-02-01", True), ("StudyDate", "20240101-", True),
        ("StudyDate", "-20231231", False), ("StudyTime", "10", True), ("StudyTime", "1015", True),
        ("StudyTime", "10:16", False),
        ("StudyTime", "09-10", True), ("StudyTime", "1015-", True), ("StudyTime", "-1015", True),
        ("StudyTime", "1016-", False), ("StudyTime", "101530.5", True), ("StudyTime", "101530.6-", False),
        ("AcquisitionDateTime", "2024", True), ("AcquisitionDateTime", "202402-", False),
        ("StudyInstanceUID", "1.2.3", True), ("StudyInstanceUID", "1.2\\1.2.3", True),
        ("StudyInstanceUID", "1.2.*", False), ("PatientWeight", "71.50", True), ("PatientWeight", "71", False),
        ("StudyDescription", "*a*", False), ("StudyDescription", "*", True), ("PatientSize", "1", False),
        ("AccessionNumber", "1", False), ("AccessionNumber", "", True),
        ("Modality", "MR", True), ("Modality", "CT", False), ("Modality", "CT\\PT", True),
        ("ModalitiesInStudy", "PT", True), ("ModalitiesInStudy", "CT", False),
        ("ImageType", "PRIMARY", True), ("SeriesNumber", "7", True),
    ],
)  # fmt: skip
def test_a_term_holds_or_does_not(key: str, text: str, holds: bool) -> None:
    assert Query.parse({key: text}).matches(HEADERS) is holds


@pytest.mark.parametrize(
    ("terms", "study", "a", "b"),
    [
        ({}, True, True, True),
        ({"Modality": "MR"}, True, True, False),
        ({"Modality": "MR", "SeriesDescription": "PET"}, False, False, False),
        ({"Modality": "PT", "SeriesDescription": "PET"}, True, False, True),
        ({"ModalitiesInStudy": "PT", "Modality": "MR"}, True, True, False),
        ({"PatientID": "ABC*", "SeriesNumber": "7"}, True, False, True),
    ],
)
def test_what_is_asked_of_series_one_series_must_have(terms: dict[str, str], study: bool, a: bool, b: bool) -> None:
    query = Query.parse(terms)
    assert (query.matches(HEADERS), query.matches(HEADERS, "a"), query.matches(HEADERS, "b")) == (study, a, b)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("PatientId", "x", "no keyword"), ("", "x", "no keyword"), ("0010,9999", "x", "no tag"),
        ("StudyDate", "2024", "20240131"), ("StudyDate", "-", "StudyDate"), ("StudyDate", "x", "StudyDate"),
        ("StudyDate", "20240101*", "StudyDate"), ("StudyTime", "1", "101530"), ("SeriesNumber", "a", "number"),
        ("ReferencedStudySequence", "x", "sequence"), ("AcquisitionDateTime", "2024+0100", "2024"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_by_its_name(key: str, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Query.parse({key: text})


@given(st.text("ab?*", max_size=12), st.text("ab", max_size=20))
def test_wild_cards_are_those_of_file_names(pattern: str, text: str) -> None:
    assert wild(pattern, text) == fnmatch.fnmatchcase(text, pattern)


def test_many_stars_take_no_time() -> None:
    assert not wild("*a" * 2_000 + "b", "a" * 10_000)


VALUES = st.one_of(st.none(), st.text(max_size=10), st.integers(), st.floats(allow_nan=False), st.lists(st.text()))


@given(
    st.dictionaries(st.sampled_from(["PatientID", "StudyDate", "StudyTime", "PatientName", "PatientWeight"]), VALUES),
    st.dictionaries(st.sampled_from(["PatientID", "PatientName", "StudyID"]), st.text(max_size=10)),
)
def test_any_headers_are_answered_and_more_terms_never_match_more(
    headers: dict[str, Any], terms: dict[str, str]
) -> None:
    everything = Query.parse(terms)
    if everything.matches(headers):
        assert all(Query.parse({key: text}).matches(headers) for key, text in terms.items())


@given(st.dates(), st.dates(), st.dates())
def test_a_range_holds_its_ends_and_what_lies_between(first: Any, last: Any, day: Any) -> None:
    low, high, value = (each.strftime("%Y%m%d").zfill(8) for each in (first, last, day))
    assert Query.parse({"StudyDate": f"{low}-{high}"}).matches({"StudyDate": value}) is (first <= day <= last)

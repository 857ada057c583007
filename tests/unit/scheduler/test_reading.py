"""What a callback reads is recorded by keyword and place, never with a value; callbacks notice nothing of it."""

import json
from typing import Any

import pytest

from dcm_processor.plan import CallbackOutcome, HeaderRead, ReadFound, ReadPlace
from scheduler.reading import MOST, Record, RecordedHeaders, Seen, told
from tests.unit.scheduler.test_callbacks import HEADERS, SELECTED, SERIES, Services, services, study  # noqa: F401

TOP, IN_SERIES = ReadPlace.TOP, ReadPlace.SERIES


def recorded(values: dict[str, Any] = HEADERS) -> tuple[RecordedHeaders, Record]:
    record = Record()
    return RecordedHeaders(json.loads(json.dumps(values)), SELECTED, lambda _: None, record), record


def test_looks_of_every_kind_are_seen_once() -> None:
    headers, record = recorded()
    assert headers["PatientName"] == headers.get("PatientName") == "DOE^JOHN"
    assert "Modality" not in headers
    assert headers.get("KVP", 7) == 7
    with pytest.raises(KeyError, match="StudyDate"):
        headers["StudyDate"]
    assert [entry.get("Modality") for entry in headers["series"]] == ["MR", "SR"]
    assert list(record.seen) == [
        ("PatientName", TOP, True),
        ("Modality", TOP, False),
        ("KVP", TOP, False),
        ("StudyDate", TOP, False),
        ("series", TOP, True),
        ("Modality", IN_SERIES, True),
    ]


@pytest.mark.parametrize("go_through", [list, dict, lambda h: {**h}, lambda h: h.items(), lambda h: h.values()])
def test_going_through_all_is_seen(go_through: Any) -> None:
    headers, record = recorded()
    assert len(go_through(headers)) == len(HEADERS)
    assert ("*", TOP, True) in record.seen


def test_a_callback_that_reads_without_end_fills_nothing() -> None:
    headers, record = recorded()
    for number in range(10 * MOST):
        headers.get("x" * 1000 + str(number))
        headers.get(str(number) + "x" * 1000)
    assert len(record.seen) == MOST
    assert max(len(seen.keyword) for seen in record.seen) <= 64


def found(keyword: str, place: ReadPlace, selected: tuple[str, ...] = SELECTED) -> ReadFound:
    (read,) = told([Seen(keyword, place, False)], HEADERS, selected)
    return read.found


def test_not_selected_is_told_from_absent_and_from_what_series_do_not_agree_on() -> None:
    assert found("SeriesDescription", TOP) is ReadFound.ABSENT
    assert found("KVP", TOP) is found("KVP", IN_SERIES) is ReadFound.NOT_SELECTED
    assert found("KVP", TOP, ("*",)) is ReadFound.ABSENT
    assert found("Modality", TOP) is ReadFound.DIFFERS
    assert found("Modality", IN_SERIES) is ReadFound.ABSENT
    assert found("Modalty", TOP) is ReadFound.UNKNOWN
    assert found("seriesId", TOP) is ReadFound.ABSENT


def test_what_one_series_has_is_there() -> None:
    seen = [Seen("Modality", IN_SERIES, False), Seen("Modality", IN_SERIES, True)]
    assert told(seen, HEADERS, SELECTED) == (HeaderRead("Modality", IN_SERIES, ReadFound.PRESENT),)


CALLBACK = """
def callback(headers, **kwargs):
    modalities = {entry["Modality"] for entry in headers["series"]}
    return headers.get("KVP") is None and headers["PatientName"] != "" and modalities == {"MR", "SR"}
"""


def ask(services: Services, *, recording: bool) -> dict[str, CallbackOutcome]:  # noqa: F811
    outcomes = services.ask(recording=recording)
    return {key.job_name: outcome for key, outcome in outcomes.items()}


@pytest.mark.parametrize("before", ["", "import os\n"], ids=["pure", "of its own process"])
def test_outcomes_are_the_same_recorded_or_not(services: Services, before: str) -> None:  # noqa: F811
    services.add("looks", before + CALLBACK)
    plain, watched = ask(services, recording=False)["looks"], ask(services, recording=True)["looks"]
    assert (plain.applies, plain.error, plain.reads) == (True, None, None)
    assert (watched.applies, watched.error, watched.output) == (True, None, plain.output)
    assert watched.reads == (
        HeaderRead("series", TOP, ReadFound.PRESENT),
        HeaderRead("Modality", IN_SERIES, ReadFound.PRESENT),
        HeaderRead("KVP", TOP, ReadFound.NOT_SELECTED),
        HeaderRead("PatientName", TOP, ReadFound.PRESENT),
    )
    assert "DOE" not in repr(watched)


def test_what_a_callback_read_before_it_raised_is_there_too(services: Services) -> None:  # noqa: F811
    services.add("bad", "def callback(headers, **kwargs):\n    return headers['StudyDate']\n")
    outcome = ask(services, recording=True)["bad"]
    assert outcome.error is not None
    assert outcome.reads == (HeaderRead("StudyDate", TOP, ReadFound.NOT_SELECTED),)


def test_a_series_job_looks_at_its_series(services: Services) -> None:  # noqa: F811
    services.add(
        "each", "def callback(headers, **kwargs):\n    return headers['Modality']=='MR'\n", {"level": "series"}
    )
    outcomes = services.ask(recording=True)
    assert {key.series_id: outcome.applies for key, outcome in outcomes.items()} == {SERIES[0]: True, SERIES[1]: False}
    assert {outcome.reads for outcome in outcomes.values()} == {(HeaderRead("Modality", TOP, ReadFound.PRESENT),)}


def test_a_ward_that_says_nonsense_of_reads_spoils_its_own_job_alone(services: Services) -> None:  # noqa: F811
    source = """
import sys
def callback(headers, **kwargs):
    frame = sys._getframe()
    while "record" not in frame.f_locals:
        frame = frame.f_back
    frame.f_locals["record"].seen[("KVP", "nowhere", 1)] = None
    return True
"""
    services.add("evil", source)
    services.add("good", CALLBACK)
    outcomes = ask(services, recording=True)
    assert outcomes["evil"].error is not None
    assert outcomes["good"].applies

"""What a job noted is believed line by line, as far as it can be true."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor.job_helper.dcm_processor_job import MAX_RESULTS
from dcm_processor.notes import NamedResult, Progress, believed, progress_of, results_of

GOOD = {"name": "volume", "value": 3.5, "unit": "ml"}


def test_the_last_of_a_name_counts_at_the_place_of_the_first() -> None:
    lines = [GOOD, {"name": "side", "value": "L"}, {**GOOD, "value": 4}]
    found, left_out = results_of(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    assert found == (NamedResult("volume", 4, "ml"), NamedResult("side", "L"))
    assert left_out == 0


def test_a_line_that_is_not_whole_counts_for_nothing() -> None:
    assert results_of(json.dumps(GOOD).encode()) == ((), 0)
    cut = b'{"name": "half\n' + json.dumps(GOOD).encode() + b"\n"
    assert results_of(cut) == ((NamedResult("volume", 3.5, "ml"),), 1)


@pytest.mark.parametrize(
    "line",
    [
        b"null", b"[]", b"{}", b"7", b"\xff\xfe", b"[" * 100_000, b'{"name": "a", "value": NaN}', b"1" * 5000,
        b'{"name": "a", "value": Infinity}', b'{"name": "a", "value": {}}', b'{"name": "a"}',
        b'{"name": 1, "value": 1}',
        b'{"name": "=1", "value": 1}', b'{"name": "a", "value": 1e400}', b'{"name": "a", "value": "\\u0000"}',
        b'{"name": "a", "value": "\\ud800"}', b'{"name": "a", "value": 1, "unit": 3}', b'"' + b"x" * 20_000 + b'"',
    ],
)  # fmt: skip
def test_hostile_lines_are_left_out_alone(line: bytes) -> None:
    found, left_out = results_of(line + b"\n" + json.dumps(GOOD).encode() + b"\n")
    assert (found, left_out) == ((NamedResult("volume", 3.5, "ml"),), 1)


def test_there_are_no_more_than_there_may_be() -> None:
    found, left_out = believed({"name": f"n{number}", "value": 1} for number in range(MAX_RESULTS + 5))
    assert (len(found), left_out) == (MAX_RESULTS, 5)
    found, left_out = believed({"name": "n", "value": "x" * 1000} for _ in range(2000))
    assert (len(found), left_out > 900) == (1, True)


@given(st.binary())
def test_any_bytes_are_read(text: bytes) -> None:
    found, _ = results_of(text)
    assert [NamedResult.from_json(each.to_json()) for each in found] == list(found)
    progress_of(text)


def test_progress_is_read() -> None:
    progress = Progress(0.25, "lobe 1", 1_700_000_000.0)
    assert progress_of(json.dumps(progress.to_json())) == progress


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"fraction": 0.5, "text": ""}, {"fraction": 2, "text": "", "at": 1}, {"fraction": 0.5, "at": 1},
     {"fraction": 0.5, "text": "", "at": 1e12}, {"fraction": 0.5, "text": "", "at": True},
     {"fraction": 0.5, "text": "x" * 50_000, "at": 1}],
)  # fmt: skip
def test_what_is_no_progress_is_none(value: Any) -> None:
    assert progress_of(json.dumps(value)) is None

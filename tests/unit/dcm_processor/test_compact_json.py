"""JSON between our programs: whatever a job's error says, it can be sent."""

import math

import pytest

from dcm_processor.compact_json import dumps, loads


@pytest.mark.parametrize("text", ["Schädel 頭部", "a file that is called \udcff", "\ud800 and \x00"])
def test_any_text_is_sent_as_utf_8_and_comes_back(text: str) -> None:
    """A file's name that is no UTF-8 stands in an exception's message as half surrogate pairs."""
    assert loads(dumps({"error": text}).encode()) == {"error": text}


def test_numbers_that_json_does_not_have_become_null() -> None:
    assert loads(dumps([math.nan, math.inf, 1.5])) == [None, None, 1.5]


def test_what_is_no_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        loads(b"{")

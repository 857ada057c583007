"""JSON that people wrote: what is wrong is said in words, with its place."""

import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcm_processor.errors import ManifestError
from dcm_processor.json_text import DEEPEST, LARGEST, but, dotted, read, shown

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé\n漢"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(_JSON)
def test_sound_json_is_read_as_it_is(value):
    assert read(json.dumps(value)) == (value, [])
    assert read(json.dumps(value, ensure_ascii=False).encode()) == (value, [])


def test_a_byte_order_mark_does_not_matter():
    assert read(b"\xef\xbb\xbf{}") == ({}, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (b'{"a": 1,\n "b": "\xe9"}', r"is not UTF-8 text \(line 2\)"),
        ('{"a": 1,\n}', r"is not JSON: line 2, column 1"),
        ("{'a': 1}", r"is not JSON: line 1, column 2"),
        ("{} {}", r"is not JSON: line 1, column 4"),
        ('{"a": 1', "ends in the middle of line 1: it is only half written"),
        ('{"a": "tex', "ends in the middle of line 1"),
        ('[{"a": 1},\n', "ends in the middle of line 2"),
        ("[" * 100_000, f"is nested deeper than {DEEPEST} levels"),
        (" " * (LARGEST + 1), "is larger than 1 MiB"),
        ("é" * (LARGEST // 2 + 1), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_document_is_refused_with_the_place(text, words):
    with pytest.raises(ManifestError, match=words):
        read(text)


def test_every_prefix_of_a_file_is_refused_as_half_written():
    text = json.dumps({"a": [1.5, "x", {"b": None}], "c": True}, indent=1)
    for end in range(1, len(text)):
        with pytest.raises(ManifestError, match=r"ends in the middle|is not JSON"):
            read(text[:end])


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{"a": NaN}', "a", "must be a number"),
        ('{"a": [1, -Infinity]}', "a[1]", "must be a number"),
        ('{"a": 1e999}', "a", "must be a number"),
        ('{"a": ' + "9" * 5000 + "}", "a", "must be a number"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "a.b", "stands there 2 times"),
        ('{"a": "x\\u0000"}', "a", "cannot be stored"),
        ('{"a": "\\ud800"}', "a", "cannot be stored"),
        ('{"\\u0000": 1}', "\\x00", "cannot be stored"),
        ('{"a":' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "a.a.a", "is nested deeper"),
    ],
)
def test_what_could_not_be_stored_or_told_apart_is_a_flaw_with_its_place(text, place, words):
    _, flaws = read(text)
    assert [dotted(path) for path, _ in flaws] == [place]
    assert words in flaws[0][1]


def test_a_number_with_many_digits_is_kept_exactly():
    assert read(str(10**200)) == (10**200, [])


def test_one_flaw_does_not_hide_the_next_but_there_is_an_end_to_it():
    assert len(read('[NaN, "\\u0000", {"a": 1, "a": 2}]')[1]) == 3
    assert len(read("[" + "NaN," * 5000 + "1]")[1]) == 100


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:1e-.NaIfinty\\u0d8 \n'), max_size=60))
def test_nothing_but_our_own_error_is_raised_whatever_the_text(text):
    with contextlib.suppress(ManifestError):
        json.dumps(read(text)[0])


def test_a_damaged_file_is_refused_or_read_but_never_raises_anything_else():
    rng = random.Random(7)
    whole = json.dumps([{"jobName": "a", "params": {"x": [1, 2.5, None]}}] * 3).encode()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(ManifestError):
            read(bytes(damaged))


def test_values_are_shown_short_and_on_one_line():
    assert but("must be text", 3) == "must be text, not 3"
    assert shown({"a": 1}) == "an object"
    assert shown([]) == "an empty list"
    assert shown("a\u2028b\x85c") == '"a\\u2028b\\x85c"'
    assert len(shown("x" * 10_000)) < 100
    assert shown("é") == '"é"'


def test_places_are_dotted():
    assert dotted(("retry", "interval", 0)) == "retry.interval[0]"
    assert dotted((2, "jobName")) == "[2].jobName"
    assert dotted(()) == ""

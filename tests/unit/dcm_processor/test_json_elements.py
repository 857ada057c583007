"""The elements of a JSON array, however its text is cut, and nothing but such an array."""

import json
from collections.abc import Iterator

import pytest

from dcm_processor.json_elements import LARGEST, elements

ARRAY = [{"ID": "a,]", "Tags": {"Name": 'Grün\\"]'}}, 12, 1.5e3, None, [], [[1], {}], "", True, {"é": "\u2028"}]


def cut(text: bytes, size: int) -> Iterator[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("indent", [None, 3])
def test_every_element_comes_in_its_order_however_the_text_is_cut(size: int, indent: int | None) -> None:
    text = json.dumps(ARRAY, indent=indent, ensure_ascii=False).encode()
    assert list(elements(cut(text, size))) == ARRAY


@pytest.mark.parametrize("text", [b"[]", b" [\n] \n", b"[ ]"])
def test_an_empty_array_has_none(text: bytes) -> None:
    assert list(elements(cut(text, 1))) == []


@pytest.mark.parametrize("text", [
    b"", b"{}", b"null", b"1", b"<html>", b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]", b"[1]]", b"[1],", b"[1] x",
    b'[{"a": 1}, {"a"', b'["\xff"]', b'["\xc3', b"[tru]", b'{"a": [1, 2]}',
])  # fmt: skip
def test_what_is_no_array_or_not_all_of_one_is_refused(text: bytes) -> None:
    for size in (1, 1000):
        with pytest.raises(ValueError, match=r"array|decode"):
            list(elements(cut(text, size)))


def test_an_element_comes_before_the_rest_is_there() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'[{"a": 1}, {"b'
        raise AssertionError("the rest was asked for")

    assert next(elements(chunks())) == {"a": 1}


def test_no_more_is_kept_than_one_element_may_have() -> None:
    """Of a text that is no array, or has an element without end, the rest is not read."""
    read = 0

    def chunks(first: bytes) -> Iterator[bytes]:
        nonlocal read
        yield first
        while True:
            read += 1
            yield b"x" * 1000

    for first in (b"<html>", b'[1, "'):
        read = 0
        with pytest.raises(ValueError, match="too large"):
            list(elements(chunks(first)))
        assert read <= LARGEST // 1000 + 1

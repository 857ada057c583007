"""The elements of a JSON array while it comes, so that one of any length is never held whole."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

LARGEST = 2**20
"""Characters of one element, and of what stands before the first."""

_DECODER = json.JSONDecoder()
_FIRST = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_FOLLOWED = re.compile(r"[ \t\n\r]*[,\]]")
_END = re.compile(r"[ \t\n\r]*\][ \t\n\r]*")
_NONE = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*\][ \t\n\r]*")


def elements(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Each element as soon as it is whole; the chunks are UTF-8, cut anywhere.

    Raises ValueError where they are no JSON array, or not all of one: after the elements before that place.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, before, end = "", _FIRST, _NONE
    for chunk in chain(chunks, (None,)):
        text += decoder.decode(chunk or b"", final=chunk is None)
        at = 0
        while begin := before.match(text, at):
            try:
                element, reached = _DECODER.raw_decode(text, begin.end())
            except ValueError:
                break  # only a part of it has come, if it is one
            if not _FOLLOWED.match(text, reached):
                break  # a number may go on
            yield element
            at, before, end = reached, _NEXT, _END
        text = text[at:]
        if len(text) > LARGEST:
            raise ValueError("no array, or one with an element that is too large")
    if not end.fullmatch(text):
        raise ValueError("no array, or not all of one")

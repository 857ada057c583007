"""JSON as people write it into files, read strictly: what is wrong is said in words, with its place.

Python's `json` takes NaN, repeated keys, numbers and depths without bound: what could not be stored, sent or told apart
later. Here that is a flaw, and one flaw does not hide the next.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from dcm_processor.errors import ManifestError

LARGEST = 2**20  # bytes of a text
DEEPEST = 64  # levels; what copies or stores a document later is recursive
_MOST_FLAWS = 100  # a reader has had enough by then

Path = tuple[str | int, ...]


def read(text: str | bytes) -> tuple[Any, list[tuple[Path, str]]]:
    """The document, of plain dicts and lists, and the flaws of single values: (where, what is wrong).

    Raises ManifestError with the reason where there is no document: not UTF-8, not JSON, half written, too large.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(content) > LARGEST:
        raise ManifestError(f"is larger than {LARGEST // 2**20} MiB; data belongs into the module, not here")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"is not UTF-8 text (line {line}); save it as UTF-8") from None
    if not text.strip():
        raise ManifestError("is empty")
    flaws: list[tuple[Path, str]] = []
    try:
        document = json.loads(text, object_pairs_hook=_Pairs, parse_int=_integer)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise ManifestError(f"ends in the middle of line {error.lineno}: it is only half written") from None
        raise ManifestError(f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ManifestError(f"is nested deeper than {DEEPEST} levels") from None
    return _plain(document, (), flaws), flaws


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before anything of it is lost."""


def _integer(digits: str) -> float:
    """Like `int`, but what no float can hold is infinite: Python refuses to read thousands of digits."""
    return int(digits) if len(digits) <= 300 else math.inf


def _plain(value: Any, path: Path, flaws: list[tuple[Path, str]]) -> Any:
    def note(where: Path, reason: str) -> None:
        if len(flaws) < _MOST_FLAWS:
            flaws.append((where, reason))

    if len(path) > DEEPEST:
        note(path[:3], f"is nested deeper than {DEEPEST} levels")
        return None
    if isinstance(value, _Pairs):
        keys = Counter(key for key, _ in value)
        for key, times in keys.items():
            if times > 1:
                note((*path, key), f"stands there {times} times; keep the one that is meant")
            if not _storable(key):
                note((*path, key), "is a name with a character that cannot be stored (NUL, or half a surrogate pair)")
        return {key: _plain(item, (*path, key), flaws) for key, item in value}
    if isinstance(value, list):
        return [_plain(item, (*path, index), flaws) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        note(path, "must be a number that JSON knows and a float can hold, not NaN, Infinity or more")
    if isinstance(value, str) and not _storable(value):
        note(path, "holds a character that cannot be stored (NUL, or half a surrogate pair)")
    return value


def _storable(text: str) -> bool:
    """Whether databases and UTF-8 take it."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


# -- words


def dotted(path: Iterable[str | int]) -> str:
    """`retry.interval[0]`"""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def but(words: str, value: object) -> str:
    """`must be text, not 3`"""
    return f"{words}, not {shown(value)}"


def shown(value: object) -> str:
    """The value as it stands in the file, but short and on one line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return _printable(json.dumps(value, ensure_ascii=False, default=repr))


def _printable(text: str) -> str:
    clipped = text if len(text) <= 80 else f"{text[:60]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clipped)

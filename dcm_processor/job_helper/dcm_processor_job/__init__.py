"""What a job tells the platform while it runs: how far it is, and what it found.

    from dcm_processor_job import progress, result

    progress(0.4, "lobe 2 of 5")  # a fraction from 0 to 1, and a word or two
    result("lung volume", 4810.5, unit="ml")  # a number or a text, under a name

Importable in every service's environment and in scripts that a job starts. Outside the platform both check what they
are given and do nothing else. Nothing but the standard library of Python 3.8.

The worker names a folder of the attempt in DCM_PROCESSOR_NOTES. A result is one line of JSON, appended by one write;
how far the job is stands in a file of its own, which is replaced. So whoever reads finds each whole or not at all,
whenever the job ends. Whoever reads believes none of it (`dcm_processor.notes`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from typing import Any, Union

__all__ = ["progress", "result"]

NOTES = "DCM_PROCESSOR_NOTES"
"""The environment variable that names the attempt's folder of notes."""
RESULTS, PROGRESS = "results.jsonl", "progress.json"

MAX_RESULTS = 2000
"""Names of results in one attempt."""
MAX_BYTES = 1024 * 1024
"""Bytes of all results of one attempt as lines of JSON, those that a later one of their name replaced included."""
MAX_NAME, MAX_TEXT, MAX_UNIT, MAX_SAYING = 64, 1000, 32, 200
"""Characters of a result's name, of a text that is a result, of a unit, and of what `progress` says."""
MAX_WHOLE = 2**63
"""A whole number's magnitude is smaller: larger ones are no database's integer."""
INTERVAL = 0.2
"""Seconds in which a process writes down once how far it is; what it says in between is left out, but for the end."""

Value = Union[bool, int, float, str]  # noqa: UP007 - Python 3.8


class _Written:
    """What this process knows of an attempt's notes."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.read = 0  # bytes of the results that were read: whole lines
        self.whole = True  # nothing followed them
        self.names: frozenset[str] = frozenset()
        self.due = -math.inf  # on the monotonic clock: when progress is written down again
        self.ended = False


_written = _Written("")
_turn = threading.Lock()
"""Of this process's threads; processes find what the others wrote in the files."""


def _begin_anew() -> None:
    """After a fork, at which another thread may have had its turn, and may have been in the middle of it."""
    global _turn, _written
    _turn, _written = threading.Lock(), _Written("")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def progress(fraction: float, text: str = "") -> None:
    """Say how far the job is: a fraction from 0 to 1, and in a text of at most 200 characters what it does.

    Cheap enough for a loop: what comes within 0.2 s of the last is not written down. A full disk fails no job here.

    Raises ValueError where the fraction is none, or the text is no text or too long.
    """
    fraction, text = checked_progress(fraction, text)
    with _turn:
        written = _notes()
        now, ends = time.monotonic(), fraction >= 1
        if written is None or (now < written.due and (written.ended or not ends)):
            return
        written.due, written.ended = now + INTERVAL, ends
        path = os.path.join(written.place, PROGRESS)  # noqa: PTH118 - cheaper here
        partial = f"{path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            with open(partial, "w", encoding="utf-8") as file:  # noqa: PTH123
                json.dump({"fraction": fraction, "text": text, "at": time.time()}, file)
            os.replace(partial, path)  # noqa: PTH105


def result(name: str, value: Value, unit: str | None = None) -> None:
    """Keep a named result of the job: a number, a bool or a text. Of several of one name the last one counts.

    `name`: 1 to 64 printable characters, the first a letter, a digit or `_`, the last no space. `value`: bool, int
    (below 2**63), finite float, text (at most 1,000 characters), or a numpy scalar of these. `unit`: at most 32
    characters. A job may have 2,000 names, and 1 MB of results in all.

    Raises ValueError that says what is not so, and OSError where the disk takes nothing.
    """
    name, value, unit = checked_result(name, value, unit)
    line = json.dumps({"name": name, "value": value, "unit": unit}).encode("ascii") + b"\n"
    with _turn:
        written = _notes()
        if written is not None:
            _append(written, name, line)


def _append(written: _Written, name: str, line: bytes) -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(os.path.join(written.place, RESULTS), flags, 0o600)  # noqa: PTH118
    try:
        _read_on(written, descriptor)
        if name not in written.names and len(written.names) >= MAX_RESULTS:
            raise ValueError(f"a job may have {MAX_RESULTS} named results; write a file into output_dir")
        if os.fstat(descriptor).st_size + len(line) > MAX_BYTES:
            raise ValueError("a job's named results may have 1 MB in all; write a file into output_dir")
        if not written.whole:  # a full disk cut the last one: ended here, it is no JSON
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):
            raise OSError("the disk took no more than a part of a result; make room there")
    finally:
        os.close(descriptor)


def checked_progress(fraction: Any, text: Any) -> tuple[float, str]:
    """What a job may say of how far it is.

    Raises ValueError.
    """
    fraction = _plain(fraction)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise ValueError("progress takes a fraction: a number from 0 to 1")
    if not isinstance(text, str) or len(text) > MAX_SAYING or not _is_text(text):
        raise ValueError(f"progress takes a text of at most {MAX_SAYING} characters, UTF-8 without NUL")
    return float(fraction), text


def checked_result(name: Any, value: Any, unit: Any) -> tuple[str, Value, str | None]:
    """What can be a named result.

    Raises ValueError that says what is not so, and shows no value.
    """
    value = _plain(value)
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"a result's name is a text of 1 to {MAX_NAME} characters")
    if not name.isprintable() or not (name[0].isalnum() or name[0] == "_") or name[-1] == " ":
        raise ValueError(
            "a result's name has printable characters only, begins with a letter, a digit or _, and ends with no space"
        )
    if isinstance(value, str):
        if len(value) > MAX_TEXT or not _is_text(value):
            raise ValueError(f"a result's text has at most {MAX_TEXT} characters, UTF-8 without NUL; here it has not")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a result is neither NaN nor infinite; leave it out, or say it in a text")
    elif isinstance(value, int):  # a bool is one too
        if not -MAX_WHOLE < value < MAX_WHOLE:
            raise ValueError("a result's whole number is smaller than 2**63; give a float or a text")
    else:
        raise ValueError(f"a result is a number, a bool or a text, no {type(value).__name__}")  # noqa: TRY004 - one kind
    if unit is not None and (not isinstance(unit, str) or not 1 <= len(unit) <= MAX_UNIT or not unit.isprintable()):
        raise ValueError(f"a result's unit is a text of 1 to {MAX_UNIT} printable characters, or None")
    return name, value, unit


def _plain(value: Any) -> Any:
    """The value in Python's own types; of numpy's, scalars and arrays of one."""
    if type(value).__module__.partition(".")[0] == "numpy" and getattr(value, "size", 0) == 1:
        value = value.item()
    if isinstance(value, bool):
        return value
    for kind, plain in ((int, int), (float, float), (str, str.__str__)):
        if isinstance(value, kind):
            return plain(value)
    return value


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _notes() -> _Written | None:
    """The attempt's notes, or None outside the platform; a process may be the fork of one that ran another attempt."""
    global _written  # noqa: PLW0603 - what a process has written is the process's own
    place = os.environ.get(NOTES)
    if not place:
        return None
    if _written.place != place:
        _written = _Written(place)
    return _written


def _read_on(written: _Written, descriptor: int) -> None:
    """Take in what this process and others of the job have written since."""
    data = b""
    while piece := os.pread(descriptor, max(MAX_BYTES - written.read - len(data), 0), written.read + len(data)):
        data += piece
    end = data.rfind(b"\n") + 1  # what follows is cut off, or another process is in the middle of it
    found = set(written.names)
    for line in data[:end].split(b"\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found.add(json.loads(line)["name"])
    written.names = frozenset(found)
    written.read += end
    written.whole = end == len(data)

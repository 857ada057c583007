"""What a job noted of itself, believed as far as it can be true: how far it is, and its named results. Pure.

It comes out of a file that the job could write whatever it liked into (`dcm_processor_job` has the format), and later
through Redis: each is looked at alone, and what cannot be is left out.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from dcm_processor.job_helper.dcm_processor_job import (
    MAX_BYTES,
    MAX_RESULTS,
    Value,
    checked_progress,
    checked_result,
)

LATEST = 253_402_300_799.0
"""The last second of the year 9999: no later moment can be shown."""
LONGEST = 16 * 1024
"""Bytes of one note as JSON: more than the longest has that can be."""

SHOWN = 100
"""Of each attempt's results so many are told with its study, or in a list of jobs: there may be thousands of series."""


@dataclass(frozen=True)
class NamedResult:
    """A number, a bool or a text that a job found, under a name; the unit is for people."""

    name: str
    value: Value
    unit: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError where it is no named result."""
        if not isinstance(value, dict):
            raise ValueError("a named result is an object")  # noqa: TRY004 - one kind for all
        return cls(*checked_result(value.get("name"), value.get("value"), value.get("unit")))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """How far a job is, from 0 to 1, what it does, and when it said so (s since the epoch)."""

    fraction: float
    text: str
    at: float

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError where it says no progress."""
        if not isinstance(value, dict):
            raise ValueError("progress is an object")  # noqa: TRY004 - as above
        at = value.get("at")
        if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at <= LATEST:
            raise ValueError("progress has no moment")
        return cls(*checked_progress(value.get("fraction"), value.get("text")), at=float(at))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def in_words(attempt: Mapping[str, Any] | None) -> str:
    """`42 %: what it does` of an attempt as the API shows it; nothing where it says nothing."""
    if attempt is None or attempt.get("progress") is None:
        return ""
    told = attempt["progress"]
    share = f"{int(told['fraction'] * 100)} %"
    return f"{share}: {told['text']}" if told["text"] else share


def progress_of(text: bytes | str) -> Progress | None:
    """The progress in a text of JSON; None where there is none."""
    try:
        return Progress.from_json(json.loads(text)) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):
        return None


def results_of(text: bytes) -> tuple[tuple[NamedResult, ...], int]:
    """The named results in a file's text, each name's last one at the place of its first; and how many are left out.

    Without a line end at its end the last line is not whole, and counts for nothing.
    """
    entries: list[Any] = []
    for line in text.split(b"\n")[:-1]:
        if not line:
            continue
        try:
            entries.append(json.loads(line) if len(line) <= LONGEST else None)
        except (ValueError, RecursionError):
            entries.append(None)
    return believed(entries)


def believed(entries: Iterable[Any]) -> tuple[tuple[NamedResult, ...], int]:
    """The same of JSON values."""
    found: dict[str, NamedResult] = {}
    left_out = size = 0
    for entry in entries:
        try:
            result = NamedResult.from_json(entry)
        except ValueError:
            left_out += 1
            continue
        size += len(result.name) + len(str(result.value))
        if size > MAX_BYTES or (result.name not in found and len(found) >= MAX_RESULTS):
            left_out += 1
        else:
            found[result.name] = result
    return tuple(found.values()), left_out

"""The record: what the services themselves wrote down, a line for each begin and end of a call, in the order it was."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line; `place` is its number, which orders what different processes wrote."""

    place: int
    what: str  # callback, begin, end
    study: str
    series: str | None
    job: str
    pid: int
    at: float  # seconds since the epoch
    plan: str = ""
    attempt: int = 0
    how: str = ""  # of an end: done, failed, transient
    files: tuple[tuple[str, str], ...] = ()  # (instance id, digest of the end of its file)
    inputs: tuple[tuple[str, str, str | None, str], ...] = ()  # (job, study, series, plan) as the results name them
    tokens: tuple[str, ...] = ()


@dataclass
class Record:
    """All lines."""

    lines: list[Line] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Record":
        if not path.exists():
            return cls()
        texts = path.read_text(encoding="utf-8").splitlines()
        return cls([_line(place, json.loads(text)) for place, text in enumerate(texts)])

    def of(self, what: str) -> list[Line]:
        return [line for line in self.lines if line.what == what]


def _line(place: int, found: dict[str, Any]) -> Line:
    for name in ("files", "inputs"):
        found[name] = tuple(tuple(each) for each in found.get(name, ()))
    found["tokens"] = tuple(found.get("tokens", ()))
    return Line(place=place, **found)

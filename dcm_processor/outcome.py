"""How an attempt ended: what a worker spools and sends, and the controller judges and keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dcm_processor.compact_json import dumps
from dcm_processor.notes import LATEST, NamedResult, believed
from dcm_processor.vocabulary import ExitReason

MAX_ENTRIES, MAX_NAME, MAX_DETAIL = 32, 64, 100_000
"""Phases or details there may be; characters of their names; of a detail as JSON."""
_NUMBERS = frozenset({"exitStatus", "peakMemory", "logSize", "functionBegan"})


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt.

    `error` is one line (`ValueError: …`), `errorClass` the exception's class name alone (what RQ's tools may show).
    `phases` maps a phase (`environment`, `fetch`, `run`) to its begin and end in seconds since the epoch, UTC.
    `details` may hold exitStatus, signal, peakMemory (bytes), environment, logSize (bytes). `results` are what the job
    named, whatever became of it then.
    """

    exitReason: ExitReason
    error: str | None = None
    errorClass: str | None = None
    traceback: str | None = None
    phases: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    results: tuple[NamedResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "results": [result.to_json() for result in self.results]}

    @classmethod
    def from_json(cls, value: Any, tell: Callable[[str], object] = lambda _: None) -> Self:
        """What a worker sent, without what cannot be what it should be; `tell` is told the names of such parts.

        Raises ValueError where it does not say how the attempt ended.
        """
        sent: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        reason = ExitReason(sent.get("exitReason", ""))
        texts: dict[str, str] = {}
        phases: dict[str, list[float]] = {}
        details: dict[str, Any] = {}
        results: tuple[NamedResult, ...] = ()
        for part, given in sent.items():
            if part in ("error", "errorClass", "traceback") and isinstance(given, str):
                texts[part] = given
            elif part in ("phases", "details") and isinstance(given, Mapping) and len(given) <= MAX_ENTRIES:
                for name, each in given.items():
                    if part == "phases" and _is_phase(name, each):
                        phases[name] = list(each)
                    elif part == "details" and _is_detail(name, each):
                        details[name] = each
                    else:
                        tell(f"{part}.{str(name)[:MAX_NAME]}")
            elif part == "results" and isinstance(given, list | tuple):
                results, left_out = believed(given)
                if left_out:
                    tell(f"results ({left_out})")
            elif part != "exitReason" and given is not None:
                tell(str(part)[:MAX_NAME])
        return cls(reason, phases=phases, details=details, results=results, **texts)


def _is_phase(name: object, moments: object) -> bool:
    pair = isinstance(moments, list) and len(moments) == 2 and all(map(_is_moment, moments))
    return pair and isinstance(name, str) and len(name) <= MAX_NAME


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST


def _is_detail(name: object, value: object) -> bool:
    if not isinstance(name, str) or len(name) > MAX_NAME or len(dumps(value)) > MAX_DETAIL:
        return False
    return name not in _NUMBERS or (isinstance(value, int | float) and not isinstance(value, bool))

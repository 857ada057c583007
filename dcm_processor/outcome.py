"""How an attempt ended: what a worker spools and sends, and the controller judges and keeps."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from dcm_processor.vocabulary import ExitReason


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt.

    `error` is one line (`ValueError: …`), `errorClass` the exception's class name alone (what RQ's tools may show).
    `phases` maps a phase (`environment`, `fetch`, `run`) to its begin and end in seconds since the epoch, UTC.
    `details` may hold exitStatus, signal, peakMemory (bytes), environment, logSize (bytes).
    """

    exitReason: ExitReason
    error: str | None = None
    errorClass: str | None = None
    traceback: str | None = None
    phases: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises ValueError or TypeError where `value` is no outcome."""
        return cls(**{**value, "exitReason": ExitReason(value["exitReason"])})

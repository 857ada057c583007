"""Putting events into the ledger for requests that wait for it, and not for ever."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.vocabulary import EventKind

T = TypeVar("T")

_PATIENCE_WITH_MANY = 10.0
"""Seconds a caller waits who has many events recorded at once."""


class CanRecord(Protocol):
    """What a recorder needs of the ledger."""

    def record_event(self, kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
        """Raises LedgerUnavailableError where the event is not on the disk."""

    def record_events(self, kind: EventKind, payloads: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        """Raises LedgerUnavailableError where the events are not on the disk: then none of them is."""


class Recorder:
    """Records events one after the other, in a thread of its own, and for a second refuses what has just failed.

    One after the other, since threads that race for SQLite's lock now and then lose for as long as they have patience.
    In a thread of its own, so that a request can be answered while a disk or a database hangs. And when the ledger is
    stuck, those that wait behind the first get their answer with it, instead of each waiting in vain for its own time.
    """

    def __init__(self, ledger: CanRecord, *, patience: float = 1.7, pause: float = 1.0) -> None:
        """`patience`: seconds a caller waits; `pause`: seconds of refusing after a failure."""
        self._ledger = ledger
        self._patience = patience
        self._pause = pause
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._failed_at: float | None = None

    def record(self, kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
        """The event's id, once it is on the ledger's disk.

        Raises LedgerUnavailableError where it is not, or not yet: what hung may come through later, which is harmless,
        since whatever an event asks for is done once, however often it is asked for.
        """
        return self._in_turn(self._patience, lambda: self._ledger.record_event(kind, study_id, payload))

    def record_all(self, kind: EventKind, payloads: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        """The ids of events for these studies, once all are on the ledger's disk.

        Raises LedgerUnavailableError where none of them is, or not yet.
        """
        return self._in_turn(_PATIENCE_WITH_MANY, lambda: self._ledger.record_events(kind, payloads))

    def _in_turn(self, patience: float, write: Callable[[], T]) -> T:
        self._refuse_what_just_failed()
        written = self._writer.submit(self._write, write)
        try:
            return written.result(patience)
        except TimeoutError:
            written.cancel()
            self._failed_at = time.monotonic()
            raise LedgerUnavailableError("the ledger takes no write in time; try again in a few seconds") from None

    def _write(self, write: Callable[[], T]) -> T:
        self._refuse_what_just_failed()
        try:
            written = write()
        except LedgerUnavailableError:
            self._failed_at = time.monotonic()
            raise
        self._failed_at = None
        return written

    def _refuse_what_just_failed(self) -> None:
        failed_at = self._failed_at
        if failed_at is not None and time.monotonic() - failed_at < self._pause:
            raise LedgerUnavailableError("the ledger has just not taken a write; try again in a second")

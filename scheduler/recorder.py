"""Putting events into the ledger for requests that wait for it."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.vocabulary import EventKind


class CanRecord(Protocol):
    """What a recorder needs of the ledger."""

    def record_event(self, kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
        """Raises LedgerUnavailableError where the event is not on the disk."""


class Recorder:
    """Records events one after the other, and for a second refuses at once what has just failed.

    The threads of one process take turns here: at SQLite's lock they would race, and now and then one would lose for as
    long as it has patience. And when the ledger is stuck, those that wait behind the first get their answer with it,
    instead of each waiting in vain for its own time.
    """

    def __init__(self, ledger: CanRecord, *, patience: float = 0.9, pause: float = 1.0) -> None:
        """`patience`: seconds to wait for one's turn; `pause`: seconds of refusing after a failure."""
        self._ledger = ledger
        self._patience = patience
        self._pause = pause
        self._turn = threading.Lock()
        self._failed_at: float | None = None

    def record(self, kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
        """The event's id, once it is on the ledger's disk.

        Raises LedgerUnavailableError: it is not.
        """
        if not self._turn.acquire(timeout=self._patience):
            raise LedgerUnavailableError("the ledger takes writes too slowly; try again in a few seconds")
        try:
            if self._failed_at is not None and time.monotonic() - self._failed_at < self._pause:
                raise LedgerUnavailableError("the ledger has just not taken a write; try again in a second")
            try:
                event_id = self._ledger.record_event(kind, study_id, payload)
            except LedgerUnavailableError:
                self._failed_at = time.monotonic()
                raise
            self._failed_at = None
            return event_id
        finally:
            self._turn.release()

"""Not waiting again for what has just kept somebody waiting in vain."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dcm_processor.errors import LedgerUnavailableError


class Breaker:
    """Refuses at once, for `pause` seconds, what has just failed by waiting; then lets one try.

    Without it, hooks that queue behind a stuck ledger would each wait for their own time-out, one after the other.
    """

    def __init__(self, pause: float = 1.0) -> None:
        self._pause = pause
        self._lock = threading.Lock()
        self._failed_at: float | None = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Raises LedgerUnavailableError without running the block where it would most likely fail."""
        if self._failed_at is not None:
            with self._lock:
                if self._failed_at is not None and time.monotonic() - self._failed_at < self._pause:
                    raise LedgerUnavailableError("the ledger has just not taken a write; try again in a second")
                self._failed_at = time.monotonic()  # this caller tries; the others are refused until it is back
        try:
            yield
        except LedgerUnavailableError:
            self._failed_at = time.monotonic()
            raise
        self._failed_at = None

"""The wish that an attempt ends before its time, and how it reaches what runs it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dcm_processor.vocabulary import ExitReason


class StoppedError(BaseException):
    """The attempt is to end now; no `except Exception` on the way may keep it from that."""


class Stop:
    """The wish that an attempt ends before its time: cancelled by a user, or handed back by its worker.

    The first wish counts. It reaches the horse's main thread where that can take it: as StoppedError inside
    `raising`, by a call inside `calling`; elsewhere it waits.
    """

    def __init__(self) -> None:
        self.reason: ExitReason | None = None
        self._raising = False
        self._call: Callable[[str], None] | None = None

    def request(self, reason: ExitReason) -> None:
        """Wish for the end; by any thread or signal handler."""
        if self.reason is not None:
            return
        self.reason = reason
        if (call := self._call) is not None:
            call(reason)
        elif self._raising:  # the handler, in the main thread, raises
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def listen(self) -> None:
        """Take SIGTERM for the worker's wish to have the attempt back; by the main thread."""
        signal.signal(signal.SIGTERM, lambda *_: self.request(ExitReason.HANDED_BACK))
        signal.signal(signal.SIGUSR1, lambda *_: self._raise())

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, the wish is a StoppedError."""
        self._raising = True
        try:
            self._raise()
            yield
        finally:
            self._raising = False

    @contextmanager
    def calling(self, call: Callable[[str], None]) -> Iterator[None]:
        """Inside, the wish is a call with its word."""
        self._call = call
        try:
            if self.reason is not None:
                call(self.reason)
            yield
        finally:
            self._call = None

    def _raise(self) -> None:
        if self._raising and self.reason is not None:
            self._raising = False
            raise StoppedError(self.reason)

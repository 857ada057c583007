"""What a work-horse knows of the worker that forked it, and how it is told to stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from dcm_processor.settings import Settings
from dcm_processor.transport import Transport
from dcm_processor.vocabulary import ExitReason
from worker.spool import AttemptFolder
from worker.warm import Warm


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


@dataclass(frozen=True)
class Context:
    """What one worker's horses share: settings, the worker's name and host, and the way to stop them."""

    settings: Settings
    worker: str
    host: str
    transport: Transport
    warm: Warm
    blank: AttemptFolder | None  # for the attempt to come; None: it makes its own
    stop: Stop = field(default_factory=Stop)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """The worker's own environment, of which jobs and builds get what `worker.surroundings` lets through."""


CONTEXT: ContextVar[Context] = ContextVar("dcm_processor_worker")
"""Set by the worker in each horse it forks; RQ itself hands its function nothing but the attempt's id."""

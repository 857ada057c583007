"""Waking the controller without ever waiting for Redis."""

import threading
from typing import Protocol

from dcm_processor.errors import TransportUnavailableError
from dcm_processor.logging import get_logger

_log = get_logger(__name__)


class CanWake(Protocol):
    """What a waker needs of the transport."""

    def wake(self, reason: str) -> None:
        """Raises TransportUnavailableError where Redis does not answer."""


class Waker:
    """Wakes the controller from a thread of its own: a request is answered at once, Redis up, down or hanging.

    Wishes that come while Redis is busy become one. While it is away one attempt is made every `pause` seconds. A wish
    lost with the process loses nothing: the controller's clock finds what the ledger holds.
    """

    def __init__(self, transport: CanWake, *, pause: float = 1.0) -> None:
        self._transport = transport
        self._pause = pause
        self._reason = ""
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self, reason: str) -> None:
        """Have the controller woken soon; never blocks, never raises."""
        self._reason = reason
        self._wanted.set()
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def close(self) -> None:
        """End the thread once what it is doing is done."""
        self._closed.set()
        self._wanted.set()

    def _start(self) -> None:
        with self._starting:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        answers = True
        while self._wanted.wait() and not self._closed.is_set():
            self._wanted.clear()
            try:
                self._transport.wake(self._reason)
            except TransportUnavailableError as error:
                if answers:
                    _log.warning("the controller cannot be woken; it finds the event by its clock", reason=str(error))
                answers = False
                self._wanted.set()
                self._closed.wait(self._pause)
            else:
                if not answers:
                    _log.info("the controller can be woken again")
                answers = True

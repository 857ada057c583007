"""Redis's streams as the controller waits on them: a thread reads, a bell rings."""

import os
import threading
from collections import deque
from contextlib import suppress

from dcm_processor.errors import TransportUnavailableError
from dcm_processor.logging import get_logger
from dcm_processor.transport import REPORTS, WAKE, Transport

log = get_logger()

_BLOCK_MS = 5000
_PAUSE = 0.5

Entry = tuple[str, dict[str, bytes]]


class StreamReader(threading.Thread):
    """Keeps what came on REPORTS until it is taken; `bell` is readable when something came, or `ring` was called.

    More is read once `go_on` was called: who is at what came is not to share the interpreter meanwhile.
    """

    def __init__(self, redis_url: str) -> None:
        super().__init__(name="streams", daemon=True)
        self._transport = Transport(redis_url)
        self._entries: deque[Entry] = deque()
        self._from_start = threading.Event()
        self._going = threading.Event()
        self._closed = threading.Event()
        self.bell, self._rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """Make `bell` readable; safe in a signal handler."""
        with suppress(BlockingIOError):  # full: it rings already
            os.write(self._rope, b"!")

    def take(self) -> list[Entry]:
        """What came since the last call; the bell is quiet again."""
        with suppress(BlockingIOError):
            os.read(self.bell, 65536)
        return [self._entries.popleft() for _ in range(len(self._entries))]

    def go_on(self) -> None:
        """What was taken is dealt with, as far as it is now: read what came since."""
        self._going.set()

    def again(self) -> None:
        """What was taken could not be dealt with, or Redis counts anew: have all that is in the stream come again."""
        self._from_start.set()

    def close(self) -> None:
        self._closed.set()
        self._going.set()

    def run(self) -> None:
        reports, wake, away = "0", "$", False
        while not self._closed.is_set():
            if self._from_start.is_set():
                self._from_start.clear()
                self._closed.wait(_PAUSE)
                reports, wake = "0", "$"
            try:
                found = self._transport.read({REPORTS: reports, WAKE: wake}, block_ms=_BLOCK_MS)
            except TransportUnavailableError as error:
                if not away:
                    log.warning("Redis cannot be read", error=str(error))
                away = True
                reports, wake = "0", "$"  # it may come back empty, or with another clock
                self._closed.wait(_PAUSE)
                continue
            if away:
                away = False
                log.info("Redis can be read again")
                self.ring()
            self._going.clear()
            if self._closed.is_set():
                break
            if entries := found.get(REPORTS):
                reports = entries[-1][0]
                self._entries.extend(entries)
            if wakes := found.get(WAKE):
                wake = wakes[-1][0]
            if found:
                self.ring()
                self._going.wait()

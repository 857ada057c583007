"""Whether DATA's disk has room; where it has not, studies are not fetched, and all else goes on."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dcm_processor import disk
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings

log = get_logger()

PATIENCE = 0.5
"""Seconds for the disk's answer: DATA may lie on a network, and then hang."""
LOW = "low on room: no study is fetched to the scheduler's host"


class Room:
    """DATA's disk as the scheduler's programs see it; one look serves all for `seconds`, since anybody may ask."""

    def __init__(self, settings: Settings, *, seconds: float = 1.0) -> None:
        self._data: Path = settings.data
        self._wish = settings.MIN_FREE
        self._seconds = seconds
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="room")
        self._looked_at = float("-inf")
        self._low = False

    def is_low(self) -> bool:
        """Whether there is less free than MIN_FREE; what cannot be asked is not low."""
        if time.monotonic() - self._looked_at > self._seconds:
            look = self._looker.submit(disk.is_low, self._data, self._wish)
            try:
                self._low = look.result(PATIENCE)
            except OSError:  # not there yet, or hanging (TimeoutError): whoever needs it says so
                look.cancel()
                self._low = False
            self._looked_at = time.monotonic()
        return self._low

    def tell(self) -> None:
        """Say once that there is no room, and once that there is again."""
        before = self._low
        if self.is_low() and not before:
            log.error("DATA is low on room; no study is fetched here until there is more", data=str(self._data))
        elif before and not self._low:
            log.info("DATA has room again", data=str(self._data))

"""Says every few seconds that an attempt still runs and how far it is; hears there whether it is to be cancelled."""

import threading
from collections.abc import Callable
from typing import Self

from dcm_processor.errors import TransportUnavailableError
from dcm_processor.logging import get_logger
from dcm_processor.notes import Progress
from dcm_processor.transport import ANNOUNCE_INTERVAL, Report, Transport
from dcm_processor.vocabulary import ExitReason
from worker.stop import Stop

log = get_logger()

_LEAVE_PATIENCE = 2.0


class Announcer:
    """A thread of the horse; Redis being away disturbs nothing but the announcements."""

    def __init__(self, transport: Transport, report: Report, stop: Stop, interval: float = ANNOUNCE_INTERVAL) -> None:
        self._transport = transport
        self._report = report
        self._stop = stop
        self._interval = interval
        self.progress: Callable[[], Progress | None] = lambda: None
        self._over = threading.Event()
        self._speaking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """No announcement follows the outcome, unless Redis keeps one waiting."""
        self._over.set()
        self._speaking.acquire(timeout=_LEAVE_PATIENCE)

    def _run(self) -> None:
        count, away = 0, False
        while not self._over.wait(self._interval):
            count += 1
            try:
                with self._speaking:
                    if self._over.is_set():
                        return
                    cancel = self._transport.announce(self._report, count, self.progress())
            except TransportUnavailableError as error:
                if not away:
                    log.warning("the attempt cannot be announced now and runs on", error=str(error))
                away = True
                continue
            away = False
            if cancel:
                self._stop.request(ExitReason.CANCELLED)

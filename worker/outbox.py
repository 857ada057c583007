"""Ships what lies in the spool: logs while they grow, outcomes until the scheduler acknowledges them.

A thread of each worker's main process. Any worker of a host ships any folder of its spool, one at a time
(`shipping`), so that what a dead worker left goes on its way with the next one.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dcm_processor.errors import TransportUnavailableError
from dcm_processor.logging import get_logger
from dcm_processor.transport import LOG_CHUNK, LOGS, REPORTS, Transport
from worker.spool import AttemptFolder, attempts

log = get_logger()

TICK = 0.25
"""Seconds between two looks at folders that have something to ship."""
IDLE_TICK = 0.5
RESEND_SECONDS = 20.0
"""An outcome not acknowledged for so long is sent again: well before its attempt counts as lost."""
KEEP_SECONDS = 24 * 3600.0
"""A log that nobody takes goes after so long; an outcome never does."""
_REWIND_SECONDS = 15.0
_CHUNKS_A_TURN = 16
_BACKLOG = 64  # reports: with the scheduler away, sending more of the same helps nobody
_AWAY_SECONDS = 2.0
_MOST = 200  # folders at a time: each takes a file descriptor, and a process may have few
_TURN_SECONDS = 30.0  # for which a folder is cared for, where there are more: time to send its outcome again


class Outbox:
    """The thread, and what it knows of each folder it ships."""

    def __init__(self, spool: Path, redis_url: str) -> None:
        self._spool = spool
        self._transport = Transport(redis_url)
        self._shipments: dict[str, Shipment] = {}
        self._last = ""  # that was taken: where there are too many, the others follow by name
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 3.0) -> None:
        """Ship what can be shipped at once, and end; the rest stays for the next worker."""
        self._stopping.set()
        self._thread.join(patience)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the thread holds no lock and is in the middle of nothing: the time to fork."""
        with self._busy:
            yield

    def step(self) -> bool:
        """Look at every folder once; True where there was any.

        Raises TransportUnavailableError.
        """
        names = attempts(self._spool)
        waiting = names - self._shipments.keys()
        for name in sorted(waiting, key=lambda name: (name <= self._last, name)):
            if len(self._shipments) >= _MOST:
                break
            with self._busy:
                self._take(name)
        full = len(self._shipments) >= _MOST
        for name, shipment in list(self._shipments.items()):
            with self._busy:
                done = name not in names or self._ship(shipment) or (full and shipment.had_its_turn())
            if done:
                shipment.release()
                del self._shipments[name]
        return bool(names)

    def _take(self, name: str) -> None:
        if (shipment := Shipment.take(self._spool, name, self._transport)) is not None:
            self._shipments[name], self._last = shipment, name

    @staticmethod
    def _ship(shipment: "Shipment") -> bool:
        try:
            return shipment.ship()
        except OSError as error:  # of this folder; the others can be shipped all the same
            if not shipment.faulty:
                log.error("a folder of the spool cannot be read", attemptId=shipment.attempt_id, why=error.strerror)
            shipment.faulty = True
            return False
        except TransportUnavailableError:
            raise
        except Exception:  # whatever one folder holds, the thread and the other folders go on
            if not shipment.faulty:
                log.exception("a folder of the spool cannot be shipped", attemptId=shipment.attempt_id)
            shipment.faulty = True
            return False

    def _run(self) -> None:
        away = False
        while True:
            last = self._stopping.is_set()
            pause = TICK
            try:
                pause = TICK if self.step() else IDLE_TICK
                if away:
                    log.info("shipping logs and outcomes again")
                    away = False
            except TransportUnavailableError as error:
                if not away:
                    log.warning("logs and outcomes wait in the spool", error=str(error))
                away, pause = True, _AWAY_SECONDS
                for shipment in self._shipments.values():
                    shipment.start_again()
            except OSError as error:
                log.error("the spool cannot be read", why=error.strerror)
                pause = _AWAY_SECONDS
            if last:
                break
            self._stopping.wait(pause)
        for shipment in self._shipments.values():
            shipment.release()


class Shipment:
    """One attempt's folder on its way."""

    def __init__(self, folder: AttemptFolder, lock: int, transport: Transport) -> None:
        self.attempt_id = folder.attempt_id
        self.faulty = False
        self._folder = folder
        self._lock = lock
        self._transport = transport
        self._sent: int | None = None  # bytes of log sent; None: not known what the scheduler has
        self._received = 0
        self._ended_at: float | None = None
        self._size = 0  # bytes of log
        self._moved_at = time.monotonic()  # when the scheduler last had more of the log
        self._look_at = 0.0
        self._pause = TICK
        self._report_at: float | None = None
        self._turn_ends = time.monotonic() + _TURN_SECONDS

    @classmethod
    def take(cls, spool: Path, name: str, transport: Transport) -> "Shipment | None":
        """Care for a folder, unless somebody else does."""
        try:
            lock = os.open(spool / name / "shipping", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None  # gone meanwhile, not ours, or a full disk: the next look tells
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return cls(AttemptFolder(spool, name), lock, transport)

    def had_its_turn(self) -> bool:
        return time.monotonic() > self._turn_ends

    def release(self) -> None:
        """Let somebody else care for the folder."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # a horse forked meanwhile has a copy of the descriptor
        os.close(self._lock)

    def start_again(self) -> None:
        """Redis was away and may have lost what it had: ask, and send again what was not received."""
        self._sent, self._look_at, self._pause = None, 0.0, TICK
        if self._report_at is not None:
            self._report_at = 0.0

    def ship(self) -> bool:
        """Send what is new; True where nothing remains to be done and the folder is gone.

        Raises TransportUnavailableError.
        """
        if self._ended_at is None:
            self._ended_at = self._folder.ended_at()
            self._size = self._log_size()  # after it ended, its log is whole
        self._ship_log()
        if self._ended_at is not None:
            self._ship_outcome(self._ended_at)
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + self._pause
        self._pause = min(self._pause * 1.5, 5.0)
        return self._look()

    def _log_size(self) -> int:
        with contextlib.suppress(OSError):
            return self._folder.log.stat().st_size
        return 0

    def _ship_log(self) -> None:
        if self._sent is None:
            self._received = self._sent = self._transport.log_received(self.attempt_id)
        if self._sent >= self._size:
            return
        with contextlib.suppress(FileNotFoundError), self._folder.log.open("rb") as file:
            file.seek(self._sent)
            for _ in range(_CHUNKS_A_TURN):
                if not self._transport.log_room() or not (chunk := file.read(LOG_CHUNK)):
                    break
                self._transport.send_log(self.attempt_id, self._sent, chunk)
                self._sent += len(chunk)
                self._moved_at = time.monotonic()

    def _ship_outcome(self, ended_at: float) -> None:
        """The horse has sent it once; send it again when that seems lost."""
        now = time.monotonic()
        if self._report_at is None:
            fresh = time.time() - ended_at < RESEND_SECONDS and self._folder.alive()
            self._report_at = now + RESEND_SECONDS if fresh else now + TICK
        if now < self._report_at or self._transport.acknowledged(self.attempt_id):
            return
        self._report_at = now + RESEND_SECONDS
        report = self._folder.outcome()
        if report is not None and self._transport.backlog(REPORTS) < _BACKLOG:
            self._transport.report(report)

    def _look(self) -> bool:
        """See what has arrived; remove the folder where all of it has, or nobody wants it."""
        received = self._transport.log_received(self.attempt_id)
        if received != self._received:
            self._received, self._moved_at = received, time.monotonic()
        sent = self._sent or 0
        waited = time.monotonic() - self._moved_at
        if received < sent and waited > _REWIND_SECONDS and self._transport.backlog(LOGS) == 0:
            self._sent = received  # it was in Redis, and is no more
        if self._ended_at is None and self._folder.alive():
            return False
        acknowledged = self._transport.acknowledged(self.attempt_id)
        if self._ended_at is None:  # whoever ran it died without a word
            acknowledged = acknowledged or self._transport.given_up(self.attempt_id)
        if self._ended_at is not None and not acknowledged:
            return False  # however long the scheduler is away
        if not acknowledged or received < self._size:
            if time.time() - (self._ended_at or self._age()) < KEEP_SECONDS:
                return False
            log.warning("gave up what nobody has asked for: an attempt's log", attemptId=self.attempt_id)
        return self._folder.remove()

    def _age(self) -> float:
        """When anything last happened in a folder without an outcome."""
        return max(entry.stat().st_mtime for entry in os.scandir(self._folder.path))

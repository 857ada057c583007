"""Jobs' logs: chunks that workers ship through Redis become files under LOGS/jobs."""

import os
import threading
from pathlib import Path

from dcm_processor.errors import TransientError
from dcm_processor.identity import split_attempt_id
from dcm_processor.ledger import Ledger, attempts
from dcm_processor.logging import get_logger
from dcm_processor.transport import LOGS, Transport

log = get_logger()

_IDLE_BLOCK_MS = 5000


def log_path(logs: Path, study_id: str, job_id: str, attempt: int) -> Path:
    """Where the log of an attempt lies."""
    return logs / "jobs" / study_id / job_id / f"{attempt}.log"


class LogReceiver(threading.Thread):
    """Takes chunks off the stream, writes each at its offset, and says how much it has: again is harmless."""

    def __init__(self, redis_url: str, ledger: Ledger, logs: Path) -> None:
        super().__init__(name="logs", daemon=True)
        self._transport = Transport(redis_url)
        self._ledger = ledger
        self._logs = logs
        self._stopped = threading.Event()

    def close(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        waiting = False
        while not self._stopped.is_set():
            try:
                self.receive(block_ms=_IDLE_BLOCK_MS)
                waiting = False
            except (TransientError, OSError) as error:
                if not waiting:
                    log.warning("logs cannot be received now", error=str(error))
                waiting = True
                self._stopped.wait(2)
            except Exception:  # the thread's edge: no log may end the receiving of logs
                log.exception("receiving logs failed")
                self._stopped.wait(2)

    def receive(self, *, block_ms: int) -> None:
        """Deal with what is there, waiting up to `block_ms` for the first chunk.

        Raises TransientError where Redis or the ledger cannot be used, OSError where there is no room for a log.
        """
        for entry_id, entry in self._transport.read({LOGS: "0"}, block_ms=block_ms, count=64).get(LOGS, []):
            try:
                attempt_id, offset, chunk = entry["attemptId"].decode(), int(entry["offset"]), entry["chunk"]
            except (KeyError, ValueError):
                log.error("dropped an entry of the log stream that no worker of ours wrote")
                self._transport.drop(LOGS, [entry_id])
                continue
            size = self._take(attempt_id, offset, chunk)
            self._transport.drop(LOGS, [entry_id])  # and then say so: a full Redis gets room by what goes
            if size is not None:
                self._transport.log_taken(attempt_id, size)

    def _take(self, attempt_id: str, offset: int, chunk: bytes) -> int | None:
        """Write a chunk; returns how much of the log is here, None where nobody is to be told.

        One that cannot be written is dropped for the others' sake: its worker sends it again for a day.
        """
        try:
            return self._write(attempt_id, offset, chunk)
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            log.error("a part of a log is dropped: its file cannot be", attemptId=attempt_id, why=error.strerror)
        except (TransientError, OSError):
            raise  # no room, or somebody is away: all wait
        except Exception:
            log.exception("a part of a log is dropped: it cannot be taken", attemptId=attempt_id)
        return None

    def _write(self, attempt_id: str, offset: int, chunk: bytes) -> int | None:
        with self._ledger.read() as db:
            found = attempts.get(db, attempt_id)
        if found is None:
            return None
        job = found[1]
        path = log_path(self._logs, job["study_id"], job["job_id"], split_attempt_id(attempt_id)[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if offset <= size < offset + len(chunk):  # else: had before, or a chunk between is missing and comes again
                file.seek(offset)  # not at the end, wherever that is by now: another leader may have written it since
                file.write(chunk)
                size = offset + len(chunk)
        return size

"""The scanners: they send studies by C-STORE and try again until the archive has all of each."""

import threading
import time
from collections.abc import Callable, Sequence

from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, MRImageStorage  # type: ignore[attr-defined]

from tests.faults.studies import Study

_SUCCESS = 0x0000
_PAUSE = 0.3  # seconds before another association


class Scanner:
    """Sends one study after the other, each once `released` says that its turn has come, some at a time."""

    def __init__(self, port: int, studies: Sequence[Study], lines: int = 3) -> None:
        self.sending = 0
        """Associations that are open now."""
        self.sent: dict[str, float] = {}
        """studyId -> when the archive had all of it, in seconds since the epoch."""
        self.again = 0
        """Instances that had to be sent again."""
        self._port = port
        self._waiting = list(studies)
        self._all = {study.study_id for study in studies}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name=f"scanner {i}", daemon=True) for i in range(lines)]
        self._released: Callable[[Study], bool] = lambda _: True
        self._stopped = threading.Event()

    def start(self, released: Callable[[Study], bool]) -> None:
        self._released = released
        for thread in self._threads:
            thread.start()

    def no_more(self) -> set[str]:
        """Begin no other study; returns the identifiers of those that were begun."""
        with self._lock:
            left = {study.study_id for study in self._waiting}
            self._waiting.clear()
        return self._all - left

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def done(self) -> bool:
        """Whether all studies were sent."""
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (study := self._next()) is not None:
            while not self._released(study) and not self._stopped.is_set():
                time.sleep(0.05)
            others = [threading.Thread(target=self._send, args=(study,)) for _ in range(study.senders - 1)]
            for other in others:
                other.start()
            self._send(study)
            for other in others:
                other.join()
            self.sent[study.study_id] = time.time()

    def _next(self) -> Study | None:
        with self._lock:
            return self._waiting.pop(0) if self._waiting and not self._stopped.is_set() else None

    def _send(self, study: Study) -> None:
        left = list(zip(study.datasets(), study.pauses, strict=True))
        first = True
        while left and not self._stopped.is_set():
            if not first:
                time.sleep(_PAUSE)
                self.again += 1
            first = False
            entity = AE(ae_title="FAULTS")
            entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 5
            for kind in (CTImageStorage, MRImageStorage):
                entity.add_requested_context(kind)
            line = entity.associate("127.0.0.1", self._port, ae_title="DCMPROC")
            if not line.is_established:
                continue
            self.sending += 1
            try:
                while left and not self._stopped.is_set():
                    (_, dataset), pause = left[0]
                    time.sleep(pause)
                    left[0] = (left[0][0], 0.0)
                    if line.send_c_store(dataset).get("Status") != _SUCCESS:
                        break
                    left.pop(0)
            except (RuntimeError, ValueError):  # the association ended meanwhile
                continue
            finally:
                self.sending -= 1
                if line.is_established:
                    line.release()

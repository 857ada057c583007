"""Versions of services that nobody needs any more, deleted while the controller goes on."""

import threading
from collections.abc import Collection

from dcm_processor.errors import ServiceError
from dcm_processor.ledger import Ledger
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings
from dcm_processor.store import Store

log = get_logger()


class VersionCollector:
    """Deletes in a thread of its own: thousands of files take their time, and the lease does not wait."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._store = Store.of(settings)
        self._ledger = ledger
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Have what is not needed now deleted, unless that is going on; raises LedgerUnavailableError."""
        if self._thread is None or not self._thread.is_alive():
            pinned = self._ledger.pinned()
            self._thread = threading.Thread(target=self._collect, args=(pinned,), name="versions", daemon=True)
            self._thread.start()

    def _collect(self, pinned: Collection[tuple[str, str]]) -> None:
        try:
            deleted = self._store.collect(pinned)
        except ServiceError as error:
            log.warning("old versions of services stay for now", error=str(error))
        else:
            if deleted:
                log.info(
                    "old versions of services are deleted", versions=[f"{name} {digest}" for name, digest in deleted]
                )

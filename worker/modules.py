"""A service's module code on this host, by version: installed here, or fetched from the scheduler once."""

from pathlib import Path

from dcm_processor import service_tree
from dcm_processor.errors import NotKnownError, ServiceError, TransientError
from dcm_processor.logging import get_logger
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from worker.environments import locked
from worker.exchange import Exchange

log = get_logger()

_FETCHED = ".fetched"
_LOCK = ".fetch.lock"


def module_folder(settings: Settings, service: str, digest: str) -> Path:
    """The folder of that version; a version that is not here comes from the scheduler into REGISTRY and MODULES.

    Raises ServiceError where the scheduler does not have it either, or sends something else; SchedulerUnavailableError,
    ArchiveCutError, and TransientError where this host cannot take it.
    """
    store = Store.of(settings)
    folder = store.module_folder(service, digest)
    if not folder.is_dir():
        try:
            _fetch(settings, store, service, digest, folder)
        except NotKnownError:
            raise ServiceError(
                f"version {digest} of service {service} is neither in {settings.modules} nor at the scheduler; "
                "install it again, then run the job again: it takes the version of then"
            ) from None
        except OSError as error:
            raise TransientError(
                f"version {digest} of service {service} cannot be kept here: {error.filename or settings.modules}: "
                f"{error.strerror}; a worker needs to write to MODULES and REGISTRY, or to find the version there"
            ) from None
    return folder


def _fetch(settings: Settings, store: Store, service: str, digest: str, folder: Path) -> None:
    """One process of the host at a time; the others then find what it fetched."""
    beside = settings.modules / ".versions"
    beside.mkdir(parents=True, exist_ok=True)
    with locked(beside / _LOCK):
        if folder.is_dir():
            return
        fetched = beside / _FETCHED
        if fetched.exists():  # of a process that was killed
            service_tree.remove(fetched)
        try:
            with Exchange(settings) as exchange:
                exchange.version(service, digest, fetched)
            store.add(service, digest, fetched)
        finally:
            if fetched.exists():
                service_tree.remove(fetched)
    log.info("fetched a version of a service", service=service, digest=digest)

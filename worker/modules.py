"""A service's module code on this host, by version."""

from pathlib import Path

from dcm_processor.errors import ServiceError
from dcm_processor.settings import Settings
from dcm_processor.store import Store


def module_folder(settings: Settings, service: str, digest: str) -> Path:
    """The folder of that version.

    Raises ServiceError where this host does not have it.
    """
    folder = Store.of(settings).module_folder(service, digest)
    if not folder.is_dir():
        raise ServiceError(
            f"version {digest} of service {service} is not in {settings.modules}; install it again, "
            "or rerun the job, which takes the version of today"
        )
    return folder

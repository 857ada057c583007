"""The configuration files of our Redis and Orthanc, as local mode and containers start them; they hold passwords."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcm_processor import basedir, passwords
from dcm_processor.settings import CHECKOUT, Settings

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def write(settings: Settings) -> None:
    """Write the files of those servers that are ours to start; who reads them in a container finds paths of its own."""
    if settings.starts_redis:
        basedir.put_private(settings.redis_conf, redis_conf(settings))
    if settings.starts_orthanc:
        settings.orthanc_json.parent.mkdir(exist_ok=True)
        base = json.loads((CHECKOUT / "orthanc" / "orthanc.json").read_text(encoding="utf-8"))
        basedir.put_private(settings.orthanc_json, orthanc_json(settings, base))


def redis_conf(settings: Settings) -> str:
    """Redis keeps everything on disk, at most a second behind, and refuses writes rather than dropping something."""
    local = settings.MODE == "local"
    return "\n".join(
        [
            "bind 127.0.0.1" if local else "bind * -::*",  # a container's network is its own
            f"port {settings.REDIS_PORT}",
            passwords.requirepass(settings.secret("redis_password")),
            f"dir {passwords.redis_string(str(settings.BASEDIR / 'redis') if local else '/data')}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "set-proc-title no",  # it would overwrite the environment, and with it local mode's mark
            "",
        ]
    )


def orthanc_json(settings: Settings, base: Mapping[str, Any]) -> str:
    """`base` (orthanc/orthanc.json) with what this installation chooses, and with passwords."""
    local = settings.MODE == "local"
    # In a container not below a folder that images keep for a user of their own.
    data = settings.BASEDIR / "orthanc" if local else Path("/orthanc")
    script = CHECKOUT / "orthanc" / "on_stable_study.lua" if local else Path("/etc/orthanc/on_stable_study.lua")
    chosen = {
        "StorageDirectory": str(data / "storage"),
        "IndexDirectory": str(data / "index"),
        "HttpPort": settings.ORTHANC_PORT if local else 8042,
        "DicomPort": settings.DICOM_PORT if local else 4242,
        "DicomAet": settings.DICOM_AET,
        "StableAge": settings.STABLE_AGE,
        "RemoteAccessAllowed": not local or not rest_is_ours_alone(settings),
        "AuthenticationEnabled": True,
        "RegisteredUsers": {user: settings.secret(name) for user, name in passwords.ORTHANC_USERS.items()},
        "LuaScripts": [str(script)],
    }
    return json.dumps({**base, **chosen}, indent=2) + "\n"


def rest_is_ours_alone(settings: Settings) -> bool:
    """Whether a local Orthanc, which listens on every address, answers 401 to all other machines."""
    return settings.BIND_ADDRESS in _LOOPBACK

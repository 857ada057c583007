"""The environment variables that jobs and a service's script.sh get: what they need, and no secret beside it."""

import sys
from collections.abc import Mapping
from pathlib import Path

from dcm_processor.environments import build_network
from dcm_processor.settings import Settings

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def of_job(
    settings: Settings, environ: Mapping[str, str], service: str, environment_bin: Path, tmpdir: Path
) -> dict[str, str]:
    """What a worker function finds in `os.environ`: exactly DESIGN 2, "Environment", and PATH, LANG and TMPDIR.

    `environ` is the worker's own, for PATH and LANG.
    """
    cache = settings.cache / service
    return {
        "DATA": str(settings.data),
        "LOGS": str(settings.logs),
        "MODULES": str(settings.modules),
        "ORTHANC_REST_URL": settings.orthanc_url,
        "ORTHANC_REST_USERNAME": settings.ORTHANC_REST_USERNAME,
        "ORTHANC_REST_PASSWORD": settings.orthanc_password,
        **build_network.of_network(settings),
        "HOME": str(cache),
        "XDG_CACHE_HOME": str(cache / ".cache"),
        "TORCH_HOME": str(cache / "torch"),
        "HF_HOME": str(cache / "huggingface"),
        "PATH": f"{environment_bin}:{environ.get('PATH', _SYSTEM_PATH)}",
        "LANG": environ.get("LANG") or "C.UTF-8",
        "TMPDIR": str(tmpdir),
    }


def of_script(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What a service's script.sh finds: what a build does, and what apt-get and pip want; no Python of ours on PATH."""
    env = build_network.of_build(settings, environ)
    ours = str(Path(sys.prefix) / "bin")
    path = [folder for folder in env.get("PATH", _SYSTEM_PATH).split(":") if folder != ours]
    env |= {"PATH": ":".join(path), "LANG": env.get("LANG") or "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    if settings.PIP_INDEX_URL:
        env["PIP_INDEX_URL"] = settings.PIP_INDEX_URL
    if settings.EXTRA_CA_FILE is not None:
        env["APT_CONFIG"] = str(_apt_conf(settings))  # apt before 3.0 knows no variable for certificates
    return env


def make_ca_bundle(settings: Settings) -> None:
    """Write what jobs and builds trust (dcm_processor/environments/build_network.py), and apt.conf for it.

    Raises OSError where EXTRA_CA_FILE cannot be read or BASEDIR not written.
    """
    build_network.make_ca_bundle(settings)
    if settings.EXTRA_CA_FILE is not None:
        text = f'Acquire::https::CAInfo "{build_network.ca_bundle(settings)}";\n'
        _apt_conf(settings).write_text(text, encoding="utf-8")


def _apt_conf(settings: Settings) -> Path:
    return settings.envs / ".apt.conf"

"""The environment variables that jobs and builds of environments get: what they need, and no secret beside it."""

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from dcm_processor.settings import Settings

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUILD_PREFIXES = ("UV_", "PIP_", "SSL_CERT_", "NETRC")
_OUR_HOSTS = ("localhost", "127.0.0.1", "::1", "orthanc", "scheduler", "redis")


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
        **_network(settings),
        "HOME": str(cache),
        "XDG_CACHE_HOME": str(cache / ".cache"),
        "TORCH_HOME": str(cache / "torch"),
        "HF_HOME": str(cache / "huggingface"),
        "PATH": f"{environment_bin}:{environ.get('PATH', _SYSTEM_PATH)}",
        "LANG": environ.get("LANG") or "C.UTF-8",
        "TMPDIR": str(tmpdir),
    }


def of_build(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What uv, and the build scripts it runs, find: the network's settings, but none of our secrets."""
    env = {key: value for key, value in environ.items() if key.startswith(_BUILD_PREFIXES) and value}
    env |= {key: environ[key] for key in ("PATH", "LANG", "HOME", "XDG_CACHE_HOME", "TMPDIR") if key in environ}
    if not _writable(Path(env.get("HOME", "/"))):  # a container's user has none
        env |= {"HOME": str(settings.envs), "UV_CACHE_DIR": str(settings.envs / ".uv")}
    env |= _network(settings)
    if settings.PIP_INDEX_URL:
        env["UV_DEFAULT_INDEX"] = settings.PIP_INDEX_URL  # here, since it may hold a password
    return env | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}


def of_script(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What a service's script.sh finds: what a build does, and what apt-get and pip want; no Python of ours on PATH."""
    env = of_build(settings, environ)
    ours = str(Path(sys.prefix) / "bin")
    path = [folder for folder in env.get("PATH", _SYSTEM_PATH).split(":") if folder != ours]
    env |= {"PATH": ":".join(path), "LANG": env.get("LANG") or "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    if settings.PIP_INDEX_URL:
        env["PIP_INDEX_URL"] = settings.PIP_INDEX_URL
    if settings.EXTRA_CA_FILE is not None:
        env["APT_CONFIG"] = str(_apt_conf(settings))  # apt before 3.0 knows no variable for certificates
    return env


def make_ca_bundle(settings: Settings) -> None:
    """Write what jobs and builds trust, this system's certificates and those of EXTRA_CA_FILE; and apt.conf for them.

    Raises OSError where EXTRA_CA_FILE cannot be read or BASEDIR not written.
    """
    if settings.EXTRA_CA_FILE is None:
        return
    known = ssl.get_default_verify_paths().cafile
    bundle = Path(known if known and Path(known).is_file() else DEFAULT_CA_BUNDLE_PATH).read_bytes()
    target = _ca_bundle(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".new")
    partial.write_bytes(bundle.rstrip() + b"\n" + settings.EXTRA_CA_FILE.read_bytes())
    partial.replace(target)
    _apt_conf(settings).write_text(f'Acquire::https::CAInfo "{target}";\n', encoding="utf-8")


def _ca_bundle(settings: Settings) -> Path:
    return settings.envs / ".ca-bundle.pem"


def _apt_conf(settings: Settings) -> Path:
    return settings.envs / ".apt.conf"


def _network(settings: Settings) -> dict[str, str]:
    """Proxies (never for our own hosts), certificates and time zone, in the spellings that tools know."""
    found: dict[str, str] = {}
    if settings.HTTP_PROXY or settings.HTTPS_PROXY:
        hosts = [settings.NO_PROXY, *_OUR_HOSTS, urlsplit(settings.orthanc_url).hostname, settings.SCHEDULER_HOST]
        proxies = {
            "HTTP_PROXY": settings.HTTP_PROXY,
            "HTTPS_PROXY": settings.HTTPS_PROXY,
            "NO_PROXY": ",".join(dict.fromkeys(host for host in hosts if host)),
        }
        for key, value in proxies.items():
            if value:
                found |= {key: value, key.lower(): value}
    if settings.EXTRA_CA_FILE is not None:
        found["EXTRA_CA_FILE"] = str(settings.EXTRA_CA_FILE)
        for key in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"):
            found[key] = str(_ca_bundle(settings))
    if settings.TZ:
        found["TZ"] = settings.TZ
    return found


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)

"""What uv, and the build scripts that it runs, find in their environment: proxies, index, certificates; no secret.

An install (which locks requirements) and the workers (which install them) share it.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from dcm_processor.settings import Settings

_BUILD_PREFIXES = ("UV_", "PIP_", "SSL_CERT_", "NETRC")
_OUR_HOSTS = ("localhost", "127.0.0.1", "::1", "orthanc", "scheduler", "redis")


def of_build(settings: Settings, environ: Mapping[str, str], *, site_index: bool = True) -> dict[str, str]:
    """What uv, and the build scripts it runs, find: the network's settings, but none of our secrets.

    `environ` is this process's own. Without `site_index` PIP_INDEX_URL stays out: what is built names its own index.
    """
    env = {key: value for key, value in environ.items() if key.startswith(_BUILD_PREFIXES) and value}
    env |= {key: environ[key] for key in ("PATH", "LANG", "HOME", "XDG_CACHE_HOME", "TMPDIR") if key in environ}
    if not _writable(Path(env.get("HOME", "/"))):  # a container's user has none
        env |= {"HOME": str(settings.envs), "UV_CACHE_DIR": str(settings.envs / ".uv")}
    env |= of_network(settings)
    if settings.PIP_INDEX_URL and site_index:
        env["UV_DEFAULT_INDEX"] = settings.PIP_INDEX_URL  # here, since it may hold a password
    return env | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}


def of_network(settings: Settings) -> dict[str, str]:
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
            found[key] = str(ca_bundle(settings))
    if settings.TZ:
        found["TZ"] = settings.TZ
    return found


def make_ca_bundle(settings: Settings) -> None:
    """Write what jobs and builds trust, this system's certificates and those of EXTRA_CA_FILE, if that is set.

    Raises OSError where EXTRA_CA_FILE cannot be read or BASEDIR not written.
    """
    if settings.EXTRA_CA_FILE is None:
        return
    known = ssl.get_default_verify_paths().cafile
    bundle = Path(known if known and Path(known).is_file() else DEFAULT_CA_BUNDLE_PATH).read_bytes()
    target = ca_bundle(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    partial.write_bytes(bundle.rstrip() + b"\n" + settings.EXTRA_CA_FILE.read_bytes())
    partial.replace(target)


def ca_bundle(settings: Settings) -> Path:
    """Where `make_ca_bundle` writes."""
    return settings.envs / ".ca-bundle.pem"


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)

"""A TLS-intercepting proxy in a container, with an authority that only the test knows."""

import re
import subprocess
from functools import cache
from pathlib import Path

from pip._internal.models.index import PyPI

from dcm_processor.settings import CHECKOUT
from tests.containers import tls_proxy
from tests.containers.stack import docker
from tests.waiting import wait_until

IMAGE = "python:3.13-slim-trixie"


@cache
def debian() -> str:
    """The host that the image gets Debian's packages from."""
    sources = docker("run", "--rm", IMAGE, "sh", "-c", "cat /etc/apt/sources.list /etc/apt/sources.list.d/* || true")
    found = re.search(r"https?://([^/\s]+)", sources)
    assert found is not None, sources
    return found[1]


def hosts() -> tuple[str, ...]:
    """Whatever is reached through the proxy."""
    return PyPI.netloc, PyPI.file_storage_domain, debian(), tls_proxy.MIRROR


class Proxy:
    """Runs until `stop`; `folder` is where it writes what it saw."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.wheels = folder / "wheels"
        self.wheels.mkdir(parents=True)
        self.authority = folder / "ca.crt"
        self._make_certificates()
        program = CHECKOUT / "tests" / "containers" / "tls_proxy.py"
        self.container = docker(
            "run", "--detach", "--rm", "--volume", f"{folder}:/proxy", "--volume", f"{program}:/tls_proxy.py:ro", IMAGE,
            "python3", "/tls_proxy.py",
        ).strip()  # fmt: skip
        wait_until((folder / "log").exists, 30, "the proxy")

    def url(self, host: str | None = None) -> str:
        """With user and password; `host` is its name where it has one, else it is where builds of images reach it."""
        host = host or docker("inspect", "--format", "{{.NetworkSettings.Networks.bridge.IPAddress}}", self.container)
        return f"http://{tls_proxy.USER}:{tls_proxy.PASSWORD}@{host.strip()}:{tls_proxy.PORT}"

    @property
    def mirror(self) -> str:
        """A mirror of PyPI, which only the proxy reaches."""
        return f"https://{tls_proxy.MIRROR_USER}:{tls_proxy.MIRROR_PASSWORD}@{tls_proxy.MIRROR}/simple"

    def seen(self) -> list[str]:
        """`METHOD URL STATUS` of each request so far."""
        return (self._folder / "log").read_text().splitlines()

    def stop(self) -> None:
        docker("rm", "--force", self.container)

    def _make_certificates(self) -> None:
        authority, leaf = self.authority, self._folder / "leaf.crt"
        keys = {certificate: str(certificate.with_suffix(".key")) for certificate in (authority, leaf)}
        names = ",".join(f"DNS:{host}" for host in hosts())
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2"]
        for certificate, further in (
            (authority, ["-subj", "/CN=the hospital's own", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]),
            (leaf, ["-subj", "/CN=intercepted", "-addext", f"subjectAltName={names}",
                    "-addext", "basicConstraints=critical,CA:FALSE", "-CA", str(authority), "-CAkey", keys[authority]]),
        ):  # fmt: skip
            call = [*make, "-keyout", keys[certificate], "-out", str(certificate), *further]
            subprocess.run(call, capture_output=True, check=True)

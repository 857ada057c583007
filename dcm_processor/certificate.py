"""The certificate that other hosts know this one by: made once, unless there is one of the site's own."""

import re
import subprocess
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from dcm_processor import basedir
from dcm_processor.errors import SettingsError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63})*")
_DAYS = "3650"


def make(folder: Path, names: Sequence[str]) -> None:
    """Have `server.crt` and `server.key` (PEM) in a folder, for these host names and IP addresses; what is there stays.

    It is its own authority: who is to trust it gets a copy of server.crt as EXTRA_CA_FILE. Raises SettingsError for
    what is no name, where only one of the two files is there, and where none can be made.
    """
    certificate, key = folder / "server.crt", folder / "server.key"
    if certificate.exists() != key.exists():
        raise SettingsError(f"{folder} holds only one of server.crt and server.key; add the other, or delete it")
    if certificate.exists():
        return
    alternatives = ",".join(_alternative(name) for name in names)
    new_certificate, new_key = folder / "server.crt.new", folder / "server.key.new"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in (new_certificate, new_key):  # of a start that was killed
            unfinished.unlink(missing_ok=True)
        _openssl(alternatives, new_certificate, new_key)
        new_key.chmod(0o600)
        new_key.rename(key)
        new_certificate.rename(certificate)
    except OSError as error:
        raise basedir.unusable(folder, error) from None


def _openssl(alternatives: str, certificate: Path, key: Path) -> None:
    extensions = (
        f"subjectAltName={alternatives}",
        "basicConstraints=critical,CA:TRUE,pathlen:0",
        "keyUsage=critical,digitalSignature,keyCertSign",
        "extendedKeyUsage=serverAuth",
    )
    call = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-sha256"]
    call += ["-days", _DAYS, "-subj", "/CN=dcm-processor", "-keyout", str(key), "-out", str(certificate)]
    call += [word for extension in extensions for word in ("-addext", extension)]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SettingsError(f"openssl is missing, to make {certificate.parent}/server.crt; install it") from None
    if done.returncode != 0:
        why = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise SettingsError(f"openssl could not make a certificate: {why}")


def _alternative(name: str) -> str:
    """A name as a subjectAltName has it (RFC 5280, 4.2.1.6)."""
    try:
        return f"IP:{ip_address(name)}"
    except ValueError:
        if not _HOST.fullmatch(name):
            raise SettingsError(f"TLS_NAMES: {name!r} is neither a host's name nor an IP address") from None
        return f"DNS:{name}"

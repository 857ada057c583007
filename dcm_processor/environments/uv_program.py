"""uv: where it is, which interpreters it finds on this host, and what it says when it fails."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from dcm_processor.errors import ServiceError

_PATIENCE = 60.0  # seconds, to look for interpreters
# What uv (exit status 2) says of a network or a disk that fails; read in its output, as its status does not tell.
_PASSING = re.compile(
    r"Request failed after|error sending request|HTTP status server error|429 Too Many Requests"
    r"|error reading a body|timed out|No space left on device|Disk quota exceeded",
)
_UNTRUSTED = "invalid peer certificate"
_ERROR = re.compile(r"^error: (.*)((?:\n  cause: .*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """Why uv failed, in one line; `passing` where it may work later: the network, an index or the disk failed."""

    message: str
    passing: bool


def binary() -> str:
    """The path of uv, of the package of that name or on PATH.

    Raises ServiceError where there is none.
    """
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - an image may have come without it

        return os.fsdecode(find_uv_bin())
    except (ImportError, FileNotFoundError):
        if (found := shutil.which("uv")) is not None:
            return found
    raise ServiceError("uv, which makes the environments of services, is not here; install it: `pip install uv`")


def failure(status: int, said: str) -> Failure:
    """What uv's last words come to."""
    message = f"uv: exit status {status}"
    for what, causes in _ERROR.findall(said):
        why = causes.split("\n  cause: ")[1:]
        message = ": ".join([what, *why[:1], *why[1:][-1:]])
    if _UNTRUSTED in said:
        message += "; name the authority that signed it (of a proxy that opens TLS?) by EXTRA_CA_FILE in .env.local"
    return Failure(message, status == 2 and _PASSING.search(said) is not None)


def find_python(version: str, env: Mapping[str, str]) -> str:
    """The path of an interpreter of that version ("3.12", "3.12.4") that is installed on this host.

    Raises ServiceError that says which there are.
    """
    done = _run(env, "python", "find", "--no-project", "--system", version)
    if done is not None and done.returncode == 0:
        return done.stdout.strip()
    there = ", ".join(installed_pythons(env))
    raise ServiceError(
        f"Python {version}, which pythonVersion in settings.json asks for, is not on this host; "
        f"{f'there are {there}' if there else 'uv finds none'}: install it, or ask for another one"
    )


def installed_pythons(env: Mapping[str, str]) -> list[str]:
    """The versions of the interpreters of this host, newest first."""
    done = _run(env, "python", "list", "--only-installed", "--offline", "--output-format", "json")
    try:
        found = {str(each["version"]) for each in json.loads(done.stdout if done is not None else "[]")}
    except (ValueError, TypeError, KeyError):
        return []
    return sorted(found, key=lambda text: [int(number) for number in re.findall(r"\d+", text)], reverse=True)


def _run(env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """uv's answer, or None where it took too long."""
    try:
        return subprocess.run(
            [binary(), *arguments],
            env=dict(env), capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None

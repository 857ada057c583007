"""Who may do what: bearer tokens (RFC 6750), one a file in BASEDIR/secrets.

A token's file is read again when it changes, so a rotated token holds from the next request on. A missing or empty file
grants nothing. Every address needs a right unless its operation says otherwise (`scheduler/api/operation.py`).
"""

import hmac
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from flask import request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

from dcm_processor.logging import get_logger

_log = get_logger(__name__)


class Right(StrEnum):
    """What a token may be good for."""

    HOOK = "hook"  # say that a study is stable
    API = "api"  # everything under /api/v1
    WORKER = "worker"  # what travels to and from workers of other hosts
    RESULTS = "results"  # the files that jobs left


GRANTS: Mapping[str, frozenset[Right]] = {
    "hook_token": frozenset({Right.HOOK}),
    "worker_token": frozenset({Right.WORKER, Right.RESULTS}),
    "scheduler_token": frozenset({Right.HOOK, Right.API, Right.RESULTS}),
}
"""The secrets that are tokens, and the rights of whoever holds one."""


@dataclass(frozen=True)
class _Read:
    """What a token's file held, and what the file looked like then."""

    seen: tuple[int, int, int] | None = None
    digest: bytes | None = None


class Tokens:
    """The tokens in a folder of secrets."""

    def __init__(self, folder: Path) -> None:
        self._paths = {name: folder / name for name in GRANTS}
        self._read = dict.fromkeys(GRANTS, _Read())
        self._lock = threading.Lock()

    def rights(self, token: str) -> frozenset[Right] | None:
        """What the holder of `token` may do, or None: it is none of ours.

        Takes the same time for any wrong token.
        """
        offered = sha256(token.encode("utf-8", "surrogateescape")).digest()
        granted: frozenset[Right] | None = None
        for name, path in self._paths.items():
            known = self._digest(name, path)
            if hmac.compare_digest(offered, known or bytes(len(offered))):
                granted = (granted or frozenset()) | GRANTS[name]
        return granted

    def _digest(self, name: str, path: Path) -> bytes | None:
        try:
            status = os.stat(path)  # noqa: PTH116 - on the hook's path, where Path.stat costs twice as much
        except OSError:
            return None
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._read[name].seen == seen:
            return self._read[name].digest
        with self._lock:
            try:
                text = path.read_bytes().strip()
            except OSError as error:
                _log.warning("a token cannot be read", secret=name, reason=error.strerror)
                text = b""
            self._read[name] = _Read(seen, sha256(text).digest() if text else None)
            return self._read[name].digest


def require(right: Right, tokens: Tokens) -> None:
    """Let the current request pass only if its token has `right`.

    Raises Unauthorized (no token, or none of ours) or Forbidden (a token for something else).
    """
    authorization = request.authorization
    token = authorization.token if authorization is not None and authorization.type == "bearer" else None
    if not token:
        raise Unauthorized(
            "This needs a token: send `Authorization: Bearer …` with the text of BASEDIR/secrets/scheduler_token",
            www_authenticate=_challenge(),
        )
    granted = tokens.rights(token)
    if granted is None:
        raise Unauthorized(
            "The token is none of this installation's; it may have been rotated since you read it",
            www_authenticate=_challenge(error="invalid_token"),
        )
    if right not in granted:
        raise Forbidden(f"The token does not give the right `{right}`; use that of BASEDIR/secrets/scheduler_token")


def _challenge(**parameters: str) -> WWWAuthenticate:
    return WWWAuthenticate("bearer", {"realm": "dcm-processor", **parameters})

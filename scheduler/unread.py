"""What a refused request still sends: thrown away after the answer, so that the client gets to read the answer.

A server that closes while a client is still sending resets the connection, and the answer is lost with it (RFC 9112
section 9.6). Nothing of the body is kept, and whoever sends more than LIMIT or takes longer than SECONDS is cut off.
"""

import socket
import time
from contextlib import suppress
from typing import Any

from flask import Response, request

LIMIT = 32 * 1024 * 1024
"""Bytes thrown away at most."""
SECONDS = 2.0
_SMALL = 32 * 1024  # gunicorn takes what is left of a body itself, up to 64 kB
_CHUNK = 64 * 1024


def discard_body(response: Response) -> Response:
    """Have the rest of a large body thrown away once a refusal has been sent; for `Flask.after_request`."""
    announced = request.content_length
    large = announced > _SMALL if announced is not None else "chunked" in request.headers.get("Transfer-Encoding", "")
    if response.status_code >= 400 and large:
        environ = request.environ
        response.call_on_close(lambda: _discard(environ))
    return response


def _discard(environ: dict[str, Any]) -> None:
    body, connection = environ["wsgi.input"], environ.get("gunicorn.socket")
    deadline, taken = time.monotonic() + SECONDS, 0
    with suppress(OSError):  # too slow, or gone
        while taken < LIMIT and (left := deadline - time.monotonic()) > 0:
            if connection is not None:
                connection.settimeout(left)
            chunk = body.read(_CHUNK)
            if not chunk:
                return
            taken += len(chunk)
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # else gunicorn would wait for the rest in its turn

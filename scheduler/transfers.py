"""Archives on their way from or to workers of other hosts: a few at a time, block by block, and never for ever.

Each holds a thread of the server as long as it takes, minutes perhaps. gunicorn's `timeout` does not cut it: that is
about the process, whose main thread gives its sign of life meanwhile. So there must always be threads left for the
hook, and a host that falls silent is cut off.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from flask import Response, request
from werkzeug.exceptions import HTTPException

from dcm_processor.archives.archive import BLOCK, MEDIA_TYPE
from dcm_processor.errors import ArchiveCutError, TransientError

AT_ONCE = 8
SILENCE = 120.0
"""Seconds without a byte after which the other side counts as gone."""


class Transfers:
    """The places that archives may take."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = threading.BoundedSemaphore(at_once)

    @contextmanager
    def receiving(self) -> Iterator[Iterator[bytes]]:
        """The current request's body while it comes; reading it raises ArchiveCutError where it ends early.

        Raises TransientError where all places are taken.
        """
        self._take_place()
        try:
            yield _body()
        finally:
            self._free.release()

    def sending(self, blocks: Iterable[bytes]) -> Response:
        """A response of these blocks.

        Raises TransientError where all places are taken.
        """
        self._take_place()
        place = ExitStack()  # closed twice it does nothing more
        place.callback(self._free.release)
        response = Response(blocks, content_type=MEDIA_TYPE)
        response.call_on_close(place.close)
        return response

    def _take_place(self) -> None:
        if not self._free.acquire(blocking=False):
            raise TransientError("as many files travel as can at once; try again in a few seconds")
        if (connection := request.environ.get("gunicorn.socket")) is not None:
            connection.settimeout(SILENCE)  # gunicorn itself lifts it before the connection's next request


def _body() -> Iterator[bytes]:
    try:
        while block := request.stream.read(BLOCK):
            yield block
    except HTTPException:
        raise
    except Exception as error:  # noqa: BLE001 - the server has a dozen names for it
        raise ArchiveCutError(f"the other side broke off ({type(error).__name__})") from None

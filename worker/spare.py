"""The next work-horse: forked before its attempt comes, so that the fork is no part of a job's start."""

import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from dcm_processor.logging import get_logger

log = get_logger()

Become = Callable[[dict[str, Any]], None]
_LONGEST = 1 << 16  # bytes of what an attempt is handed over by: some names
QUIET = 0.05
"""Seconds without an attempt after which there is time to settle."""


class Spare:
    """A child of this process that waits to be told what it runs.

    `become` is what it does with that, and need not end the process; `prepare`, what it does before; `settle`, what it
    does besides where nothing comes at once: of a busy worker's jobs each would wait for that. It ends by itself when
    nothing is handed over any more: at `close`, or at the end of this process.
    """

    def __init__(self, prepare: Callable[[], None], settle: Callable[[], object], become: Become) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._connection.close()
            _live(theirs, prepare, settle, become)
        theirs.close()

    def take(self, what: dict[str, Any]) -> bool:
        """Hand something over, once; False where the process has ended before."""
        try:
            self._connection.send(json.dumps(what).encode())
        except OSError:
            return False
        finally:
            self._connection.close()
        return True

    def close(self) -> None:
        """End it, and take leave of it."""
        self._connection.close()
        os.kill(self.pid, signal.SIGKILL)  # it has nothing to lose, and may stand still
        os.waitpid(self.pid, 0)


def _live(
    connection: socket.socket, prepare: Callable[[], None], settle: Callable[[], object], become: Become
) -> NoReturn:
    try:
        prepare()
        with connection:
            connection.settimeout(QUIET)
            try:
                data = connection.recv(_LONGEST)
            except TimeoutError:
                settle()
                connection.settimeout(None)
                data = connection.recv(_LONGEST)
        if data:
            become(json.loads(data))
        os._exit(0)
    except Exception as error:  # noqa: BLE001 - the process's edge
        log.error("a work-horse failed before it ran anything", error=type(error).__name__)
    finally:
        os._exit(1)

"""A thread's own connection to Redis, for the commands that a job's successor waits for.

redis-py's client fetches a connection from its pool, packs, sends, reads, looks for what else might be wanted and gives
it back: that takes longer than Redis does (docs/adr/0014). It still makes the connection, and says what is wrong.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import hiredis
import redis

Command = tuple[str | bytes | int | float, ...]

_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # as it says itself, of one word


_FRESH = 30.0
"""Seconds after which a connection that nobody used is left to the pool, which tries it first."""


class _Kept(threading.local):
    connection: Any = None
    used_at = 0.0


class Line:
    """One connection of the client's pool for each thread that asks."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._kept = _Kept()

    def ask(self, *commands: Command) -> list[Any]:
        """What Redis answers to commands that are sent together, as it stands in RESP.

        Raises what redis-py does; which of the commands Redis took is then not known. They may reach it twice: a
        connection that was closed meanwhile is found out by what is sent through it, and that is sent again by another.
        """
        packed = [b"".join(map(_pack, commands))]
        if self._kept.connection is not None:
            with suppress(redis.ConnectionError, redis.TimeoutError):
                return self._ask(packed, len(commands))
        return self._ask(packed, len(commands))

    def _ask(self, packed: list[bytes], number: int) -> list[Any]:
        own = self._own()
        connection = own or self._pool.get_connection()
        try:
            connection.send_packed_command(packed, check_health=own is None)
            answers = [connection.read_response() for _ in range(number)]
        except BaseException:
            connection.disconnect()  # what else was to be answered is not to be taken for an answer to something else
            self._pool.release(connection)
            raise
        self._kept.connection, self._kept.used_at = connection, time.monotonic()
        return answers

    def _own(self) -> Any:
        """The thread's connection, unless it is to be tried before it is used."""
        connection, self._kept.connection = self._kept.connection, None
        if connection is None or connection.pid != os.getpid():  # a fork's parent has its own answers there
            return None
        if time.monotonic() > self._kept.used_at + _FRESH:
            self._pool.release(connection)
            return None
        return connection

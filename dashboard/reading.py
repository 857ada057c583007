"""A Redis client that only reads: whatever a page's code would change, Redis is left as it is."""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dcm_processor.redis_connection import connect_as

TIMEOUT = 5.0
"""Seconds to wait for Redis."""

_READS = frozenset(
    {"EXISTS", "GET", "HGET", "HGETALL", "HMGET", "INFO", "LLEN", "LPOS", "LRANGE", "PING", "SCARD", "SISMEMBER"}
    | {"SMEMBERS", "TIME", "TTL", "TYPE", "XRANGE", "XREVRANGE", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE"}
    | {"ZREVRANGE", "ZSCORE"}
)
_TIDYING = frozenset({"LREM", "SREM", "ZREM", "ZREMRANGEBYSCORE"})


class ChangeRefusedError(Exception):
    """A command that changes Redis was given to a client that only reads."""


class ReadingRedis(redis.Redis):
    """For pages that look at RQ.

    RQ tidies up while it reads: fetching a job that is gone takes its id out of the queue's list, listing workers takes
    out dead ones. Here such a removal is answered "removed nothing", so that looking never changes what is looked at.
    Any other command that is not known to only read raises ChangeRefusedError.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if _tidies(args):
            return 0
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> "redis.client.Pipeline":
        return _ReadingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def client(url: str) -> ReadingRedis:
    """The client of all pages."""
    return connect_as(
        ReadingRedis,
        url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )


class _ReadingPipeline(redis.client.Pipeline):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        # Also in a pipeline a removal has to answer 0, in its place: no key has the empty name.
        command = ("EXISTS", "") if _tidies(args) else args
        return super().execute_command(*command, **options)  # type: ignore[no-untyped-call]


def _tidies(args: tuple[Any, ...]) -> bool:
    """Whether the command is one of RQ's removals; raises ChangeRefusedError where it is another change."""
    name = str(args[0]).upper().partition(" ")[0]
    if name not in _READS and name not in _TIDYING:
        raise ChangeRefusedError(f"{name} may change Redis, and this client only reads")
    return name in _TIDYING

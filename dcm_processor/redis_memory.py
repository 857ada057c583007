"""What Redis says of its memory (INFO): whether it may evict keys, which a transport must not, and whether it has."""

from dataclasses import dataclass

import redis

KEEPS = "noeviction"
"""The one `maxmemory-policy` under which a full Redis refuses, instead of forgetting what it took."""


@dataclass(frozen=True)
class Memory:
    """`limit` in bytes, 0: none; `evicted`: keys since the server was started."""

    limit: int
    policy: str
    evicted: int

    @property
    def evicts(self) -> bool:
        """Whether keys vanish when the limit is reached."""
        return self.limit > 0 and self.policy != KEEPS


def read(client: redis.Redis) -> Memory | None:
    """What the server says; None where this user may not ask. Raises redis.RedisError where it does not answer."""
    try:
        told = client.info()
    except redis.ResponseError:
        return None
    return Memory(
        int(told.get("maxmemory", 0)), str(told.get("maxmemory_policy", KEEPS)), int(told.get("evicted_keys", 0))
    )

"""Whether the scheduler can do its work: ledger and Redis take writes; and what will be trouble, though it can."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import redis

from dcm_processor import redis_memory
from dcm_processor.completeness import Rule
from dcm_processor.errors import DcmProcessorError, RulesError
from dcm_processor.logging import get_logger
from dcm_processor.transport import PREFIX, reason

OK = "ok"
EVICTS = "forgets what it took when it is full: set its maxmemory-policy to noeviction"
PATIENCE = 1.5
"""Seconds for the ledger's answer: a database that hangs says nothing."""

_log = get_logger(__name__)


class CanBeChecked(Protocol):
    """What readiness needs of the ledger."""

    def check(self) -> None:
        """Raises DcmProcessorError where it cannot be written."""


class Readiness:
    """The last look at ledger and Redis; one look serves everybody for `seconds`, since anybody may ask."""

    def __init__(
        self,
        ledger: CanBeChecked,
        redis: redis.Redis,
        rules: Callable[[], Sequence[Rule]] = lambda: (),
        *,
        seconds: float = 1.0,
    ) -> None:
        """`rules`: those of completeness; raises RulesError where they cannot be read."""
        self._ledger = ledger
        self._rules = rules
        self._redis = redis
        self._seconds = seconds
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._checks: dict[str, str] = {}
        self._warnings: dict[str, str] = {}

    def checks(self) -> dict[str, str]:
        """`ledger`, `redis`: `ok`, or what is wrong in words that give nothing away."""
        self._look()
        return self._checks

    def warnings(self) -> dict[str, str]:
        """What is wrong, though the scheduler is ready.

        `completeness`: its rules cannot be used, so that studies wait; `redis`: it evicts keys when it is full.
        """
        self._look()
        return self._warnings

    def _look(self) -> None:
        with self._lock:
            if self._looked_at is None or time.monotonic() - self._looked_at > self._seconds:
                self._checks = {"ledger": self._check_ledger(), "redis": self._check_redis()}
                self._warnings = self._check_rules() | self._check_policy()
                self._looked_at = time.monotonic()

    def _check_ledger(self) -> str:
        look = self._looker.submit(self._ledger.check)
        try:
            look.result(PATIENCE)
        except (DcmProcessorError, TimeoutError) as error:
            look.cancel()
            _log.warning("the ledger is not ready", reason=str(error) or f"no answer within {PATIENCE} s")
            return "cannot be written"
        return OK

    def _check_redis(self) -> str:
        """Ask for a write that does nothing, since there never is such a key: a full Redis refuses it all the same."""
        try:
            self._redis.set(PREFIX + "nothing", "", xx=True)
        except redis.RedisError as error:
            _log.warning("Redis is not ready", reason=reason(error))
            return "takes nothing" if isinstance(error, redis.ResponseError) else "does not answer"
        return OK

    def _check_policy(self) -> dict[str, str]:
        if self._checks["redis"] != OK:
            return {}
        try:
            memory = redis_memory.read(self._redis)
        except redis.RedisError:  # just now it answered; the next look tells
            return {}
        return {"redis": EVICTS} if memory is not None and memory.evicts else {}

    def _check_rules(self) -> dict[str, str]:
        look = self._looker.submit(self._rules)
        try:
            look.result(PATIENCE)
        except (RulesError, TimeoutError) as error:
            look.cancel()
            _log.warning("the rules of completeness cannot be used", reason=str(error) or "no answer in time")
            return {"completeness": "the rules cannot be used; studies wait"}
        return {}

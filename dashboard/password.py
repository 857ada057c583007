"""The one user's password: compared in constant time, slowed down after wrong ones, and what signs the sessions."""

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from enum import Enum

USER = "admin"

FIRST_DELAY = 0.25
"""Seconds an address waits after its first wrong password; each further one doubles it."""
LONGEST_DELAY = 2.0
FORGET_AFTER = 600.0
"""Seconds without a wrong password after which an address starts afresh."""
LANES = 2
"""Waiting logins at a time: they hold threads of a small pool, which pages need too."""
REMEMBERED = 1024
"""Addresses kept in memory; the one that has been quiet longest goes first."""

_ROUNDS = 600_000  # of PBKDF2-HMAC-SHA-256: a cookie shown to anybody must be no shortcut to guessing a short password
_PURPOSE = b"dcm-processor dashboard: session signing key"


class Answer(Enum):
    """What came of a login."""

    RIGHT = "right"
    WRONG = "wrong"
    BUSY = "busy"  # not looked at: too many logins wait already


class Gatekeeper:
    """Judges user and password.

    `password` is asked each time, so that a rotated password is in force at once, for log-ins and for sessions.
    Nobody is ever locked out: an address with wrong passwords waits a little before each further try.
    """

    def __init__(
        self,
        password: Callable[[], str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._password = password
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes = threading.BoundedSemaphore(LANES)
        self._wrong: dict[str, tuple[int, float]] = {}  # address -> how many, when last
        self._derived: tuple[str, bytes] = ("", b"")

    def judge(self, user: str, password: str, address: str) -> Answer:
        """Whether this user with this password may look; takes its time where `address` was wrong before."""
        wrong = self._wrong_so_far(address)
        if not wrong:
            return self._judge(user, password, address)
        if not self._lanes.acquire(blocking=False):
            return Answer.BUSY
        try:
            self._sleep(min(FIRST_DELAY * 2 ** min(wrong - 1, 10), LONGEST_DELAY))
            return self._judge(user, password, address)
        finally:
            self._lanes.release()

    def session_key(self) -> bytes:
        """The key that signs sessions, derived from the password: rotating it ends them all."""
        password = self._password()
        if self._derived[0] != password:
            self._derived = (password, hashlib.pbkdf2_hmac("sha256", password.encode(), _PURPOSE, _ROUNDS))
        return self._derived[1]

    def _judge(self, user: str, password: str, address: str) -> Answer:
        right = _same(user, USER) & _same(password, self._password())  # no short cut: both are always compared
        with self._lock:
            count, _ = self._wrong.pop(address, (0, 0.0))
            if not right:
                self._wrong[address] = (count + 1, self._clock())
                while len(self._wrong) > REMEMBERED:
                    del self._wrong[next(iter(self._wrong))]
        return Answer.RIGHT if right else Answer.WRONG

    def _wrong_so_far(self, address: str) -> int:
        with self._lock:
            count, last = self._wrong.get(address, (0, 0.0))
            if count and self._clock() - last > FORGET_AFTER:
                del self._wrong[address]
                return 0
            return count


def _same(given: str, wanted: str) -> bool:
    """Compared as digests, so that the time tells neither content nor length."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, wanted))
    return hmac.compare_digest(*digests)

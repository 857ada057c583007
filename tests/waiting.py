"""Bounded waits on conditions.

A condition that is costly to look at, as one that asks a server, is looked at less often: what is waited for needs the
machine as well.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_REST = 3.0
"""Times as long as it took to look at the condition nothing is looked at, 0.5 s at most."""


def wait_until(condition: Callable[[], T], seconds: float = 10, what: str = "", *, every: float = 0.02) -> T:
    """Return the condition's first true value; fail after `seconds`, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}; last value {value!r}")
        time.sleep(max(every, min(_REST * (now - began), 0.5)))  # the interval of the poll itself

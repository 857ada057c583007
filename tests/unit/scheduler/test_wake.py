"""Waking the controller: no caller ever waits, and nothing is repeated without need."""

import threading
import time
from collections.abc import Iterator

import pytest

from dcm_processor.errors import TransportUnavailableError
from scheduler.wake import Waker
from tests.waiting import wait_until


class FakeTransport:
    """Takes wakes while `up`; `free` holds back whoever wakes, as a hanging Redis does."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refused = 0
        self.up = True
        self.free = threading.Event()
        self.free.set()

    def wake(self, reason: str) -> None:
        self.free.wait(10)
        if not self.up:
            self.refused += 1
            raise TransportUnavailableError("away")
        self.taken.append(reason)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def waker(transport: FakeTransport) -> Iterator[Waker]:
    made = Waker(transport, pause=0.05)
    yield made
    transport.free.set()
    made.close()


def test_the_controller_is_woken_with_the_reason(transport: FakeTransport, waker: Waker) -> None:
    waker.wake("stable")
    wait_until(lambda: transport.taken == ["stable"], 5, "woken")


def test_a_hanging_redis_keeps_nobody_waiting_and_many_wishes_become_one(
    transport: FakeTransport, waker: Waker
) -> None:
    transport.free.clear()
    began = time.monotonic()
    for _ in range(1000):
        waker.wake("stable")
    assert time.monotonic() - began < 1
    transport.free.set()
    wait_until(lambda: transport.taken, 5, "woken")
    assert len(transport.taken) <= 2


def test_a_wish_is_kept_until_redis_is_back(transport: FakeTransport, waker: Waker) -> None:
    transport.up = False
    waker.wake("stable")
    wait_until(lambda: transport.refused >= 3, 5, "tried again and again")
    transport.up = True
    wait_until(lambda: transport.taken == ["stable"], 5, "woken in the end")


def test_a_closed_waker_ends_its_thread(transport: FakeTransport, waker: Waker) -> None:
    waker.wake("stable")
    wait_until(lambda: transport.taken, 5, "woken")
    thread = waker._thread
    assert thread is not None
    waker.close()
    wait_until(lambda: not thread.is_alive(), 5, "the thread ended")
    waker.wake("stable")
    assert transport.taken == ["stable"]

"""How an attempt is told to stop."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from dcm_processor.vocabulary import ExitReason
from worker.stop import Stop, StoppedError


@pytest.fixture
def stop() -> Iterator[Stop]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    stop = Stop()
    stop.listen()
    yield stop
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_signal_asks_for_the_attempt_back(stop: Stop) -> None:
    signal.raise_signal(signal.SIGTERM)
    assert stop.reason is ExitReason.HANDED_BACK


def test_the_first_wish_counts(stop: Stop) -> None:
    stop.request(ExitReason.CANCELLED)
    signal.raise_signal(signal.SIGTERM)
    assert stop.reason is ExitReason.CANCELLED


def test_another_thread_interrupts_what_the_main_thread_waits_for(stop: Stop) -> None:
    timer = threading.Timer(0.1, stop.request, [ExitReason.CANCELLED])
    timer.start()
    began = time.monotonic()
    with pytest.raises(StoppedError) as caught, stop.raising():
        time.sleep(10)
    assert time.monotonic() - began < 5
    assert caught.value.args[0] is ExitReason.CANCELLED


def test_a_wish_waits_until_it_can_be_taken(stop: Stop) -> None:
    """Between the phases nothing is interrupted; the next phase does not begin."""
    stop.request(ExitReason.CANCELLED)
    with pytest.raises(StoppedError), stop.raising():
        pytest.fail("must not begin")


def test_a_running_command_is_told_instead(stop: Stop) -> None:
    words: list[str] = []
    with stop.raising(), stop.calling(words.append):
        stop.request(ExitReason.HANDED_BACK)
    assert words == ["handed_back"]
    with stop.calling(words.append):
        pass
    assert words == ["handed_back", "handed_back"]  # one that begins after the wish hears of it too


def test_no_except_exception_catches_it() -> None:
    assert not issubclass(StoppedError, Exception)

"""The password: who is right, and how much slower a guesser gets without locking anybody out."""

import threading

import pytest

from dashboard.password import FORGET_AFTER, LANES, LONGEST_DELAY, REMEMBERED, Answer, Gatekeeper


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gatekeeper:
    return Gatekeeper(lambda: "correct horse", sleep=clock.sleep, clock=lambda: clock.now)


@pytest.mark.parametrize(
    ("user", "password", "answer"),
    [
        ("admin", "correct horse", Answer.RIGHT),
        ("admin", "correct hors", Answer.WRONG),
        ("admin", "", Answer.WRONG),
        ("", "correct horse", Answer.WRONG),
        ("Admin", "correct horse", Answer.WRONG),
        ("admin", "correct horse\udcff", Answer.WRONG),
        ("admin", "k" * 100_000, Answer.WRONG),
    ],
)
def test_only_the_right_pair_is_right(gate: Gatekeeper, user: str, password: str, answer: Answer) -> None:
    assert gate.judge(user, password, "10.0.0.1") is answer


def test_a_first_try_is_never_delayed(gate: Gatekeeper, clock: Clock) -> None:
    gate.judge("admin", "wrong", "10.0.0.1")
    assert clock.slept == []


def test_each_further_wrong_password_costs_twice_as_much_up_to_a_bound(gate: Gatekeeper, clock: Clock) -> None:
    for _ in range(8):
        gate.judge("admin", "wrong", "10.0.0.1")
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert max(clock.slept) == LONGEST_DELAY


def test_nobody_is_locked_out_after_any_number_of_wrong_passwords(gate: Gatekeeper) -> None:
    for _ in range(500):
        gate.judge("admin", "wrong", "10.0.0.1")
    assert gate.judge("admin", "correct horse", "10.0.0.1") is Answer.RIGHT


def test_one_address_does_not_slow_another(gate: Gatekeeper, clock: Clock) -> None:
    for _ in range(3):
        gate.judge("admin", "wrong", "10.0.0.1")
    clock.slept.clear()
    assert gate.judge("admin", "correct horse", "10.0.0.2") is Answer.RIGHT
    assert clock.slept == []


@pytest.mark.parametrize("forgiven_by", ["the right password", "time"])
def test_wrong_passwords_are_forgotten(gate: Gatekeeper, clock: Clock, forgiven_by: str) -> None:
    gate.judge("admin", "wrong", "10.0.0.1")
    if forgiven_by == "time":
        clock.now += FORGET_AFTER + 1
    else:
        gate.judge("admin", "correct horse", "10.0.0.1")
    clock.slept.clear()
    gate.judge("admin", "wrong", "10.0.0.1")
    assert clock.slept == []


def test_guessers_never_hold_more_than_a_few_threads(clock: Clock) -> None:
    """More logins of addresses that were wrong are turned away unread; an address without a fault still gets in."""
    wake, waiting = threading.Event(), threading.Semaphore(0)

    def sleep(_seconds: float) -> None:
        waiting.release()
        assert wake.wait(10)

    gate = Gatekeeper(lambda: "correct horse", sleep=sleep, clock=lambda: clock.now)
    gate.judge("admin", "wrong", "10.0.0.1")
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(gate.judge("admin", "wrong", "10.0.0.1"))) for _ in range(LANES)
    ]
    for thread in threads:
        thread.start()
    try:
        assert all(waiting.acquire(timeout=10) for _ in threads)
        assert gate.judge("admin", "correct horse", "10.0.0.1") is Answer.BUSY
        assert gate.judge("admin", "correct horse", "10.0.0.2") is Answer.RIGHT
    finally:
        wake.set()
        for thread in threads:
            thread.join(10)
    assert answers == [Answer.WRONG] * LANES
    assert gate.judge("admin", "correct horse", "10.0.0.1") is Answer.RIGHT


def test_the_memory_of_wrong_passwords_is_bounded(gate: Gatekeeper) -> None:
    for number in range(REMEMBERED + 500):
        gate.judge("admin", "wrong", f"10.0.{number // 256}.{number % 256}")
    assert len(gate._wrong) == REMEMBERED


def test_a_rotated_password_is_in_force_at_once_and_changes_the_sessions_key() -> None:
    passwords = ["first"]
    gate = Gatekeeper(lambda: passwords[-1])
    key = gate.session_key()
    assert gate.session_key() == key
    passwords.append("second")
    assert gate.judge("admin", "first", "10.0.0.1") is Answer.WRONG
    assert gate.judge("admin", "second", "10.0.0.2") is Answer.RIGHT
    assert gate.session_key() != key
    assert len(key) == 32
    assert b"first" not in key

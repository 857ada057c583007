"""The recorder: events go into the ledger one after the other; a stuck ledger keeps nobody waiting in turn."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.vocabulary import EventKind
from scheduler.recorder import Recorder
from tests.waiting import wait_until


class FakeLedger:
    """Notes events; `before` runs first and may raise or wait."""

    def __init__(self) -> None:
        self.events: list[tuple[EventKind, str, Mapping[str, Any] | None]] = []
        self.before: Callable[[], None] = lambda: None
        self.asked = 0

    def record_event(self, kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
        self.asked += 1
        self.before()
        self.events.append((kind, study_id, payload))
        return len(self.events)


def refuse() -> None:
    raise LedgerUnavailableError("locked")


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


def test_an_event_is_recorded_and_its_id_returned(ledger: FakeLedger) -> None:
    assert Recorder(ledger).record(EventKind.RERUN, "study", {"jobs": ["a"]}) == 1
    assert ledger.events == [(EventKind.RERUN, "study", {"jobs": ["a"]})]


def test_the_ledger_is_asked_by_one_at_a_time(ledger: FakeLedger) -> None:
    inside: list[int] = []
    come: set[int] = set()
    most = 0

    def overlap() -> None:
        nonlocal most
        inside.append(1)
        everybody = min(8, 40 - len(ledger.events))
        wait_until(lambda: len(come) - len(ledger.events) >= everybody, what="all others at the door")
        most = max(most, len(inside))
        inside.pop()

    def record(number: int) -> int:
        come.add(number)
        return recorder.record(EventKind.STABLE, str(number))

    ledger.before = overlap
    recorder = Recorder(ledger, patience=10)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(record, range(40)))
    assert most == 1
    assert sorted(ids) == list(range(1, 41))


def test_after_a_failure_the_ledger_is_left_alone_for_a_while(ledger: FakeLedger) -> None:
    recorder = Recorder(ledger, pause=0.3)
    ledger.before = refuse
    for _ in range(5):
        with pytest.raises(LedgerUnavailableError):
            recorder.record(EventKind.STABLE, "study")
    assert ledger.asked == 1
    ledger.before = lambda: None
    began = time.monotonic()

    def recorded() -> bool:
        try:
            recorder.record(EventKind.STABLE, "study")
        except LedgerUnavailableError:
            return False
        return True

    wait_until(recorded, 5, "the ledger is tried again")
    assert time.monotonic() - began > 0.1
    assert recorder.record(EventKind.STABLE, "study")


def test_those_who_wait_behind_a_stuck_ledger_are_refused_with_the_first(ledger: FakeLedger) -> None:
    come: set[int] = set()

    def stuck() -> None:  # as SQLite is while somebody else writes
        wait_until(lambda: len(come) == 8, what="all of them")
        refuse()

    ledger.before = stuck
    recorder = Recorder(ledger, patience=60)

    def refused(number: int) -> bool:
        come.add(number)
        with pytest.raises(LedgerUnavailableError):
            recorder.record(EventKind.STABLE, "study")
        return True

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(8)))
    assert time.monotonic() - began < 30  # nobody waited for the patience
    assert ledger.asked == 1


def test_nobody_waits_longer_than_the_patience_though_the_ledger_hangs(ledger: FakeLedger) -> None:
    released = threading.Event()

    def hang() -> None:
        released.wait(10)

    ledger.before = hang
    recorder = Recorder(ledger, patience=0.3, pause=0.2)

    def timed(number: int) -> float:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailableError):
            recorder.record(EventKind.STABLE, str(number))
        return time.monotonic() - began

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(timed, range(40))) < 0.6
    released.set()

    def recorded() -> bool:
        try:
            recorder.record(EventKind.STABLE, "later")
        except LedgerUnavailableError:
            return False
        return True

    wait_until(recorded, 5, "the ledger is asked again")
    asked = [study_id for _, study_id, _ in ledger.events]
    assert len(asked) <= 3  # what hung came through; what was given up while it waited behind that did not

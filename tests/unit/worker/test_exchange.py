"""When a worker of another host tries again, and for how long."""

from collections.abc import Callable

import pytest

from dcm_processor.errors import ArchiveCutError, NotKnownError, SchedulerUnavailableError
from worker import exchange
from worker.exchange import patiently


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited; the clock goes on by just that."""
    found: list[float] = []
    monkeypatch.setattr(exchange.time, "sleep", found.append)
    monkeypatch.setattr(exchange.time, "monotonic", lambda: sum(found))
    return found


def after(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def do() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return do


def test_what_works_is_not_waited_for(waited: list[float]) -> None:
    assert patiently(after(), 0) == "done"
    assert waited == []


def test_what_may_pass_is_tried_again_ever_more_slowly(waited: list[float]) -> None:
    away, cut = SchedulerUnavailableError("away"), ArchiveCutError("cut")
    assert patiently(after(*[away, cut] * 10), None) == "done"
    assert len(waited) == 20
    assert 0.5 <= waited[0] <= 0.6
    assert all(30 <= pause <= 36 for pause in waited[6:])


def test_patience_ends(waited: list[float]) -> None:
    with pytest.raises(SchedulerUnavailableError):
        patiently(after(*[SchedulerUnavailableError("away")] * 100), 30)
    assert sum(waited) <= 30


def test_without_patience_one_try_is_all(waited: list[float]) -> None:
    with pytest.raises(ArchiveCutError):
        patiently(after(ArchiveCutError("cut")), 0)
    assert waited == []


def test_what_does_not_pass_is_not_tried_again(waited: list[float]) -> None:
    with pytest.raises(NotKnownError):
        patiently(after(NotKnownError("gone")), None)
    assert waited == []

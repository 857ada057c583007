"""Two leaders publish at once, one of them late, and are killed: in every order the newest results are in their place.

A step is the taking of the lock, or a rename; before each one a publisher stops until the test lets it go on.
"""

import fcntl
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dcm_processor.ledger import Ledger, attempts
from scheduler.results import Results

FIRST, SECOND, FOLDER = "job-1", "later-1", "results/study/job"
"""An attempt, that of a later plan's job, and the folder of the results of both."""


class KilledError(BaseException):
    """A publisher's process is gone: nothing of it goes on, and its locks are free."""


class Publisher(threading.Thread):
    """Publishes attempts one after the other, a step whenever it is told to; at step `dies` it is killed."""

    def __init__(self, data: Path, attempt_ids: Sequence[str], dies: int | None) -> None:
        super().__init__(daemon=True)
        self._results = Results(data)
        self._attempt_ids = attempt_ids
        self._dies = dies
        self._steps = 0
        self._stopped, self._go = threading.Semaphore(0), threading.Semaphore(0)
        self.over = False

    def run(self) -> None:
        try:
            self.stop()
            for attempt_id in self._attempt_ids:
                self._results.publish(attempt_id, FOLDER)
        except KilledError:
            pass
        finally:
            self.over = True
            self._stopped.release()

    def stop(self) -> None:
        """Wait, before the next step."""
        self._stopped.release()
        assert self._go.acquire(timeout=20)
        if self._steps == self._dies:
            raise KilledError
        self._steps += 1

    def step(self) -> None:
        """Have it do its next step."""
        if not self.over:
            self._go.release()
            self.wait()

    def wait(self) -> None:
        assert self._stopped.acquire(timeout=20)


@contextmanager
def stepwise() -> Iterator[None]:
    """Have publishers stop before each step."""

    def stopping(step: Callable[..., Any]) -> Callable[..., Any]:
        def stop_first(*parts: Any) -> Any:
            if isinstance(publisher := threading.current_thread(), Publisher):
                publisher.stop()
            return step(*parts)

        return stop_first

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", stopping(fcntl.flock))
        patch.setattr(Path, "rename", stopping(Path.rename))
        yield


def in_every_order(play: Callable[[Sequence[int]], list[int]]) -> None:
    """Play all there is to play: `play` follows the choices it is given, goes on with 0, and returns what it chose."""
    todo: list[list[int]] = [[]]
    while todo:
        given = todo.pop()
        chosen = play(given)
        todo += [[*chosen[:place], 1] for place in range(len(given), len(chosen))]


def output(data: Path, attempt_id: str) -> None:
    made = data / "attempts" / attempt_id
    made.mkdir(parents=True)
    (made / attempt_id).touch()


def repair(data: Path, newest: str, patch: pytest.MonkeyPatch) -> None:
    """What a leader does who comes later, both attempts having finished, `newest` last."""

    def finished(_db: object, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        job = {"study_id": "study", "job_name": "job", "series_id": None}
        return {name: {**job, "outdated": name != newest} for name in (FIRST, SECOND) if name in names}

    patch.setattr(attempts, "finished_among", finished)
    Results(data).repair(cast("Ledger", SimpleNamespace(read=nullcontext)))


STEPS = 4  # of one that publishes once: it begins, takes the lock, puts aside, puts in place


@pytest.mark.parametrize("second_dies", [None, *range(STEPS)])
@pytest.mark.parametrize("first_dies", [None, *range(STEPS)])
@pytest.mark.parametrize("later", [[FIRST], [FIRST, SECOND]], ids=["the same", "the same and what comes after it"])
def test_in_every_order_of_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: list[str], first_dies: int | None, second_dies: int | None
) -> None:
    """Each is killed before one of its steps, or not at all; then somebody repairs."""
    if second_dies is not None and len(later) > 1:
        second_dies += STEPS - 1  # in the middle of the second
    numbers = itertools.count()

    def play(given: Sequence[int]) -> list[int]:
        data, chosen = tmp_path / str(next(numbers)), list[int]()
        for attempt_id in later:
            output(data, attempt_id)
        (data / FOLDER).mkdir(parents=True)
        (data / FOLDER / "older").touch()
        publishers = [Publisher(data, [FIRST], first_dies), Publisher(data, later, second_dies)]
        for publisher in publishers:
            publisher.start()
            publisher.wait()
        while alive := [publisher for publisher in publishers if not publisher.over]:
            if len(alive) > 1:
                chosen.append(given[len(chosen)] if len(chosen) < len(given) else 0)
            alive[chosen[-1] if len(alive) > 1 else 0].step()
        for publisher in publishers:
            publisher.join(20)
        repair(data, later[-1], monkeypatch)
        assert [path.name for path in (data / FOLDER).iterdir()] == [later[-1]], chosen
        assert not [path.name for path in (data / "attempts").iterdir() if path.name in later], chosen
        return chosen

    with stepwise():
        in_every_order(play)

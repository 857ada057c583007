"""A controller that can die at every step boundary: a real one, on a real ledger and Valkey, without threads."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.client import Pipeline
from sqlalchemy import Connection

from dcm_processor import identity, judgement
from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import Lease, Ledger, leases
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.plan import CallbackOutcome, instances_of, make_plan
from dcm_processor.registry import combine
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from dcm_processor.transport import REPORTS, Transport
from dcm_processor.vocabulary import Level
from scheduler import controller, planner, repair, results
from scheduler.controller import Controller
from scheduler.planning import Ending, Planned, PlanningTask
from scheduler.stream import Entry, StreamReader

SERIES = ["aaaaaaaa", "bbbbbbbb"]
DEFAULTS = Defaults(Level.STUDY, "default", ("default",))
_NO_REDIS = redis.ConnectionError("Redis is away")
_NO_LEDGER = LedgerUnavailableError("the ledger is away")
_NO_DISK = OSError(errno.EIO, "Input/output error")


class CrashError(BaseException):
    """The controller's process dies here."""


class Boundaries:
    """Where the process may die, or meet an error: before and after whatever others can see of it."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._dies = self._dead = False

    def arm(self, after: int | None, *, dies: bool = True) -> None:
        """Have it happen at the boundary of that number from now on (0: the next one); None: never."""
        self._left, self._dies, self._dead = after, dies, False

    def reach(self, error: Exception) -> None:
        """A boundary, where `error` is what could be met; a dead process reaches none."""
        if self._dead:
            raise CrashError
        if self._left == 0:
            self._left, self._dead = None, self._dies
            raise CrashError if self._dies else error
        if self._left is not None:
            self._left -= 1

    def around(self, act: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def between(*parts: Any, **more: Any) -> Any:
            self.reach(error)
            result = act(*parts, **more)
            self.reach(error)
            return result

        return between


class _MortalLedger(Ledger):
    """Transactions, before and after whose commit the process may die."""

    boundaries: Boundaries

    @contextmanager
    def write(self, lease: Lease | None = None) -> Iterator[Connection]:
        self.boundaries.reach(_NO_LEDGER)
        with super().write(lease) as db:
            yield db
            self.boundaries.reach(_NO_LEDGER)
        self.boundaries.reach(_NO_LEDGER)  # on the disk, and the answer was lost


def mortal(transport: Transport, boundaries: Boundaries) -> None:
    """Have it happen between any two commands to Redis; of a transaction Redis has all of them or none."""
    client = transport.redis
    plain, pipeline_of = client.execute_command, client.pipeline

    def pipeline(transaction: bool = True, **more: Any) -> Pipeline:
        made = pipeline_of(transaction, **more)
        run = made.execute

        def execute(**how: Any) -> Any:
            if transaction:
                return boundaries.around(run, _NO_REDIS)(**how)
            commands, done = list(made.command_stack), 0
            try:
                for done in range(len(commands) + 1):  # noqa: B007 - how far it came
                    boundaries.reach(_NO_REDIS)
            except BaseException:
                made.command_stack[:] = commands[:done]
                run(**how)
                raise
            return run(**how)

        made.execute = execute  # type: ignore[method-assign]
        return made

    client.execute_command = boundaries.around(plain, _NO_REDIS)  # type: ignore[method-assign]
    client.pipeline = pipeline  # type: ignore[method-assign]


class _Stream(StreamReader):
    """Reports read when they are asked for, by the same thread."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self._position = "0"

    def take(self) -> list[Entry]:
        with suppress(BlockingIOError):
            os.read(self.bell, 65536)
        entries = self._transport.read({REPORTS: self._position}, block_ms=1).get(REPORTS, [])
        self._position = entries[-1][0] if entries else self._position
        return entries

    def again(self) -> None:
        self._position = "0"


class Shape:
    """What the service of a study looks like: jobs as in a settings.json, beside worker and callback."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        entries = [{"worker": "svc.work", "callback": "svc.applies", **job} for job in jobs]
        self.registry = combine([("svc", "0" * 32, parse_manifest(json.dumps(entries), "svc", DEFAULTS))])

    def planned(self, study_id: str, instances: int, task: PlanningTask) -> Planned:
        """What a planning child makes of a study of so many instances a series."""
        held = {series: [f"{series}-{n}" for n in range(instances)] for series in SERIES}
        revision = identity.revision(instance for ids in held.values() for instance in ids)
        if revision in task.planned:
            return Planned(Ending.UNCHANGED, study_id, "has its plan", revision)
        keys = [key for job in self.registry.jobs for key in instances_of(job, SERIES)]
        plan = make_plan(self.registry, SERIES, {key: CallbackOutcome(applies=True) for key in keys})
        headers = {
            "seriesIds": SERIES,
            "series": [{"seriesId": each, "NumberOfInstances": instances} for each in SERIES],
        }
        return Planned(Ending.PLANNED, study_id, "", revision, headers, held, {}, plan)


class MortalController:
    """One controller after the other; studies are planned as `shapes` and `instances` say, by no process of its own."""

    def __init__(self, folder: Path, redis_url: str, patch: pytest.MonkeyPatch) -> None:
        self.boundaries, self.shapes = Boundaries(), dict[str, Shape]()
        self.instances: dict[str, int] = {}
        self.now = 0.0
        self._settings = Settings(
            MODE="local", BASEDIR=folder, REDIS_URL=redis_url, ORTHANC_REST_PASSWORD="unused"
        )  # fmt: skip
        _MortalLedger.boundaries = self.boundaries
        patch.setattr(controller, "Ledger", _MortalLedger)
        patch.setattr(controller, "StreamReader", _Stream)
        patch.setattr(controller, "Repair", self._repair)
        patch.setattr(results, "move", self.boundaries.around(results.move, _NO_DISK))
        patch.setattr(planner, "PlanningChild", self._child)
        patch.setattr(Store, "current", lambda _store: {"svc": "0" * 32})  # as the plans that its children make
        patch.setattr(repair, "QUEUED_GRACE", 0.0)
        patch.setattr(judgement, "OUTAGE_INTERVALS", (0.0,))
        self._start()

    def turn(self, fault_after: int | None = None, *, dies: bool = True) -> bool:
        """One turn with every step due; False: it died in the middle, and another one leads now."""
        self.boundaries.arm(fault_after, dies=dies)
        self._controller._due.clear()
        self._controller._stream.ring()
        try:
            self._controller._turn(self._lease)
        except CrashError:
            self.boundaries.arm(None)
            self.close()
            self._start()
            return False
        finally:
            self.boundaries.arm(None)
        return True

    def close(self) -> None:
        self._controller._planner.close()
        self._controller._ledger.close()
        self._controller._transport.close()
        for end in (self._controller._stream.bell, self._controller._stream._rope):
            os.close(end)

    def _start(self) -> None:
        self._controller = Controller(self._settings)
        mortal(self._controller._transport, self.boundaries)
        with self._controller._ledger.write() as db:
            lease = leases.acquire(db, leases.LEADER, "here:1:x", leases.Watch(), now=time.time(), seconds=60)
        assert lease is not None
        self._lease = lease

    def _repair(self, *parts: Any, **more: Any) -> repair.Repair:
        return repair.Repair(*parts, **{**more, "clock": lambda: self.now})

    def _child(self, task: PlanningTask, _seconds: float) -> "_Child":
        return _Child(task, self.shapes[task.study_id].planned(task.study_id, self.instances[task.study_id], task))


class _Child:
    """A planning child that is done at once."""

    late = True

    def __init__(self, task: PlanningTask, planned: Planned) -> None:
        self.task, self._planned = task, planned
        self.bell, rope = os.pipe2(os.O_CLOEXEC)
        os.close(rope)

    def result(self) -> Planned:
        return self._planned

    def end(self) -> None:
        os.close(self.bell)

"""Whatever dies wherever, whatever Redis forgets: every job ends once, by its rules, after what it depends on."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rq import Queue
from rq.serializers import JSONSerializer

from dcm_processor.outcome import Outcome
from dcm_processor.transport import Order, Report, Transport
from dcm_processor.vocabulary import EventKind, ExitReason
from tests.integration.scheduler.crashing import MortalController, Shape
from tests.ledgers import new_ledger
from tests.servers import ValkeyServer

NAMES = "abcde"
STUDIES = [f"{n}0000000-00000000-00000000-00000000-00000000" for n in range(3)]
FAULT = st.none() | st.integers(0, 30)
STEP = 5  # seconds between two looks
FAILURES = [ExitReason.EXCEPTION, ExitReason.TRANSIENT, ExitReason.OUTAGE, ExitReason.HANDED_BACK, ExitReason.GONE]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Up to five jobs; each may depend on some before it."""
    jobs = []
    for n, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        job: dict[str, Any] = {"jobName": name, "level": draw(st.sampled_from(["study", "series"]))}
        job["retry"] = {"max": draw(st.integers(0, 2)), "interval": [0], "lost": draw(st.integers(0, 2))}
        job["dependsOn"] = draw(st.lists(st.sampled_from(NAMES[:n]), unique=True, max_size=2)) if n else None
        job["onDependencyFailure"] = draw(st.sampled_from(["skip", "run"]))
        jobs.append(job)
    return Shape(jobs)


class Crashes(RuleBasedStateMachine):
    """Studies come and grow, workers work and die, Redis is emptied, and the controller dies wherever it can."""

    redis_url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.base = Path(tempfile.mkdtemp())
        self.ledger = new_ledger(f"sqlite:///{self.base}/db/ledger.sqlite")
        self.transport = Transport(self.redis_url)
        self.redis: redis.Redis = self.transport.redis
        self.redis.flushall()
        self.controller = MortalController(self.base, self.redis_url, self.patch)
        self.popped: list[str] = []
        self.running: dict[str, Order] = {}
        self.spool: dict[str, Report] = {}
        self.starts: Counter[str] = Counter()
        self.cancelled = False
        self.count = 0

    @initialize(shape=shapes())
    def first(self, shape: Shape) -> None:
        self.send(STUDIES[0], shape)
        self.turn(None, dies=False, turns=2)

    # -- studies

    @rule(study_id=st.sampled_from(STUDIES), shape=shapes())
    def send(self, study_id: str, shape: Shape) -> None:
        """A study comes, or grows."""
        self.controller.shapes.setdefault(study_id, shape)
        self.controller.instances[study_id] = self.controller.instances.get(study_id, 0) + 1
        self.ledger.record_event(EventKind.STABLE, study_id)

    @rule(study_id=st.sampled_from(STUDIES))
    def hear_again(self, study_id: str) -> None:
        """The hook and /changes tell of the same revision."""
        if study_id in self.controller.shapes:
            self.ledger.record_event(EventKind.CHANGE, study_id)

    @rule(study_id=st.sampled_from(STUDIES))
    def rerun(self, study_id: str) -> None:
        if study_id in self.controller.shapes:
            self.ledger.record_event(EventKind.RERUN, study_id)

    # -- the controller and Redis

    @rule(fault_after=FAULT, dies=st.booleans(), turns=st.sampled_from([1, 1, 2, 15]))
    def turn(self, fault_after: int | None, dies: bool, turns: int) -> None:
        """The controller looks, and perhaps dies, or meets an error; what runs announces itself meanwhile."""
        for _ in range(turns):
            self.controller.now += STEP
            self._announce()
            self.controller.turn(fault_after, dies=dies)

    @rule()
    def remove_service(self) -> None:
        """Another hand: its jobs that have not started are cancelled."""
        self.ledger.cancel_service("svc")
        self.cancelled = True

    @rule()
    def empty_redis(self) -> None:
        self.redis.flushall()

    # -- workers

    @rule(number=st.integers(1, 3))
    def pop(self, number: int) -> None:
        """Workers take attempts from the queue, and have not claimed them yet."""
        queue = Queue("default", connection=self.redis, serializer=JSONSerializer)
        self.popped += [attempt_id.decode() for attempt_id in self.redis.lpop(queue.key, number) or ()]  # type: ignore[union-attr]

    @precondition(lambda self: self.popped)
    @rule()
    def die_early(self) -> None:
        """A worker dies right after it took an attempt from the queue."""
        self.popped.pop()

    @rule(number=st.integers(1, 3))
    def work(self, number: int) -> None:
        """Workers take attempts from the queue, and start those that are wanted."""
        self.pop(number)
        while self.popped:
            self._claim(self.popped.pop(0))

    def _claim(self, attempt_id: str) -> None:
        found = self.transport.order(attempt_id)
        if found is None or not self.transport.claim(self._report(attempt_id)):
            return
        order = found[0]
        self._check_predecessors(order)
        self.starts[attempt_id] += 1
        self.running[attempt_id] = order
        self._check_inputs(order)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), reason=st.sampled_from([ExitReason.DONE] * 5 + FAILURES))
    def end(self, data: st.DataObject, reason: ExitReason) -> None:
        """A function ends; its outcome is spooled, and may not be sent yet."""
        self._end(data.draw(st.sampled_from(sorted(self.running))), reason)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A host goes with the attempt that it runs."""
        del self.running[data.draw(st.sampled_from(sorted(self.running)))]

    @precondition(lambda self: self.spool)
    @rule(data=st.data(), times=st.integers(1, 2))
    def send_outcome(self, data: st.DataObject, times: int) -> None:
        """An outcome is sent, perhaps twice, unless it was acknowledged."""
        attempt_id = data.draw(st.sampled_from(sorted(self.spool)))
        for _ in range(times):
            self.transport.report(self.spool[attempt_id])
        if self.transport.acknowledged(attempt_id):
            del self.spool[attempt_id]

    # -- what holds at any time

    @invariant()
    def nothing_is_doubled(self) -> None:
        assert all(number == 1 for number in self.starts.values()), self.starts
        for job in self._jobs():
            states = Counter(attempt["state"] for attempt in job["attempts"])
            assert states["finished"] <= 1, job
            assert states["queued"] + states["started"] <= 1, job
            if job["state"] == "finished" and "as in an earlier run" not in (job["reason"] or ""):
                assert states["finished"] == 1, job

    # -- and in the end

    def teardown(self) -> None:
        try:
            if self.controller.shapes:
                self._heal()
                self._check_ends()
        finally:
            self.controller.close()
            self.ledger.close()
            self.transport.close()
            self.patch.undo()
            shutil.rmtree(self.base)

    def _heal(self) -> None:
        """Nobody dies any more, and every function finishes."""
        for _ in range(200):
            for attempt_id in list(self.running):
                self._end(attempt_id, ExitReason.DONE)
            for attempt_id, report in list(self.spool.items()):
                if self.transport.acknowledged(attempt_id):
                    del self.spool[attempt_id]
                else:
                    self.transport.report(report)
            self.turn(None, dies=False, turns=1)
            self.work(9)
            if not self.spool and not self.running and self._over() and not self._held():
                return
        pytest.fail(
            f"not over: {[(job['jobName'], job['state'], job['reason']) for job in self._jobs()]}, {self._held()}"
        )

    def _over(self) -> bool:
        studies = self.ledger.studies().items
        return all(study["state"] in ("finished", "failed") for study in studies)

    def _held(self) -> list[str]:
        """What Redis still holds of attempts and plans."""
        kinds = ("order", "claim", "plan", "announced")
        return [key.decode() for kind in kinds for key in self.redis.keys(f"dcmproc:{kind}*")]  # type: ignore[union-attr]

    def _check_ends(self) -> None:
        for study_id, instances in self.controller.instances.items():
            study = self.ledger.study(study_id)
            assert study is not None
            [plan] = [plan for plan in study["plans"] if plan["active"]]
            assert len(plan["jobs"]) > 0
            revisions = {each["revision"] for each in study["plans"]}
            assert len(revisions) <= instances
            for job in plan["jobs"]:
                ends = ("finished", "failed", "skipped", "cancelled")
                assert job["state"] in (ends if self.cancelled else ends[:3]), job
                self._check_job(study_id, job)

    def _check_job(self, study_id: str, job: dict[str, Any]) -> None:
        ends = [attempt["state"] for attempt in job["attempts"]]
        assert not {"queued", "started"} & set(ends), job
        if job["state"] == "finished":
            place = self.base / "data" / "results" / study_id / job["jobName"] / (job["seriesId"] or "")
            assert place.is_dir(), job
            if job["attempts"]:
                assert (place / "attempt").read_text() == job["attempts"][-1]["attemptId"]
        if job["state"] == "failed" and job["attempts"]:
            assert ends[-1] in ("failed", "lost"), job

    # -- what rules share

    def _end(self, attempt_id: str, reason: ExitReason) -> None:
        del self.running[attempt_id]
        if reason is ExitReason.DONE:
            output = self.base / "data" / "attempts" / attempt_id
            output.mkdir(parents=True)
            (output / "attempt").write_text(attempt_id)
        self.spool[attempt_id] = self._report(attempt_id, "outcome", Outcome(reason))

    def _announce(self) -> None:
        """Everybody who runs something says so, and ends it where that is asked for."""
        for attempt_id in list(self.running):
            self.count += 1
            if self.transport.announce(self._report(attempt_id), self.count):
                del self.running[attempt_id]
                self.spool[attempt_id] = self._report(attempt_id, "outcome", Outcome(ExitReason.CANCELLED))

    def _report(self, attempt_id: str, kind: str = "started", outcome: Outcome | None = None) -> Report:
        return Report(kind, attempt_id, f"w/{attempt_id}", "w", "h", outcome.to_json() if outcome else {})

    def _check_inputs(self, order: Order) -> None:
        """What a job depends on has ended, and its results are in their place."""
        folders = [
            folder for each in order.inputs.values() for folder in (each.values() if isinstance(each, dict) else [each])
        ]
        for folder in folders:
            assert (self.base / "data" / folder / "attempt").exists(), (order.attemptId, folder)
        for seen in order.outcomes.values():
            assert seen["state"] in ("finished", "failed", "skipped", "cancelled", "lost"), order.outcomes

    def _check_predecessors(self, order: Order) -> None:
        """No attempt begins before the job's last one has ended, and not well."""
        for job in self._jobs():
            if job["jobId"] == order.jobId:
                before = [each["state"] for each in job["attempts"] if each["attempt"] < order.attempt]
                assert not {"queued", "started", "finished"} & set(before), job

    def _jobs(self) -> list[dict[str, Any]]:
        found = [self.ledger.study(study_id) for study_id in self.controller.shapes]
        return [job for study in found if study for plan in study["plans"] for job in plan["jobs"]]


@pytest.fixture
def crashes(tmp_path: Path) -> Iterator[type[Crashes]]:
    with ValkeyServer(tmp_path / "valkey") as valkey:
        Crashes.redis_url = valkey.url
        yield Crashes


def test_every_job_ends_once_whatever_dies_wherever(crashes: type[Crashes]) -> None:
    run_state_machine_as_test(
        crashes,
        settings=settings(
            max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck),
            derandomize=True, print_blob=True,
        ),
    )  # fmt: skip

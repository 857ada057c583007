"""Planning one study, in a disposable child: headers, callbacks, plan. It reads Orthanc and writes nothing anywhere."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcm_processor import completeness_file, identity, process
from dcm_processor.completeness import Judgement, Rule, judge, keywords
from dcm_processor.errors import (
    DcmProcessorError,
    OrthancUnavailableError,
    RulesError,
    StudyGoneError,
    TransientError,
)
from dcm_processor.logging import get_logger
from dcm_processor.orthanc import Orthanc
from dcm_processor.plan import Plan, PlannedJob, instances_of, make_plan, order
from dcm_processor.registry import ServiceRegistry
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from scheduler.callbacks import run_callbacks

if TYPE_CHECKING:
    from dcm_processor.headers import SeriesSource

log = get_logger()

_WARD = 2.0
"""Seconds that a new process for callbacks may take, one for each callback that hangs."""
_SHARE = 2
"""A child may have half of the memory there is: the rest goes on, and where two want so much the kernel kills them."""
_TOO_LARGE = (
    "the study is too large to be planned here: that takes more than half of the memory that the controller's machine, "
    "or its container (CONTROLLER_MEMORY), has; give it more, then rerun the study, or send it in parts"
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["scheduler.planning", "dcm_processor.headers"])


@dataclass(frozen=True)
class PlanningTask:
    """What a child needs to plan a study; `planned` are the revisions that need no plan any more.

    `rules` may hold the study back, which they do since `held_since`; where it is `forced` they only tell what is
    missing.
    """

    study_id: str
    registry: ServiceRegistry
    folders: Mapping[str, Path]
    settings: Settings
    owners: Mapping[str, bool] = field(default_factory=dict)
    planned: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    held_since: float | None = None
    forced: bool = False
    recording: bool = False  # what callbacks read of the headers


class Ending(StrEnum):
    """How the planning of a study ended."""

    PLANNED = "planned"
    UNCHANGED = "unchanged"  # its revision has a plan
    HELD = "held"  # it is not complete, and its limit has not passed
    OURS = "ours"  # it holds only what the platform itself stored
    GONE = "gone"
    UNAVAILABLE = "unavailable"  # Orthanc does not answer, services cannot be read …: no fault of the study
    FAILED = "failed"


@dataclass(frozen=True)
class Planned:
    """What a child made of its task."""

    ending: Ending
    study_id: str
    reason: str = ""
    revision: str = ""
    headers: dict[str, Any] = field(default_factory=dict)
    instances: dict[str, list[str]] = field(default_factory=dict)
    owners: dict[str, bool] = field(default_factory=dict)
    plan: Plan | None = None
    completeness: Judgement = field(default_factory=Judgement)
    last_update: str | None = None  # of the study as it was read (StudyContents); None: it was not
    orthanc_fails: bool = False  # it answers, but not about this study: that may take its time


def task_for(
    settings: Settings,
    store: Store,
    study_id: str,
    owners: Mapping[str, bool],
    planned: frozenset[str],
    *,
    held_since: float | None = None,
    forced: bool = False,
) -> PlanningTask:
    """The task of planning a study with the services and rules of today.

    Raises ServiceError where the services cannot be read; RulesError where the rules cannot, unless it is `forced`.
    """
    registry = store.load()
    digests = {job.service: job.digest for job in registry.jobs}
    return PlanningTask(
        study_id=study_id,
        registry=registry,
        folders=store.registry_folders(digests),
        settings=settings,
        owners=owners,
        planned=planned,
        rules=_rules(settings, forced=forced),
        held_since=held_since,
        forced=forced,
    )


def _rules(settings: Settings, *, forced: bool) -> tuple[Rule, ...]:
    try:
        return completeness_file.rules(settings)
    except RulesError:
        if not forced:
            raise
        return ()


def plan_study(task: PlanningTask, needs: Callable[[float], object] = lambda _: None) -> Planned:
    """Plan it; never raises: what went wrong is in the result.

    `needs` is told, whenever planning got on, what the next step may take beside the usual (s).
    """
    try:
        return _plan_study(task, needs)
    except StudyGoneError as error:
        return _gone(task, str(error))
    except OrthancUnavailableError as error:
        reason = str(error)
        try:
            Orthanc.of(task.settings).last_change()
        except TransientError:
            return Planned(Ending.UNAVAILABLE, task.study_id, reason)
        return Planned(Ending.FAILED, task.study_id, reason, orthanc_fails=True)
    except DcmProcessorError as error:
        return Planned(Ending.FAILED, task.study_id, str(error))
    except Exception as error:  # noqa: BLE001 - the child's edge: the controller gets told, whatever it was
        return Planned(Ending.FAILED, task.study_id, _where(error))


def _gone(task: PlanningTask, reason: str) -> Planned:
    """Something of the study is gone: the study, or an instance of it that somebody deleted meanwhile."""
    try:
        Orthanc.of(task.settings).study(task.study_id)
    except StudyGoneError:
        return Planned(Ending.GONE, task.study_id, reason)
    except TransientError as error:
        return Planned(Ending.UNAVAILABLE, task.study_id, str(error))
    return Planned(Ending.FAILED, task.study_id, "instances were deleted while the study was read")


def _where(error: Exception) -> str:
    """What was raised, and where; without its message, which may hold the value of an element."""
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)  # what was read is let go: there is to be room for a word on it
        return _TOO_LARGE
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"planning raised {type(error).__name__} ({Path(place.filename).name}, line {place.lineno})"


def _plan_study(task: PlanningTask, needs: Callable[[float], object]) -> Planned:
    orthanc = Orthanc.of(task.settings)
    study = orthanc.study(task.study_id)
    asked: dict[str, bool] = {}
    for series_id, ids in study.instances.items():
        if series_id not in task.owners:
            needs(0.0)
            asked[series_id] = orthanc.stored_by(ids[0]) == task.settings.ORTHANC_REST_USERNAME
    ours = {**task.owners, **asked}
    foreign = {series_id: ids for series_id, ids in study.instances.items() if not ours[series_id]}
    if not foreign:
        reason = "holds only what the platform stored"
        return Planned(Ending.OURS, task.study_id, reason, owners=asked, last_update=study.last_update)
    revision = identity.revision(instance for ids in foreign.values() for instance in ids)
    if revision in task.planned:
        reason = f"revision {revision} has its plan"
        return Planned(Ending.UNCHANGED, task.study_id, reason, revision, owners=asked, last_update=study.last_update)
    from dcm_processor.headers import SeriesSource, build_headers  # noqa: PLC0415 - pydicom, for a child alone

    sources = []
    for series_id, ids in foreign.items():
        needs(0.0)
        sources.append(SeriesSource(series_id, len(ids), orthanc.dataset(ids[0])))
    complete = _completeness(task, sources)
    if complete.until is not None and not task.forced:
        reason = complete.reason
        return Planned(
            Ending.HELD, task.study_id, reason, revision, owners=asked, completeness=complete,
            last_update=study.last_update,
        )  # fmt: skip
    selected = task.settings.HEADER_FIELDS
    headers = build_headers(study.patient_id, task.study_id, sources, selected)
    jobs = order(task.registry)
    needs(sum(len(instances_of(job, headers["seriesIds"])) for job in jobs) * (task.settings.CALLBACK_TIMEOUT + _WARD))
    outcomes = run_callbacks(
        jobs, headers, selected, dict(task.folders), task.settings.CALLBACK_TIMEOUT, recording=task.recording
    )
    plan = make_plan(task.registry, headers["seriesIds"], outcomes)
    instances = {series_id: list(foreign[series_id]) for series_id in headers["seriesIds"]}
    return Planned(
        Ending.PLANNED, task.study_id, "", revision, headers, instances, asked, plan, complete, study.last_update
    )


def _completeness(task: PlanningTask, sources: "Sequence[SeriesSource]") -> Judgement:
    """By headers of its own: rules look at what HEADER_FIELDS may not show to services."""
    if not task.rules:
        return Judgement()
    from dcm_processor.headers import build_headers  # noqa: PLC0415 - as above

    headers = build_headers("", task.study_id, sources, keywords(task.rules))
    return judge(task.rules, headers, since=task.held_since, now=time.time())


class PlanningChild:
    """A child that plans one study; `bell` becomes readable when it is done or dead.

    A thread starts it and listens to it: a child, or the fork server, that stops in the middle of a word holds up
    nobody else. Each step has `seconds` (the list of instances, a series' first one, all callbacks: beside their own).
    """

    def __init__(self, task: PlanningTask, seconds: float) -> None:
        self.task = task
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self.bell, self._rope = os.pipe2(os.O_CLOEXEC)
        self._ended = threading.Event()
        self._process: BaseProcess | None = None
        self._planned: Planned | None = None
        threading.Thread(target=self._run, name=f"planning {task.study_id}", daemon=True).start()

    @property
    def late(self) -> bool:
        """Whether it has had its time."""
        return time.monotonic() > self._until

    def result(self) -> Planned:
        """What came of it, once `bell` is readable; where it is not, it took too long."""
        reason = f"planning did not get on for {self._seconds:.0f} s beside its callbacks"
        return self._planned or Planned(Ending.FAILED, self.task.study_id, reason)

    def end(self) -> None:
        """Have nothing of it left soon; never waits."""
        self._ended.set()
        self._kill()
        os.close(self.bell)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _run(self) -> None:
        try:
            self._planned = self._listen()
        except Exception as error:  # the thread's edge: a study's planning always ends
            log.exception("a planning process could not be listened to", studyId=self.task.study_id)
            self._planned = Planned(Ending.FAILED, self.task.study_id, _where(error))
        finally:
            os.close(self._rope)

    def _listen(self) -> Planned:
        ours, theirs = _context.Pipe(duplex=False)
        child = _context.Process(target=_child, args=(theirs, self.task), daemon=True)
        with ours:
            try:
                with theirs:
                    child.start()
            except OSError as error:
                reason = f"no process for planning can be started: {error.strerror}"
                return Planned(Ending.UNAVAILABLE, self.task.study_id, reason)
            self._process = child
            if self._ended.is_set():  # given up while it started
                self._kill()
            try:
                while isinstance(said := ours.recv(), float):
                    self._until = time.monotonic() + self._seconds + said
            except (EOFError, OSError):
                child.join(5)
                hint = " (killed: out of memory, perhaps)" if child.exitcode == -signal.SIGKILL else ""
                reason = f"the planning process ended with {child.exitcode}{hint} before it had a plan"
                said = Planned(Ending.FAILED, self.task.study_id, reason)
        child.join(1)
        self._kill()
        planned: Planned = said
        return planned


def start_fork_server() -> None:
    """Have the imports paid once, before the first study comes."""
    child = _context.Process(target=_nothing)
    child.start()
    child.join(30)


def _nothing() -> None:
    return None


def _child(connection: Connection, task: PlanningTask) -> None:
    process.die_with_parent()
    stay_small()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send(plan_study(task, connection.send))


def stay_small() -> None:
    """Have this process, which may be lost, not take the machine's memory: half is its, and it is killed first."""
    process.be_killed_first()
    process.limit_memory(process.memory_here() // _SHARE)


def explain(
    settings: Settings, study_id: str, held_since: float | None = None, *, reads: bool = False
) -> dict[str, Any]:
    """The plan a study would get now, nothing enqueued; runs callbacks, so call it in a process that may be lost.

    Of a study that is held back it is the plan it would get all the same. A planning that failed is told as such.
    With `reads` it is told what callbacks read of the headers.
    Raises StudyGoneError or OrthancUnavailableError.
    """
    task = task_for(settings, Store.of(settings), study_id, {}, frozenset(), held_since=held_since, forced=True)
    planned = plan_study(replace(task, recording=reads))
    match planned.ending:
        case Ending.GONE:
            raise StudyGoneError(planned.reason)
        case Ending.UNAVAILABLE:
            raise OrthancUnavailableError(planned.reason)
    explained = _explained_plan(planned, task.registry)
    try:
        completeness_file.rules(settings)
    except RulesError as error:
        explained |= {"ending": Ending.HELD, "reason": f"waits for rules that can be read: {error}"}
    return explained


def _explained_plan(planned: Planned, registry: ServiceRegistry) -> dict[str, Any]:
    """A planning's result as the API shows it."""
    jobs = planned.plan.jobs if planned.plan else ()
    held = planned.completeness.until is not None
    return {
        "ending": Ending.HELD if held else planned.ending,
        "studyId": planned.study_id,
        "reason": planned.completeness.reason if held else planned.reason,
        "revision": planned.revision,
        "seriesIds": list(planned.instances),
        "numberOfInstances": sum(len(ids) for ids in planned.instances.values()),
        "jobs": [_explained(job) for job in jobs],
        "faults": [str(fault) for fault in registry.faults],
    }


def _explained(planned: PlannedJob) -> dict[str, Any]:
    settings, outcome = planned.job.settings, planned.outcome
    return {
        "jobName": planned.key.job_name,
        "seriesId": planned.key.series_id,
        "service": planned.job.service,
        "version": planned.job.digest,
        "verdict": planned.verdict,
        "reason": planned.reason,
        "stage": settings.stage,
        "level": settings.level,
        "queue": settings.priority,
        "position": planned.position,
        "dependsOn": list(settings.depends_on),
        "dependencies": [{"jobName": key.job_name, "seriesId": key.series_id} for key in planned.dependencies],
        "applies": outcome.applies if outcome and outcome.error is None else None,
        "injected": outcome.injected if outcome else {},
        "traceback": outcome.traceback if outcome else None,
        "callbackOutput": outcome.output if outcome else "",
        "reads": [{"keyword": read.keyword, "place": read.place, "found": read.found} for read in outcome.reads]
        if outcome and outcome.reads is not None
        else None,
    }

"""Planning one study, in a disposable child: headers, callbacks, plan. It reads Orthanc and writes nothing anywhere."""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dcm_processor import identity, process
from dcm_processor.errors import (
    DcmProcessorError,
    OrthancUnavailableError,
    StudyGoneError,
    TransientError,
)
from dcm_processor.headers import SeriesSource, build_headers
from dcm_processor.orthanc import Orthanc
from dcm_processor.plan import Plan, PlannedJob, make_plan, order
from dcm_processor.registry import ServiceRegistry
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from scheduler.callbacks import run_callbacks

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["scheduler.planning"])


@dataclass(frozen=True)
class PlanningTask:
    """What a child needs to plan a study; `planned` are the revisions that need no plan any more."""

    study_id: str
    registry: ServiceRegistry
    folders: Mapping[str, Path]
    settings: Settings
    owners: Mapping[str, bool] = field(default_factory=dict)
    planned: frozenset[str] = frozenset()


class Ending(StrEnum):
    """How the planning of a study ended."""

    PLANNED = "planned"
    UNCHANGED = "unchanged"  # its revision has a plan
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


def task_for(
    settings: Settings, store: Store, study_id: str, owners: Mapping[str, bool], planned: frozenset[str]
) -> PlanningTask:
    """The task of planning a study with the services of today."""
    registry = store.load()
    digests = {job.service: job.digest for job in registry.jobs}
    return PlanningTask(
        study_id=study_id,
        registry=registry,
        folders=store.registry_folders(digests),
        settings=settings,
        owners=owners,
        planned=planned,
    )


def plan_study(task: PlanningTask) -> Planned:
    """Plan it; never raises: what went wrong is in the result."""
    try:
        return _plan_study(task)
    except StudyGoneError as error:
        return Planned(Ending.GONE, task.study_id, str(error))
    except OrthancUnavailableError as error:
        reason = str(error)
        try:
            Orthanc.of(task.settings).system()
        except TransientError:
            return Planned(Ending.UNAVAILABLE, task.study_id, reason)
        return Planned(Ending.FAILED, task.study_id, reason)
    except DcmProcessorError as error:
        return Planned(Ending.FAILED, task.study_id, str(error))
    except Exception:  # noqa: BLE001 - the child's edge: the controller gets told, whatever it was
        where = traceback.format_exc(limit=-5).replace("\0", "")
        return Planned(Ending.FAILED, task.study_id, f"planning raised: {where}")


def _plan_study(task: PlanningTask) -> Planned:
    orthanc = Orthanc.of(task.settings)
    study = orthanc.study(task.study_id)
    asked = {
        series_id: orthanc.stored_by(instances[0]) == task.settings.ORTHANC_REST_USERNAME
        for series_id, instances in study.instances.items()
        if series_id not in task.owners
    }
    ours = {**task.owners, **asked}
    foreign = {series_id: ids for series_id, ids in study.instances.items() if not ours[series_id]}
    if not foreign:
        return Planned(Ending.OURS, task.study_id, "holds only what the platform stored", owners=asked)
    revision = identity.revision(instance for ids in foreign.values() for instance in ids)
    if revision in task.planned:
        return Planned(Ending.UNCHANGED, task.study_id, f"revision {revision} has its plan", revision, owners=asked)
    sources = [SeriesSource(series_id, len(ids), orthanc.dataset(ids[0])) for series_id, ids in foreign.items()]
    selected = task.settings.HEADER_FIELDS
    headers = build_headers(study.patient_id, task.study_id, sources, selected)
    outcomes = run_callbacks(
        order(task.registry), headers, selected, dict(task.folders), task.settings.CALLBACK_TIMEOUT
    )
    plan = make_plan(task.registry, headers["seriesIds"], outcomes)
    instances = {series_id: list(foreign[series_id]) for series_id in headers["seriesIds"]}
    return Planned(Ending.PLANNED, task.study_id, "", revision, headers, instances, asked, plan)


class PlanningChild:
    """A child that plans one study; its `connection` becomes readable when it is done or dead."""

    def __init__(self, task: PlanningTask) -> None:
        self.task = task
        self.began = time.monotonic()
        self.connection, theirs = _context.Pipe(duplex=False)
        self._process: BaseProcess = _context.Process(target=_child, args=(theirs, task), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Planned:
        """What came of it; a dead child gives a failure. Call when `connection` is readable."""
        try:
            planned: Planned = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            reason = f"the planning process ended with {self._process.exitcode} before it had a plan"
            planned = Planned(Ending.FAILED, self.task.study_id, reason)
        self.end()
        return planned

    def end(self) -> None:
        """Make sure that nothing of it is left."""
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        self.connection.close()


def start_fork_server() -> None:
    """Have the imports paid once, before the first study comes."""
    child = _context.Process(target=_nothing)
    child.start()
    child.join(30)


def _nothing() -> None:
    return None


def _child(connection: Connection, task: PlanningTask) -> None:
    process.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send(plan_study(task))


def explain(settings: Settings, study_id: str) -> dict[str, Any]:
    """The plan a study would get now, nothing enqueued; runs callbacks, so call it in a process that may be lost.

    A planning that failed is told as such. Raises StudyGoneError or OrthancUnavailableError.
    """
    task = task_for(settings, Store.of(settings), study_id, {}, frozenset())
    planned = plan_study(task)
    match planned.ending:
        case Ending.GONE:
            raise StudyGoneError(planned.reason)
        case Ending.UNAVAILABLE:
            raise OrthancUnavailableError(planned.reason)
    return _explained_plan(planned, task.registry)


def _explained_plan(planned: Planned, registry: ServiceRegistry) -> dict[str, Any]:
    """A planning's result as the API shows it."""
    jobs = planned.plan.jobs if planned.plan else ()
    return {
        "ending": planned.ending,
        "studyId": planned.study_id,
        "reason": planned.reason,
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
        "injected": outcome.injected if outcome else {},
        "traceback": outcome.traceback if outcome else None,
        "callbackOutput": outcome.output if outcome else "",
    }

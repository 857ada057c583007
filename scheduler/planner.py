"""From events to plans: which studies are planned now, by which child, and what came of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial

from sqlalchemy import Connection as Database
from sqlalchemy import RowMapping

from dcm_processor import identity
from dcm_processor.errors import DcmProcessorError, RulesError, ServiceError
from dcm_processor.ledger import Lease, Ledger, attempts, events, plans, repairs, retention, studies
from dcm_processor.logging import get_logger
from dcm_processor.manifest import ALL, Fault
from dcm_processor.registry import ServiceRegistry
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from dcm_processor.transport import Transport
from dcm_processor.vocabulary import EventKind, JobState, RepairKind, StudyState, Verdict
from scheduler.adoption import adopt, rerun_jobs
from scheduler.effects import Effects
from scheduler.planning import Ending, Planned, PlanningChild, task_for
from scheduler.progress import deciding
from scheduler.results import Results

log = get_logger()

PLANNERS = 4
"""Studies planned at the same time."""
PLANNING_SECONDS = 600.0
"""Without getting on, after which a planning child is taken to hang, beside what its callbacks may take."""
PLANNING_FAILURES = 5
"""After which a study is given up as unplanned."""
JOBS_SECONDS = 0.5
"""That one turn may take for what is asked about single jobs: thousands of them keep nothing else waiting."""

_BACKOFF = (2, 5, 15, 30, 60)
_ORTHANC_BACKOFF = (10, 60, 600, 3600)
"""Seconds to the next try: where Orthanc has trouble with its disk, so have all the studies that come meanwhile."""
_FORCED = (EventKind.LIMIT, EventKind.RERUN)  # however incomplete the study is


class Planner:
    """Deals with the ledger's events. Every method raises TransientError where ledger or Redis do not answer."""

    def __init__(self, settings: Settings, ledger: Ledger, transport: Transport, results: Results) -> None:
        self._settings = settings
        self._ledger = ledger
        self._transport = transport
        self._results = results
        self._store = Store.of(settings)
        self._children: dict[str, tuple[PlanningChild, list[RowMapping]]] = {}

    @property
    def bells(self) -> list[int]:
        """What becomes readable when a child is done."""
        return [child.bell for child, _ in self._children.values()]

    def close(self) -> None:
        """End every child; their events stay as they are."""
        for child, _ in self._children.values():
            child.end()
        self._children.clear()

    def handle(self, lease: Lease) -> bool:
        """Deal with the events that are due: start planning, rerun jobs, cancel jobs.

        Returns whether some of the jobs' are left for the next turn, which should come at once.
        """
        now, until = time.time(), time.monotonic() + JOBS_SECONDS
        with self._ledger.read() as db:
            due = events.due(db, now=now, longest=_BACKOFF[-1], longest_failed=_ORTHANC_BACKOFF[-1])
        if too_late := [event["event_id"] for event in due if event["due_at"] > now]:
            with self._ledger.write(lease) as db:
                events.bring_forward(db, too_late, now=now)
                repairs.count(db, RepairKind.DUE_TOO_LATE, len(too_late), now=now)
        services = cache(self._store.load)  # as they are in this turn
        by_study: dict[str, list[RowMapping]] = defaultdict(list)
        spent = left = False
        for event in due:
            if (event["payload"] or {}).get("jobIds") is None:
                by_study[event["study_id"]].append(event)
            elif spent:
                left = True
            else:
                self._deal(lease, [event], partial(self._jobs_event, event, services))
                spent = time.monotonic() > until
        for study_id, found in by_study.items():
            if len(self._children) >= PLANNERS:
                break
            if study_id not in self._children:
                self._start(lease, study_id, found)
        return left

    def collect(self, lease: Lease, readable: Sequence[object]) -> None:
        """Take in the plans of children that are done, and end those that hang."""
        for study_id, (child, found) in list(self._children.items()):
            if child.bell not in readable and not child.late:
                continue
            planned = child.result()
            child.end()
            del self._children[study_id]
            result = self._deal(lease, found, partial(self._settle, planned, found, child.task.registry.faults))
            log.info("planning ended", studyId=study_id, ending=planned.ending, result=result)

    def _deal(self, lease: Lease, found: Sequence[RowMapping], action: Callable[[Database, Effects], str]) -> str:
        """Run `action` in one transaction and carry out what follows; events that no code of ours can deal with end."""
        effects, ids = Effects(), [event["event_id"] for event in found]
        try:
            with deciding(self._ledger, lease, effects) as (db, own):
                result = action(db, own)
        except ServiceError as error:  # the services cannot be read: no fault of the study
            result = str(error)
            with self._ledger.write(lease) as db:
                events.put_off(db, ids, result, due_at=time.time() + _BACKOFF[1], counts=False)
            return result
        except DcmProcessorError:
            raise
        except Exception as error:
            log.exception("an event could not be dealt with", studyId=found[0]["study_id"], events=ids)
            result = f"could not be dealt with: {type(error).__name__}; the controller's log tells more"
            with self._ledger.write(lease) as db:
                if events.put_off(db, ids, result, due_at=time.time() + _BACKOFF[-1], counts=True) >= PLANNING_FAILURES:
                    events.settle(db, ids, result, now=time.time())
                    _give_up(db, found[0]["study_id"], result, now=time.time())
            return result
        effects.carry_out(self._ledger, self._transport, self._results, self._store, lease)
        return result

    def _jobs_event(
        self, event: RowMapping, services: Callable[[], ServiceRegistry], db: Database, effects: Effects
    ) -> str:
        now, job_ids = time.time(), event["payload"]["jobIds"]
        if event["kind"] == EventKind.CANCEL:
            result = _cancel(db, event["study_id"], job_ids, effects, now=now)
        else:
            registry, gone = services(), self._results.are_gone
            if self._removed(job.service for job in registry.jobs):  # since this turn began
                registry = self._store.load()
            result = rerun_jobs(db, event["study_id"], job_ids, registry, effects, gone=gone, now=now)
            effects.touched.append(event["study_id"])
        events.settle(db, [event["event_id"]], result, now=now)
        return result

    def _start(self, lease: Lease, study_id: str, found: list[RowMapping]) -> None:
        kinds = {event["kind"] for event in found}
        with self._ledger.read() as db:
            latest = plans.latest(db, study_id)
            owners = studies.owners(db, study_id)
            before = retention.revisions(db, study_id)
            held_since = events.held_since(db, study_id)
        if EventKind.RERUN in kinds:
            before = set()
        elif latest is not None:
            before.add(str(latest["revision"]))
        forced = not kinds.isdisjoint(_FORCED)
        try:
            task = task_for(
                self._settings, self._store, study_id, owners, frozenset(before), held_since=held_since, forced=forced
            )
        except (ServiceError, RulesError) as error:
            unavailable = Planned(Ending.UNAVAILABLE, study_id, str(error))
            self._deal(lease, found, partial(self._settle, unavailable, found, ()))
            return
        now, left = time.time(), events.left_by_others(found, epoch=lease.epoch)
        with self._ledger.write(lease) as db:
            events.begin(db, [event["event_id"] for event in found], epoch=lease.epoch)
            if left:
                repairs.count(db, RepairKind.EVENT_UNPLANNED, left, now=now)
            if latest is None:
                events.meet(db, study_id, StudyState.PLANNING, now=now)  # its rows may just have been forgotten
                studies.set_state(db, study_id, StudyState.PLANNING, now=now)
        self._children[study_id] = (PlanningChild(task, PLANNING_SECONDS), found)

    def _settle(
        self, planned: Planned, found: Sequence[RowMapping], faults: Sequence[Fault], db: Database, effects: Effects
    ) -> str:
        """Put down what came of the planning; returns it in words. `faults` are those of the services it saw."""
        now, planned = time.time(), self._but_of_removed(planned)
        study_id, ids = planned.study_id, [event["event_id"] for event in found]
        latest = plans.latest(db, study_id)
        result, state, settled = planned.reason, StudyState.WAITING, True  # `state` of a study that has no plan yet
        if planned.last_update is not None:
            studies.set_last_update(db, {study_id: planned.last_update})
        match planned.ending:
            case Ending.PLANNED:
                studies.set_unplanned(db, study_id, None)
                plan_id = adopt(
                    db,
                    planned,
                    why=_why(found, planned.completeness.missing),
                    selected=self._settings.HEADER_FIELDS,
                    faults=[str(fault) for fault in faults],
                    wanted=_wanted(found),
                    gone=self._results.are_gone,
                    effects=effects,
                    now=now,
                )
                result = f"planned as {plan_id}"
            case Ending.UNCHANGED | Ending.OURS:
                studies.remember_owners(db, study_id, planned.owners)
                if latest is None and planned.ending is Ending.UNCHANGED:
                    result = f"revision {planned.revision} was planned before; the ledger keeps no more of it"
                studies.set_unplanned(db, study_id, None)
                state = StudyState.FINISHED
            case Ending.HELD:
                studies.remember_owners(db, study_id, planned.owners)
                complete = planned.completeness
                studies.set_unplanned(db, study_id, result, hold_until=complete.until)
                events.note_held(db, ids, since=complete.since)
            case Ending.GONE:
                studies.end_hold(db, study_id)
                state = StudyState.UNPLANNED
            case Ending.UNAVAILABLE:
                events.put_off(db, ids, result, due_at=now + _BACKOFF[1], counts=False)
                settled = False
            case Ending.FAILED:
                result, settled = _failed(db, found, planned, now=now)
                state = StudyState.UNPLANNED if settled else StudyState.WAITING
        if settled:
            events.settle(db, ids, result, now=now)
        if planned.ending is not Ending.PLANNED:
            if latest is None:
                studies.set_state(db, study_id, state, reason=result, now=now)
            elif settled:
                effects.touched.append(study_id)  # the study stands where its plan stands
        return result

    def _but_of_removed(self, planned: Planned) -> Planned:
        """The same, unless jobs of a service are to run that was removed meanwhile: then the study is planned anew."""
        jobs = planned.plan.jobs if planned.plan is not None else ()
        needed = {job.job.service for job in jobs if job.verdict is Verdict.SCHEDULED}
        if not needed or not (removed := self._removed(needed)):
            return planned
        why = f"service {', '.join(removed)} was removed while it was planned"
        return replace(planned, ending=Ending.UNAVAILABLE, reason=why)

    def _removed(self, services: Iterable[str]) -> list[str]:
        """Those of the services that are not installed any more.

        To be asked within the transaction that queues their jobs: who removes one cancels afterwards what it finds.
        """
        return sorted(set(services) - self._store.current().keys())


def _failed(db: Database, found: Sequence[RowMapping], planned: Planned, *, now: float) -> tuple[str, bool]:
    """Have planning tried again later, or give it up; returns it in words, and whether it was given up."""
    failures = max(int(event["failures"]) for event in found) + 1
    reason = f"planning failed ({failures} of {PLANNING_FAILURES}): {planned.reason}"
    backoff = _ORTHANC_BACKOFF if planned.orthanc_fails else _BACKOFF
    due_at = now + backoff[min(failures, len(backoff)) - 1]
    events.put_off(db, [event["event_id"] for event in found], reason, due_at=due_at, counts=True)
    if failures < PLANNING_FAILURES:
        return reason, False
    _give_up(db, found[0]["study_id"], reason, now=now)
    return reason, True


def _give_up(db: Database, study_id: str, why: str, *, now: float) -> None:
    """The study's newest revision gets no plan; where a plan of an earlier one runs, it is said once that has ended."""
    studies.set_unplanned(db, study_id, why)
    active = plans.active(db, study_id)
    if active is None or active["ended_at"] is not None:
        studies.set_state(db, study_id, StudyState.UNPLANNED, reason=why, now=now)


def _wanted(found: Sequence[RowMapping]) -> set[str]:
    """The job names that reruns ask for, "*" for all; what only tells of the study's instances asks for none."""
    wanted: set[str] = set()
    for event in found:
        if event["kind"] == EventKind.RERUN:
            wanted.update((event["payload"] or {}).get("jobs") or [ALL])
    return wanted


def _why(found: Sequence[RowMapping], missing: str) -> str:
    kinds = ", ".join(dict.fromkeys(str(event["kind"]) for event in found))
    return f"{kinds}; incomplete: {missing}" if missing else kinds


def _cancel(db: Database, study_id: str, job_ids: Sequence[str], effects: Effects, *, now: float) -> str:
    """Jobs that have not started are cancelled now, running ones by their workers; returns it in words.

    One that waits for a run of an earlier plan takes that with it.
    """
    rows = plans.jobs_by_id(db, study_id, job_ids)
    waited_for = [row["reused_from"] for row in rows if row["state"] == JobState.WAITING and row["reused_from"]]
    running = [row for row in [*rows, *plans.jobs_by_id(db, study_id, waited_for)] if row["state"] == JobState.STARTED]
    attempts.ask_cancel(db, [row["job_id"] for row in running], "cancelled by hand: its worker is to end it", now=now)
    effects.cancel.extend(identity.attempt_id(row["job_id"], row["attempt"]) for row in running)
    not_started = (JobState.WAITING, JobState.QUEUED, JobState.RETRYING)
    which = [row["job_id"] for row in rows if row["state"] in not_started]
    effects.unwanted.extend(plans.drop_attempts(db, which, JobState.CANCELLED, "cancelled by hand", now=now))
    effects.touched.append(study_id)
    return f"cancelled {len(which)}, asked the workers of {len(running)} to end"

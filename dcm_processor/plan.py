"""The plan of a study: registry, series and callback outcomes in; for every job a verdict, with its reason, out.

Pure: the same input gives the same plan. Reasons are clauses that read on after the job's name, for people who did not
write the service: "it depends on "dcm2nii", which is not installed".
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from dcm_processor.manifest import ALL, Fault
from dcm_processor.registry import Job, ServiceRegistry, arrows
from dcm_processor.vocabulary import Level, OnDependencyFailure, Stage, Verdict

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, order=True)
class JobKey:
    """One job of a study, or of one of its series (by Orthanc's identifier); no two jobs of a plan have the same."""

    job_name: str
    series_id: str | None


class ReadPlace(StrEnum):
    """Where in `headers` a callback read something."""

    TOP = "top"
    SERIES = "series"  # in the entries of `series`


class ReadFound(StrEnum):
    """Whether what a callback read was there, and if not why."""

    PRESENT = "present"
    ABSENT = "absent"  # the study does not have it
    NOT_SELECTED = "notSelected"  # by HEADER_FIELDS
    DIFFERS = "differs"  # series have it, and do not agree: so it is not at the top
    UNKNOWN = "unknown"  # no DICOM keyword


@dataclass(frozen=True)
class HeaderRead:
    """A keyword that a callback read (`*`: it went through all of them); the value is not kept."""

    keyword: str
    place: ReadPlace
    found: ReadFound


@dataclass(frozen=True)
class CallbackOutcome:
    """What became of asking a callback: its answer, or the error (one line) in place of an answer."""

    applies: bool
    injected: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    traceback: str | None = None
    output: str = ""
    reads: tuple[HeaderRead, ...] | None = None  # None: they were not recorded


@dataclass(frozen=True)
class PlannedJob:
    """A job's place in the plan, from 0; `dependencies` are the scheduled jobs it waits for, in plan order."""

    key: JobKey
    job: Job
    position: int
    verdict: Verdict
    reason: str
    dependencies: tuple[JobKey, ...]
    outcome: CallbackOutcome | None


@dataclass(frozen=True)
class Plan:
    """Every job of the registry, in the order in which callbacks are asked and jobs are enqueued."""

    jobs: tuple[PlannedJob, ...]


def order(registry: ServiceRegistry) -> tuple[Job, ...]:
    """All jobs in plan order: by stage; then dependencies first; then independent ones first, sortPosition, name.

    Dependencies between jobs that are on a cycle together are left out of account, so that the order is complete.
    """
    knots, nobody = registry.knots, frozenset[str]()
    waits_for: dict[str, int] = {}
    awaited_by = defaultdict(list)
    for job in registry.jobs:
        before = [
            name
            for name in registry.edges[job.name]
            if name not in knots.get(job.name, nobody) and _the(registry, name).settings.stage is job.settings.stage
        ]
        waits_for[job.name] = len(before)
        for name in before:
            awaited_by[name].append(job)
    ordered: list[Job] = []
    for stage in Stage:
        ready = [_rank(job) for job in registry.jobs if job.settings.stage is stage and not waits_for[job.name]]
        heapq.heapify(ready)
        while ready:
            job = _the(registry, heapq.heappop(ready)[-1])
            ordered.append(job)
            for dependent in awaited_by[job.name]:
                waits_for[dependent.name] -= 1
                if not waits_for[dependent.name]:
                    heapq.heappush(ready, _rank(dependent))
    return tuple(ordered)


def instances_of(job: Job, series_ids: Sequence[str]) -> tuple[JobKey, ...]:
    """What the job is about in a study of these series: the study, or each of the series in their order."""
    if job.settings.level is Level.STUDY:
        return (JobKey(job.name, None),)
    return tuple(JobKey(job.name, series_id) for series_id in series_ids)


def make_plan(registry: ServiceRegistry, series_ids: Sequence[str], outcomes: Mapping[JobKey, CallbackOutcome]) -> Plan:
    """Decide about every job.

    A job's own state comes first: disabled, errored, declined; then what it depends on. Of an enabled job without an
    outcome it is assumed that its callback failed. A series job in a study without series stands in the plan once.
    """
    planner = _Planner(registry, series_ids, outcomes)
    planner.decide()
    planner.block_later_stages()
    entries = planner.entries
    position = {key: number for number, key in enumerate(entries)}
    return Plan(
        tuple(
            PlannedJob(
                key=key,
                job=entry.job,
                position=position[key],
                verdict=entry.verdict,
                reason=entry.reason,
                dependencies=tuple(sorted(entry.dependencies, key=position.__getitem__)),
                outcome=outcomes.get(key),
            )
            for key, entry in entries.items()
        )
    )


def dependents(plan_jobs: Iterable[PlannedJob], roots: Iterable[JobKey]) -> set[JobKey]:
    """The jobs `roots` and all scheduled ones that stand or fall with them, at any depth (see `downstream`)."""
    scheduled = (planned for planned in plan_jobs if planned.verdict is Verdict.SCHEDULED)
    return downstream(((each.key, each.job.settings.stage, each.dependencies) for each in scheduled), roots)


def downstream(jobs: Iterable[tuple[K, Stage, Collection[K]]], roots: Iterable[K]) -> set[K]:
    """`roots` and what runs again when they do; a job is (itself, its stage, its dependencies).

    That is what depends on them, and for one in stage `pre` every job of later stages, since none runs without it.
    """
    jobs = list(jobs)
    dependents_of = defaultdict(list)
    for job, _, dependencies in jobs:
        for dependency in dependencies:
            dependents_of[dependency].append(job)
    in_pre = {job for job, stage, _ in jobs if stage is Stage.PRE}
    after_pre = [job for job, stage, _ in jobs if stage is not Stage.PRE]
    found: set[K] = set()
    queue = list(roots)
    while queue:
        job = queue.pop()
        if job not in found:
            found.add(job)
            queue += dependents_of[job]
            if job in in_pre:
                queue += after_pre
                after_pre = []
    return found


# -- verdicts


@dataclass
class _Entry:
    """A verdict, and what others that depend on the job say of it: `"a" {state}`."""

    job: Job
    verdict: Verdict
    reason: str
    state: str = ""
    root: str = ""  # why at all, if it is not scheduled: a clause that names the job that began it
    dependencies: set[JobKey] = field(default_factory=set)


class _Planner:
    """What decisions are made from, and those made so far, in plan order."""

    def __init__(
        self, registry: ServiceRegistry, series_ids: Sequence[str], outcomes: Mapping[JobKey, CallbackOutcome]
    ) -> None:
        self.registry = registry
        self.series_ids = series_ids
        self.outcomes = outcomes
        self.ordered = order(registry)
        self.keys = {job.name: instances_of(job, series_ids) or (JobKey(job.name, None),) for job in self.ordered}
        self.entries: dict[JobKey, _Entry] = {}
        self._all: dict[tuple[Stage, str | None], set[JobKey]] = {}

    def decide(self) -> None:
        """Decide about each job after those it depends on."""
        for job in self.ordered:
            for key in self.keys[job.name]:
                self.entries[key] = self._own(key, job) or self._refused(job) or self._by_dependencies(key, job)

    def block_later_stages(self) -> None:
        """Skip whatever is scheduled after stage `pre` if a job of that stage should run and does not.

        It may be an anonymiser: better nothing than what it has not seen. So a pre job with broken settings counts too.
        """
        culprits = [
            f'"{key.job_name}" {entry.state}'
            for key, entry in self.entries.items()
            if entry.job.settings.stage is Stage.PRE and entry.verdict in (Verdict.ERRORED, Verdict.SKIPPED)
        ]
        culprits += [f'"{fault.job}" {_unusable(fault)}' for fault in self.registry.faults if fault.stage is Stage.PRE]
        for entry in self.entries.values():
            if culprits and entry.verdict is Verdict.SCHEDULED and entry.job.settings.stage is not Stage.PRE:
                entry.verdict = Verdict.SKIPPED
                entry.reason = f"nothing runs after stage pre, because its job {culprits[0]}"
                entry.dependencies = set()

    def _own(self, key: JobKey, job: Job) -> _Entry | None:
        """What a job's settings and callback say against it."""
        outcome = self.outcomes.get(key)
        if job.settings.disabled:
            reason = "its service is disabled" if job.service_disabled else "it is disabled"
            return _unscheduled(job, Verdict.DISABLED, reason, "is disabled")
        if job.settings.level is Level.SERIES and not self.series_ids:
            reason = "the study has no series of its own"
            return _unscheduled(job, Verdict.SKIPPED, reason, "has no series to run for")
        if outcome is None or outcome.error is not None:
            error = outcome.error if outcome else "it was not asked"
            return _unscheduled(job, Verdict.ERRORED, f"its callback failed: {error}", "has a callback that failed")
        if not outcome.applies:
            return _unscheduled(job, Verdict.DECLINED, "its callback declined", "was declined by its callback")
        return None

    def _refused(self, job: Job) -> _Entry | None:
        """Dependencies that no order of events can meet, whatever the job says of failed ones."""
        if job.name in self.registry.knots:
            cycle = arrows(self.registry.cycle(job.name))
            reason = f"its dependencies form a cycle: {cycle}"
            return _unscheduled(job, Verdict.SKIPPED, reason, f"is in a cycle ({cycle})")
        if later := self.registry.later(job):
            state = f'depends on "{later.name}", which is of a later stage ({later.settings.stage})'
            return _unscheduled(job, Verdict.SKIPPED, f"it {state}", state)
        return None

    def _by_dependencies(self, key: JobKey, job: Job) -> _Entry:
        """Skipped for want of a dependency, or scheduled after those that are."""
        scheduled: set[JobKey] = set()
        unmet: list[tuple[str, str, str]] = []  # name, state, root
        for name in job.settings.depends_on:
            if name == ALL:
                scheduled |= self._all_before(key, job)
            elif name in self.keys:
                concerned = _seen_from(key, self.keys[name])
                met = {each for each in concerned if self.entries[each].verdict is Verdict.SCHEDULED}
                scheduled |= met
                if not met:
                    unmet.append((name, *_shared_fate(name, [self.entries[each] for each in concerned])))
            else:
                fault = next((fault for fault in self.registry.faults if fault.job == name), None)
                state = _unusable(fault) if fault else "is not installed"
                unmet.append((name, state, f'"{name}" {state}'))
        if not unmet or job.settings.on_dependency_failure is OnDependencyFailure.RUN:
            return _Entry(job, Verdict.SCHEDULED, "its callback accepted", dependencies=scheduled)
        name, state, root = unmet[0]
        others = ", ".join(f'"{name}"' for name, _, _ in unmet[1:4]) + (" and more" if len(unmet) > 4 else "")
        too = f"; {others} will not run either" if others else ""
        reason = f'it depends on "{name}", which {state}{too}'
        return _unscheduled(job, Verdict.SKIPPED, reason, f"is skipped ({root})", root)

    def _all_before(self, key: JobKey, job: Job) -> set[JobKey]:
        """What "*" means for a job: the scheduled jobs of earlier stages, and of its own those without "*".

        It is the same for all jobs of a stage and series, and all of it is decided when the first of them comes.
        """
        stage = job.settings.stage
        if (stage, key.series_id) not in self._all:
            self._all[stage, key.series_id] = {
                each
                for other in self.ordered
                if other.settings.stage.position < stage.position
                or (other.settings.stage is stage and ALL not in other.settings.depends_on)
                for each in _seen_from(key, self.keys[other.name])
                if self.entries[each].verdict is Verdict.SCHEDULED
            }
        return self._all[stage, key.series_id]


def _unscheduled(job: Job, verdict: Verdict, reason: str, state: str, root: str = "") -> _Entry:
    return _Entry(job, verdict, reason, state, root or f'"{job.name}" {state}')


def _seen_from(key: JobKey, others: tuple[JobKey, ...]) -> tuple[JobKey, ...]:
    """Of a job's keys those that concern `key`: for a series job that of the same series, or that of the study."""
    if key.series_id is None or others[0].series_id is None:
        return others
    return (JobKey(others[0].job_name, key.series_id),)


def _unusable(fault: Fault) -> str:
    return f"cannot be used ({fault})"


def _shared_fate(name: str, entries: Sequence[_Entry]) -> tuple[str, str]:
    """State and root of a job none of whose instances in question is scheduled."""
    first = entries[0]
    if all((entry.state, entry.root) == (first.state, first.root) for entry in entries):
        return first.state, first.root
    verdicts = Counter(str(entry.verdict) for entry in entries)
    state = f"is scheduled for no series ({', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())})"
    return state, f'"{name}" {state}'


def _rank(job: Job) -> tuple[bool, float, str]:
    """Smallest first among jobs that may come next."""
    return bool(job.settings.depends_on), job.settings.sort_position, job.name


def _the(registry: ServiceRegistry, name: str) -> Job:
    job = registry.job(name)
    assert job is not None
    return job

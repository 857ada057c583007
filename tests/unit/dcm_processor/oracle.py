"""A second opinion on plans and on how they go on: slow, simple, and written from DESIGN.md §2 and §3 alone.

It shares no code and no method with `plan.py` and `advance.py`: reachability by matrix, order by picking the next job
anew each time, verdicts by striking out until nothing changes, the run by asking every rule of every job after every
event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dcm_processor.manifest import JobSettings
from dcm_processor.plan import CallbackOutcome, JobKey

STAGES = ["pre", "main", "post"]


# -- how jobs depend on each other


class Relations:
    """Who depends on whom, by name; row i of `reach` has bit j if job i needs job j at any depth."""

    def __init__(self, jobs: Sequence[JobSettings]) -> None:
        self.jobs = {job.job_name: job for job in jobs}
        self.names = sorted(self.jobs)
        self.direct = {name: self._direct(name) for name in self.names}
        number = {name: i for i, name in enumerate(self.names)}
        reach = [sum(1 << number[other] for other in self.direct[name]) for name in self.names]
        for middle in range(len(reach)):
            for row in range(len(reach)):
                if reach[row] >> middle & 1:
                    reach[row] |= reach[middle]
        self.reach = {
            name: {other for other in self.names if reach[number[name]] >> number[other] & 1} for name in self.names
        }

    def _direct(self, name: str) -> set[str]:
        job = self.jobs[name]
        needed = {other for other in job.depends_on if other in self.jobs}
        if "*" in job.depends_on:
            needed |= {n for n, other in self.jobs.items() if other.stage == job.stage and "*" not in other.depends_on}
        return needed

    def in_cycle(self, name: str) -> bool:
        return name in self.reach[name]

    def same_cycle(self, one: str, other: str) -> bool:
        return other in self.reach[one] and one in self.reach[other]

    def later(self, name: str) -> set[str]:
        """Dependencies of a later stage."""
        own = STAGES.index(self.jobs[name].stage)
        return {other for other in self.direct[name] if STAGES.index(self.jobs[other].stage) > own}


def expected_order(jobs: Sequence[JobSettings]) -> list[str]:
    """Stage; dependencies first; independent before dependent, sortPosition, name."""
    relations = Relations(jobs)
    order: list[str] = []
    for stage in STAGES:
        left = {job.job_name for job in jobs if job.stage == stage}
        while left:
            free = [
                relations.jobs[name]
                for name in left
                if not any(other in left and not relations.same_cycle(name, other) for other in relations.direct[name])
            ]
            chosen = min(free, key=lambda job: (len(job.depends_on) > 0, job.sort_position, job.job_name))
            left.remove(chosen.job_name)
            order.append(chosen.job_name)
    return order


# -- verdicts


@dataclass
class Opinion:
    """A verdict, the jobs of which the reason names one (if it names any), and the scheduled jobs waited for."""

    verdict: str
    named: set[str] = field(default_factory=set)
    waits_for: set[JobKey] = field(default_factory=set)


def expected_verdicts(
    jobs: Sequence[JobSettings], series: Sequence[str], answers: Mapping[JobKey, CallbackOutcome]
) -> dict[JobKey, Opinion]:
    """One opinion for each job and series."""
    relations = Relations(jobs)
    opinions = {}
    for job in jobs:
        for one in (series or [None]) if job.level == "series" else [None]:
            key = JobKey(job.job_name, one)
            opinions[key] = _by_itself(job, answers.get(key), relations, no_series=not series)
    struck = _strike_out(relations, opinions)
    for key in struck:  # only now is it known which of its dependencies are unmet in the end
        opinions[key].named = _unmet(relations, opinions, key)
    missing = {
        key.job_name
        for key, opinion in opinions.items()
        if relations.jobs[key.job_name].stage == "pre" and opinion.verdict in ("errored", "skipped")
    }
    for key, opinion in opinions.items():
        if missing and opinion.verdict == "scheduled" and relations.jobs[key.job_name].stage != "pre":
            opinion.verdict, opinion.named = "skipped", missing
    for key, opinion in opinions.items():
        if opinion.verdict == "scheduled":
            opinion.waits_for = {
                each for name in _awaited(relations, key) for each in _scheduled(opinions, name, seen_from=key)
            }
    return opinions


def _by_itself(job: JobSettings, answer: CallbackOutcome | None, relations: Relations, *, no_series: bool) -> Opinion:
    """Without looking at what becomes of its dependencies."""
    name = job.job_name
    rules = [
        (job.disabled, Opinion("disabled")),
        (job.level == "series" and no_series, Opinion("skipped")),
        (answer is None or answer.error is not None, Opinion("errored")),
        (answer is not None and not answer.applies, Opinion("declined")),
        (relations.in_cycle(name), Opinion("skipped", {name})),
        (bool(relations.later(name)), Opinion("skipped", relations.later(name))),
    ]
    return next((opinion for applies, opinion in rules if applies), Opinion("scheduled"))


def _strike_out(relations: Relations, opinions: dict[JobKey, Opinion]) -> set[JobKey]:
    """Skip scheduled jobs with an unmet dependency until there is none; which they were."""
    struck: set[JobKey] = set()
    while True:
        more = {
            key
            for key, opinion in opinions.items()
            if opinion.verdict == "scheduled"
            and relations.jobs[key.job_name].on_dependency_failure == "skip"
            and _unmet(relations, opinions, key)
        }
        if not more:
            return struck
        struck |= more
        for key in more:
            opinions[key].verdict = "skipped"


def _scheduled(opinions: dict[JobKey, Opinion], name: str, *, seen_from: JobKey) -> set[JobKey]:
    return {
        key
        for key, opinion in opinions.items()
        if key.job_name == name
        and opinion.verdict == "scheduled"
        and (seen_from.series_id is None or key.series_id in (None, seen_from.series_id))
    }


def _unmet(relations: Relations, opinions: dict[JobKey, Opinion], key: JobKey) -> set[str]:
    named = set(relations.jobs[key.job_name].depends_on) - {"*"}
    return {name for name in named if not _scheduled(opinions, name, seen_from=key)}


def _awaited(relations: Relations, key: JobKey) -> set[str]:
    """Names in dependsOn, and those "*" stands for."""
    job = relations.jobs[key.job_name]
    names = set(job.depends_on) - {"*"}
    if "*" in job.depends_on:
        names |= {
            name
            for name, other in relations.jobs.items()
            if STAGES.index(other.stage) < STAGES.index(job.stage)
            or (other.stage == job.stage and "*" not in other.depends_on)
        }
    return names


# -- the run


@dataclass
class Task:
    """A scheduled job as the run sees it."""

    name: str
    stage: str
    needs: tuple[str, ...]  # ids
    run_anyway: bool
    state: str = "waiting"
    blame: set[str] = field(default_factory=set)  # the jobs that began it, if it is skipped


class World:
    """A run of a plan; tasks by id. `settle` skips what must be skipped; `startable` says what may start."""

    ENDED = ("finished", "failed", "cancelled", "skipped", "superseded")
    SPOILT = ("failed", "cancelled", "skipped", "superseded")

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks

    def settle(self) -> set[str]:
        """Apply the rules until nothing changes; the ids of what they skipped."""
        skipped: set[str] = set()
        changed = True
        while changed:
            changed = False
            for id_, task in self.tasks.items():
                if task.state == "waiting" and (culprits := self._culprits(task)):
                    task.state, task.blame = "skipped", set().union(*(self._blame(each) for each in culprits))
                    skipped.add(id_)
                    changed = True
        return skipped

    def startable(self) -> set[str]:
        return {
            id_
            for id_, task in self.tasks.items()
            if task.state == "waiting"
            and all(self.tasks[need].state in self.ENDED for need in task.needs)
            and all(
                other.state in self.ENDED
                for other in self.tasks.values()
                if STAGES.index(other.stage) < STAGES.index(task.stage)
            )
        }

    def culprits(self, id_: str) -> set[str]:
        """Names of jobs one of which a skipped job's reason names: dependencies and pre jobs that went wrong."""
        return {each.name for each in self._culprits(self.tasks[id_])}

    def _culprits(self, task: Task) -> list[Task]:
        spoilt = [] if task.run_anyway else [self.tasks[need] for need in task.needs]
        if task.stage != "pre":
            spoilt += [other for other in self.tasks.values() if other.stage == "pre"]
        return [other for other in spoilt if other.state in self.SPOILT]

    @staticmethod
    def _blame(task: Task) -> set[str]:
        return task.blame if task.state == "skipped" and task.blame else {task.name}

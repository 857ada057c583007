"""The jobs of all installed services, and how they depend on each other.

"registry" is also RQ's word, so ours is the ServiceRegistry.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from dcm_processor.manifest import ALL, MANIFEST, Fault, JobSettings, ParsedManifest
from dcm_processor.names import did_you_mean
from dcm_processor.vocabulary import Level


@dataclass(frozen=True)
class Job:
    """A job of a version of a service; `digest` names the version.

    `service_disabled`: its service was disabled as a whole (`settings` then say that it is disabled, too).
    """

    service: str
    digest: str
    settings: JobSettings
    service_disabled: bool = False

    @property
    def name(self) -> str:
        return self.settings.job_name


@dataclass(frozen=True)
class ServiceRegistry:
    """The jobs that can be planned, each name once, and the faults of those that cannot.

    The order of `jobs` means nothing; `plan.order` gives the one that does.
    """

    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...] = ()

    def job(self, name: str) -> Job | None:
        """The job of that name, if there is one."""
        return self._by_name.get(name)

    def same(self, service: str, name: str, level: Level) -> Job | None:
        """The job of that name, if it still is that service's, and of that level."""
        found = self.job(name)
        return found if found is not None and (found.service, found.settings.level) == (service, level) else None

    def without(self, disabled: Collection[str]) -> "ServiceRegistry":
        """The same with these services disabled: their jobs are, and none of their faults keeps a study back."""
        if not disabled:
            return self
        jobs = (
            replace(job, settings=job.settings.model_copy(update={"disabled": True}), service_disabled=True)
            if job.service in disabled
            else job
            for job in self.jobs
        )
        faults = (replace(fault, stage=None) if fault.service in disabled else fault for fault in self.faults)
        return ServiceRegistry(tuple(jobs), tuple(faults))

    def of_service(self, service: str) -> tuple[Job, ...]:
        """The jobs of a service."""
        return tuple(job for job in self.jobs if job.service == service)

    @cached_property
    def edges(self) -> Mapping[str, tuple[str, ...]]:
        """For each job the jobs it depends on, each once, by name.

        Named ones that are installed, of whatever stage, and for "*" those of its own stage without "*" (that earlier
        stages come first needs no edge).
        """
        without_all = defaultdict(list)
        for job in sorted(self.jobs, key=lambda job: job.name):
            if ALL not in job.settings.depends_on:
                without_all[job.settings.stage].append(job.name)
        edges = {}
        for job in self.jobs:
            named = dict.fromkeys(name for name in job.settings.depends_on if name in self._by_name)
            if ALL in job.settings.depends_on:
                named |= dict.fromkeys(without_all[job.settings.stage])
            edges[job.name] = tuple(named)
        return edges

    @cached_property
    def knots(self) -> Mapping[str, frozenset[str]]:
        """For each job that is on a cycle: the jobs that are on a cycle with it (itself too)."""
        return {
            name: knot
            for knot in _strongly_connected(self.edges)
            if len(knot) > 1 or any(name in self.edges[name] for name in knot)
            for name in knot
        }

    def cycle(self, name: str) -> tuple[str, ...]:
        """A shortest cycle through a job that is on one, from it to it again: `("a", "b", "a")`."""
        knot = self.knots[name]
        came_from: dict[str, str] = {}
        queue = deque([name])
        while name not in came_from:
            here = queue.popleft()
            for there in self.edges[here]:
                if there in knot and there not in came_from:
                    came_from[there] = here
                    queue.append(there)
        path = [name]
        while len(path) == 1 or path[-1] != name:
            path.append(came_from[path[-1]])
        return tuple(reversed(path))

    def later(self, job: Job) -> Job | None:
        """The first dependency of `job` that is of a later stage: it cannot be waited for."""
        stage = job.settings.stage.position
        named = (self._by_name[name] for name in self.edges[job.name])
        return next((other for other in named if other.settings.stage.position > stage), None)

    @cached_property
    def _by_name(self) -> dict[str, Job]:
        return {job.name: job for job in self.jobs}


def combine(services: Iterable[tuple[str, str, ParsedManifest]], newcomers: Collection[str] = ()) -> ServiceRegistry:
    """The registry of services given as (name, digest, what its manifest says).

    A job name that two services have stays with the one whose name comes first, and with any other than the
    `newcomers`, which are being installed; the other one's is a fault.
    """
    jobs: dict[str, Job] = {}
    faults: list[Fault] = []
    for service, digest, parsed in sorted(services, key=lambda each: (each[0] in newcomers, each[0])):
        faults += parsed.faults
        for settings in parsed.jobs:
            name = settings.job_name
            if name in jobs:
                reason = f'job "{name}" is there already, in service {jobs[name].service}; give this one another name'
                stage = None if settings.disabled else settings.stage
                faults.append(Fault(service, MANIFEST, "jobName", reason, name, stage))
            else:
                jobs[name] = Job(service, digest, settings)
    return ServiceRegistry(tuple(jobs.values()), tuple(faults))


def validate(registry: ServiceRegistry) -> tuple[list[Fault], list[Fault]]:
    """What is wrong, and what is odd, with how the jobs of a registry depend on each other.

    Faults: dependencies in a cycle, on the job itself, on a later stage. Warnings: on what is not (yet) installed.
    `registry.faults` are not repeated.
    """
    faults: list[Fault] = []
    warnings: list[Fault] = []
    names = [job.name for job in registry.jobs]
    for job in sorted(registry.jobs, key=lambda job: (job.service, job.name)):

        def finding(reason: str, job: Job = job) -> Fault:
            stage = None if job.settings.disabled else job.settings.stage
            return Fault(job.service, MANIFEST, "dependsOn", f'job "{job.name}" {reason}', job.name, stage)

        if job.name in registry.knots:
            faults.append(finding(f"depends on itself: {arrows(registry.cycle(job.name))}"))
        if later := registry.later(job):
            stages = f"stage {job.settings.stage} ends before stage {later.settings.stage} begins"
            faults.append(finding(f'depends on "{later.name}" of a later stage: {stages}'))
        for name in job.settings.depends_on:
            if name != ALL and registry.job(name) is None:
                others = [other for other in names if other != job.name]
                hint = did_you_mean(name, others)
                warnings.append(finding(f'depends on "{name}", which is not installed{hint}'))
    return faults, warnings


def arrows(cycle: Iterable[str]) -> str:
    """`a → b → a`, its middle left out where it is long."""
    names = list(cycle)
    if len(names) > 12:
        names[6:-5] = [f"({len(names) - 11} more)"]
    return " → ".join(names)


def _strongly_connected(edges: Mapping[str, Iterable[str]]) -> list[frozenset[str]]:
    """The strongly connected components (Tarjan, without recursion: a chain may be longer than Python's stack)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: dict[str, None] = {}
    found = []
    for root in edges:
        if root in number:
            continue
        path = [(root, iter(edges[root]))]
        number[root] = lowest[root] = len(number)
        open_[root] = None
        while path:
            here, onward = path[-1]
            for there in onward:
                if there not in number:
                    number[there] = lowest[there] = len(number)
                    open_[there] = None
                    path.append((there, iter(edges[there])))
                    break
                if there in open_:
                    lowest[here] = min(lowest[here], number[there])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[here])
                if lowest[here] == number[here]:
                    component = set()
                    while here not in component:
                        component.add(open_.popitem()[0])
                    found.append(frozenset(component))
    return found

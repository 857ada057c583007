"""How a plan goes on: from the states of its scheduled jobs to those that may run now and those that never will.

Pure, and complete in one call: what is skipped here counts as ended for everything else. Whoever does what `advance`
says after every change of a state has no job that waits for ever.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dcm_processor.vocabulary import JobState, OnDependencyFailure, Stage


class Node(NamedTuple):
    """A scheduled job of a plan; `dependencies` are ids of scheduled jobs it waits for."""

    job_id: str
    job_name: str
    stage: Stage
    dependencies: tuple[str, ...]
    on_dependency_failure: OnDependencyFailure


@dataclass(frozen=True)
class Advance:
    """What to do: enqueue `ready` (ids), end `skipped` (id, reason); both in plan order."""

    ready: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def advance(plan: Sequence[Node], outcomes: Mapping[str, JobState]) -> Advance:
    """Decide about the waiting jobs of a plan.

    `outcomes` are the states of its jobs; one that is missing is waiting. A dependency that is not of the plan counts
    as it stands in `outcomes`, and as skipped where it does not. Time grows with jobs and dependencies together.
    """
    run = _Run(plan, outcomes)
    run.skip_dependents()
    run.skip_after_pre()
    ready = run.ready()
    if not ready:
        run.skip_stuck()
    return Advance(
        ready=tuple(ready),
        skipped=tuple((node.job_id, run.reasons[node.job_id]) for node in plan if node.job_id in run.reasons),
    )


_STAGES = {stage: stage.position for stage in Stage}
_SAID = {
    JobState.FAILED: "failed",
    JobState.SKIPPED: "was skipped",
    JobState.CANCELLED: "was cancelled",
    JobState.SUPERSEDED: "was superseded",
}


class _Run:
    """The states as they become while the rules are applied, and why."""

    def __init__(self, plan: Sequence[Node], outcomes: Mapping[str, JobState]) -> None:
        self.plan = plan
        self.names = {node.job_id: node.job_name for node in plan}
        self.states = {node.job_id: outcomes.get(node.job_id, JobState.WAITING) for node in plan}
        self.reasons: dict[str, str] = {}
        self._roots: dict[str, str] = {}  # ended unfinished -> the job that began it
        for node in plan:
            for dependency in node.dependencies:
                if dependency not in self.states:
                    self.states[dependency] = outcomes.get(dependency, JobState.SKIPPED)

    def skip_dependents(self) -> None:
        """Skip, at any depth, what wants dependencies to finish that ended otherwise."""
        ended = [job for job, state in self.states.items() if state in _SAID]
        if not ended:
            return
        wanting = defaultdict(list)
        for node in self.plan:
            if node.on_dependency_failure is OnDependencyFailure.SKIP:
                for dependency in node.dependencies:
                    wanting[dependency].append(node.job_id)
        # Those that began it come first, so that each skipped job can name the one it goes back to.
        for root in sorted(ended, key=lambda job: self.states[job] is JobState.SKIPPED):
            if root in self._roots:
                continue
            self._roots[root] = root
            queue = deque([root])
            while queue:
                cause = queue.popleft()
                for job in wanting[cause]:
                    if job not in self._roots and self.states[job] in (JobState.WAITING, JobState.SKIPPED):
                        self._skip(job, f"it depends on {self._fate(cause, ', which ')}")
                        self._roots[job] = self._roots[cause]
                        queue.append(job)

    def skip_after_pre(self) -> None:
        """Skip all of the later stages once a job of stage `pre` ended unfinished."""
        unfinished = (node for node in self.plan if node.stage is Stage.PRE and self.states[node.job_id] in _SAID)
        if culprit := next(unfinished, None):
            reason = f"nothing runs after stage pre, because its job {self._fate(culprit.job_id, ' ')}"
            for node in self.plan:
                if node.stage is not Stage.PRE:
                    self._skip(node.job_id, reason)

    def ready(self) -> list[str]:
        """Waiting jobs whose earlier stages and dependencies have all ended."""
        unended = {node.stage for node in self.plan if not self.states[node.job_id].ended}
        current = min(unended, key=_STAGES.__getitem__, default=None)
        return [
            node.job_id
            for node in self.plan
            if self.states[node.job_id] is JobState.WAITING
            and node.stage is current
            and all(self.states[dependency].ended for dependency in node.dependencies)
        ]

    def skip_stuck(self) -> None:
        """Skip what waits though nothing goes on any more.

        A plan of ours holds no cycle and so never comes here; whatever else is handed in does not wait for ever either.
        """
        if all(state.ended or (state is JobState.WAITING and job in self.names) for job, state in self.states.items()):
            for node in self.plan:
                self._skip(node.job_id, "it waits for jobs that wait for it")

    def _skip(self, job: str, reason: str) -> None:
        if self.states[job] is JobState.WAITING:
            self.states[job] = JobState.SKIPPED
            self.reasons[job] = reason

    def _fate(self, job: str, joint: str) -> str:
        """`"b", which was skipped ("a" failed)`"""
        root = self._roots[job]
        why = "" if root == job else f" ({self._named(root)} {_SAID[self.states[root]]})"
        return f"{self._named(job)}{joint}{_SAID[self.states[job]]}{why}"

    def _named(self, job: str) -> str:
        return f'"{self.names.get(job, job)}"'

"""A study's history: what happened to it and why, in order, told from its plans and events. Pure.

Plans, jobs and events are dicts as `ledger.views` makes them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcm_processor.vocabulary import HELD, EventKind, JobState, Verdict

_NAMES = 8  # of jobs, in one entry; the plan itself has all
_REASONS = 3
_PLANNED = "planned as "

Job = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One thing that happened: `what` is an event's kind, or received, held, grown, changed, planned, ended."""

    at: str  # RFC 3339
    what: str
    text: str
    plan_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"at": self.at, "what": self.what, "text": self.text, "planId": self.plan_id}


def history(
    first_seen_at: str, plans: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All there is to tell, oldest first; `plans` and `events` come newest first."""
    names = {job["jobId"]: job["jobName"] for plan in plans for job in plan["jobs"]}
    told = [Entry(first_seen_at, "received", "the platform first heard of the study")]
    told += [entry for event in reversed(events) if (entry := _of_event(event, names))]
    ordered = list(reversed(plans))
    superseded = _superseded(job for plan in plans for job in plan["jobs"])
    for before, plan, after in zip([None, *ordered], ordered, [*ordered[1:], None], strict=False):
        told += _of_plan(before, plan, after, superseded[plan["planId"]])
    return [entry.to_json() for entry in sorted(told, key=lambda entry: entry.at)]


def came_of(event: Mapping[str, Any]) -> str:
    """What came of an event so far."""
    if event["handledAt"]:
        return str(event["result"])
    return f"{event['result']}; to be tried again" if event["result"] else "not dealt with yet"


def _of_event(event: Mapping[str, Any], names: Mapping[str, str]) -> Entry | None:
    """None for one that only led to a plan: that tells it itself."""
    kind, text = event["kind"], came_of(event)
    if kind in (EventKind.RERUN, EventKind.CANCEL):  # what somebody asked for, when it was asked for
        asked = _asked(event["payload"] or {}, names)
        return Entry(event["receivedAt"], kind, f"{asked}: {text}" if asked else text)
    if text.startswith(_PLANNED):
        return None
    at = event["handledAt"] or event["receivedAt"]
    if text.startswith(HELD):
        return Entry(at, "held", text.removeprefix(HELD))
    return Entry(at, kind, text)


def _asked(payload: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The jobs that a request names; "" for all."""
    ids = payload.get("jobIds") or []
    return _listed([*(payload.get("jobs") or []), *(names.get(job_id, "a job of another plan") for job_id in ids)])


def _of_plan(
    before: Mapping[str, Any] | None,
    plan: Mapping[str, Any],
    after: Mapping[str, Any] | None,
    superseded: Sequence[Job],
) -> list[Entry]:
    plan_id, at = plan["planId"], plan["createdAt"]
    told = []
    if before is not None and before["revision"] != plan["revision"]:
        told.append(_growth(before, plan))
    size = f"{len(plan['seriesIds'])} series, {plan['numberOfInstances']} instances"
    parts = [f"{plan['reason']}; {size}, revision {plan['revision']}, run {plan['run']}", *_jobs(plan)]
    if superseded:
        parts.append(f"superseded, not started: {_named(superseded)}")
    running = [job for job in before["jobs"] if job["state"] == JobState.STARTED] if before is not None else []
    if running and after is None and plan["endedAt"] is None:
        parts.append(f"begins when these of the plan before have ended: {_named(running)}")
    told.append(Entry(at, "planned", "; ".join(parts), plan_id))
    if plan["endedAt"] is not None and (after is None or plan["endedAt"] < after["createdAt"]):
        told.append(Entry(plan["endedAt"], "ended", _end(plan), plan_id))
    return told


def _growth(before: Mapping[str, Any], plan: Mapping[str, Any]) -> Entry:
    old, new = set(before["seriesIds"]), set(plan["seriesIds"])
    instances = plan["numberOfInstances"] - before["numberOfInstances"]
    parts = [f"{len(new - old)} series more"] if new - old else []
    parts += [f"{len(old - new)} series fewer"] if old - new else []
    if instances:
        parts.append(f"{abs(instances)} instances {'more' if instances > 0 else 'fewer'}")
    what = "grown" if instances > 0 and not old - new else "changed"
    return Entry(plan["createdAt"], what, ", ".join(parts) or "other instances", plan["planId"])


def _jobs(plan: Mapping[str, Any]) -> list[str]:
    """What the plan decided, each group of jobs with its names."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in plan["jobs"]:
        groups[_decided(job, plan["createdAt"])].append(job)
    order = ("to run", "goes on", "stands as it ended before", *Verdict)
    return [f"{words}: {_named(groups[words])}" for words in order if words in groups] or ["no service is installed"]


def _decided(job: Job, planned_at: str) -> str:
    if job["verdict"] != Verdict.SCHEDULED:
        return str(job["verdict"])
    if job["reusedFrom"] is None:
        return "to run"
    return "goes on" if job["endedAt"] is None or job["endedAt"] > planned_at else "stands as it ended before"


def _end(plan: Mapping[str, Any]) -> str:
    counts = Counter(job["state"] for job in plan["jobs"] if job["verdict"] == Verdict.SCHEDULED)
    bad = [job for job in plan["jobs"] if job["state"] in (JobState.FAILED, JobState.CANCELLED)]
    whys = [f"{job['jobName']}: {job['reason']}" for job in bad[:_REASONS]]
    if len(bad) > _REASONS:
        whys.append(f"and {len(bad) - _REASONS} more")
    told = ", ".join(f"{number} {state}" for state, number in counts.items()) or "no job applies"
    return f"{told} ({'; '.join(whys)})" if whys else told


def _superseded(jobs: Iterable[Job]) -> Mapping[str, list[Job]]:
    """plan id -> the jobs of earlier plans that it superseded."""
    found = defaultdict(list)
    for job in jobs:
        if job["state"] == JobState.SUPERSEDED:
            found[str(job["reason"]).rpartition(" ")[2]].append(job)
    return found


def _named(jobs: Iterable[Job]) -> str:
    return _listed(job["jobName"] for job in jobs)


def _listed(names: Iterable[str]) -> str:
    """`a, b (5)`: each name once, with how often it is there."""
    counts = Counter(names)
    told = [name if number == 1 else f"{name} ({number})" for name, number in list(counts.items())[:_NAMES]]
    return ", ".join(told + ([f"and {len(counts) - _NAMES} more"] if len(counts) > _NAMES else []))

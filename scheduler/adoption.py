"""A plan put into the ledger: its jobs, what of earlier plans stands for them, what it supersedes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from dcm_processor import identity
from dcm_processor.ledger import plans, studies
from dcm_processor.manifest import ALL
from dcm_processor.plan import JobKey, Plan, PlannedJob, dependents, downstream
from dcm_processor.registry import ServiceRegistry
from dcm_processor.vocabulary import JobState, Level, OnUpdate, Stage, Verdict
from scheduler.effects import Effects
from scheduler.enqueue import orders_of, plan_order_of
from scheduler.planning import Planned
from scheduler.progress import apply, carried, decide

Gone = Callable[[Mapping[Any, Any]], bool]
"""Whether the results of a finished job, a row, are not there any more."""


def _none_is(_job: Mapping[Any, Any]) -> bool:
    return False


_LATER = 1e-6  # seconds: what a float tells apart
_GOES_ON = "the run that an earlier plan began goes on"


def adopt(
    db: Connection,
    planned: Planned,
    *,
    why: str,
    selected: Sequence[str],
    faults: Sequence[str],
    wanted: Collection[str],
    gone: Gone = _none_is,
    effects: Effects,
    now: float,
) -> str:
    """Make `planned` the study's active plan and queue what may run; returns its id.

    `wanted`: the job names of a rerun, which run again together with what depends on them; "*": all of them. So do jobs
    whose results are `gone` and that others need as inputs.
    """
    assert planned.plan is not None
    earlier = plans.latest(db, planned.study_id)
    run = plans.next_run(db, planned.study_id, planned.revision)
    plan_id = identity.plan_id(planned.study_id, planned.revision, run)
    standing = _standing(db, planned, planned.plan, wanted, earlier, gone=gone) if earlier is not None else {}
    rows = [_row(plan_id, planned.study_id, job, standing.get(job.key), now=now) for job in planned.plan.jobs]
    plan = {
        "plan_id": plan_id,
        "study_id": planned.study_id,
        "revision": planned.revision,
        "run": run,
        "reason": why,
        "headers": planned.headers,
        "selected": list(selected),
        "instances": planned.instances,
        "faults": list(faults) or None,
    }
    studies.remember_owners(db, planned.study_id, planned.owners)
    _put(db, plan, rows, effects, earlier, now=now)
    return plan_id


def rerun_jobs(
    db: Connection,
    study_id: str,
    job_ids: Collection[str],
    registry: ServiceRegistry,
    effects: Effects,
    *,
    gone: Gone = _none_is,
    now: float,
) -> str:
    """Run jobs of a plan again with what depends on them: headers and params as they were, the services of today.

    Returns what came of it. Everything else of the plan stands in the new one as it ended, but for what they need and
    whose results are `gone`. A job of an older plan stands for the newest plan's of the same name and series.
    """
    latest = plans.latest(db, study_id)
    old_jobs = plans.jobs_of(db, latest["plan_id"]) if latest else []
    named = {(job["job_name"], job["series_id"]) for job in plans.jobs_by_id(db, study_id, job_ids)}
    roots = {job["job_id"] for job in old_jobs if (job["job_name"], job["series_id"]) in named}
    if latest is None or not roots:
        return "the study's newest plan has none of these jobs; rerun the study instead"
    edges = [(job["job_id"], Stage(job["settings"]["stage"]), job["dependencies"]) for job in old_jobs]
    again = downstream(edges, roots)
    while missing := _missing(old_jobs, again, gone):
        again = downstream(edges, again | missing)
    run = plans.next_run(db, study_id, latest["revision"])
    plan_id = identity.plan_id(study_id, latest["revision"], run)
    new_ids = {job["job_id"]: identity.job_id(plan_id, job["job_name"], job["series_id"]) for job in old_jobs}
    rows = []
    for job in old_jobs:
        row = {
            **job,
            "job_id": new_ids[job["job_id"]],
            "plan_id": plan_id,
            "dependencies": [new_ids[dependency] for dependency in job["dependencies"]],
            "created_at": now,
            "attempt": 0,
            "failures": 0,
            "transients": 0,
            "losses": 0,
            "outages": 0,
            "due_at": None,
            "cancel_asked_at": None,
        }
        if job["job_id"] in again and job["verdict"] == Verdict.SCHEDULED:
            row |= {
                "state": JobState.WAITING,
                "reason": None,
                "started_at": None,
                "ended_at": None,
                "reused_from": None,
            }
            if today := registry.same(job["service"], job["job_name"], Level(job["settings"]["level"])):
                row |= {
                    "digest": today.digest,
                    "settings": today.settings.in_plan_of(job["settings"]),
                    "queue": today.settings.priority,
                }
            else:
                why = f"service {job['service']} was removed, or has this job no more"
                row |= {"state": JobState.CANCELLED, "reason": why, "ended_at": now}
        elif job["state"] is not None:
            if not JobState(job["state"]).ended:
                reason = _GOES_ON if _runs(job) else None
                row |= {"state": JobState.WAITING, "reason": reason, "started_at": None}
            row |= {"reused_from": _reused(job)}
        rows.append(row)
    names = sorted({job["job_name"] for job in old_jobs if job["job_id"] in roots})
    whole = plans.get(db, latest["plan_id"])
    assert whole is not None
    plan = {key: whole[key] for key in ("study_id", "revision", "headers", "selected", "instances", "faults")} | {
        "plan_id": plan_id,
        "run": run,
        "reason": f"rerun of {', '.join(names)}",
    }
    _put(db, plan, rows, effects, latest, now=now)
    return f"planned as {plan_id}"


def _put(
    db: Connection,
    plan: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    effects: Effects,
    earlier: RowMapping | None,
    *,
    now: float,
) -> None:
    """Write the plan with what may run already queued and what never will already skipped.

    It is made later than the `earlier` one, the study's newest until now, though the clock was set back since.
    """
    study_id, plan_id = plan["study_id"], plan["plan_id"]
    created_at = now if earlier is None else max(now, earlier["created_at"] + _LATER)
    if earlier is not None:
        unwanted, before = plans.supersede(db, study_id, plan_id, now=now)
        effects.unwanted.extend(unwanted)
        effects.ended_plans.extend(before)
    decision = decide(rows, blocked=earlier is not None and plans.predecessor_runs(db, study_id, plan_id))
    apply(decision, rows, now=now)
    plans.add(db, {**plan, "created_at": created_at, "ended_at": now if decision.ended else None}, rows, now=now)
    studies.set_plan(
        db, study_id, plan_id, headers=plan["headers"], state=decision.study, reason=decision.reason, now=now
    )
    if decision.ready:
        ready = set(decision.ready)
        made = orders_of(rows, [row for row in rows if row["job_id"] in ready])
        effects.new.append((plan_order_of(plan, rows), made))


def _row(plan_id: str, study_id: str, planned: PlannedJob, reused: RowMapping | None, *, now: float) -> dict[str, Any]:
    settings, outcome, key = planned.job.settings, planned.outcome, planned.key
    state, reason = None, planned.reason
    if planned.verdict is Verdict.SCHEDULED:
        state = JobState.WAITING
        if reused is not None:
            ended = JobState(reused["state"]).ended
            state, reason = (JobState(reused["state"]), carried(reused)) if ended else (state, _GOES_ON)
    elif planned.verdict is Verdict.SKIPPED:
        state = JobState.SKIPPED
    return {
        "job_id": identity.job_id(plan_id, key.job_name, key.series_id),
        "plan_id": plan_id,
        "study_id": study_id,
        "series_id": key.series_id,
        "job_name": key.job_name,
        "service": planned.job.service,
        "digest": planned.job.digest,
        "position": planned.position,
        "settings": settings.to_json(),
        "verdict": planned.verdict,
        "reason": reason,
        "traceback": outcome.traceback if outcome else None,
        "output": outcome.output if outcome else None,
        "injected": (outcome.injected or None) if outcome else None,
        "dependencies": [identity.job_id(plan_id, each.job_name, each.series_id) for each in planned.dependencies],
        "reused_from": _reused(reused) if reused is not None else None,
        "state": state,
        "queue": settings.priority,
        "attempt": 0,
        "failures": 0,
        "transients": 0,
        "losses": 0,
        "outages": 0,
        "due_at": None,
        "created_at": now,
        "started_at": reused["started_at"] if reused is not None and state is not JobState.WAITING else None,
        "ended_at": reused["ended_at"] if reused is not None else (now if state is JobState.SKIPPED else None),
    }


def _standing(
    db: Connection, planned: Planned, plan: Plan, wanted: Collection[str], earlier: RowMapping, *, gone: Gone
) -> Mapping[JobKey, RowMapping]:
    """Which jobs need not run because what they became in the `earlier` plan stands.

    So does what a job becomes that runs right now, should it finish.
    """
    if ALL in wanted:
        return {}
    rows = {
        JobKey(job["job_name"], job["series_id"]): job
        for job in plans.jobs_of(db, earlier["plan_id"])
        if job["verdict"] == Verdict.SCHEDULED and (JobState(job["state"]).ended or _runs(job))
    }
    good = {key: row for key, row in rows.items() if row["state"] == JobState.FINISHED or _runs(row)}
    again = dependents(plan.jobs, [job.key for job in plan.jobs if job.key.job_name in wanted])
    if earlier["revision"] == planned.revision:
        needed = _ancestors(plan, again)
        standing = {key: row for key, row in rows.items() if key in good or key not in needed}
    else:
        standing = _untouched(plan, good, plans.instances(db, earlier["plan_id"]), planned.instances)
    while True:
        standing = {key: row for key, row in standing.items() if key not in again}
        run = [job for job in plan.jobs if job.verdict is Verdict.SCHEDULED and job.key not in standing]
        needed = {key for job in run for key in job.dependencies if key in standing}
        missing = {key for key in needed if standing[key]["state"] == JobState.FINISHED and gone(standing[key])}
        if not missing:
            return standing
        again = dependents(plan.jobs, missing)


def _missing(jobs: Sequence[RowMapping], again: Collection[str], gone: Gone) -> set[str]:
    """Of a plan's jobs those that finished, that one of `again` needs, and whose results are gone."""
    run = [job for job in jobs if job["job_id"] in again and job["verdict"] == Verdict.SCHEDULED]
    needed = {dependency for job in run for dependency in job["dependencies"]} - set(again)
    finished = [job for job in jobs if job["job_id"] in needed and job["state"] == JobState.FINISHED]
    return {job["job_id"] for job in finished if gone(job)}


def _untouched(
    plan: Plan,
    good: Mapping[JobKey, RowMapping],
    before: Mapping[str, Sequence[str]],
    now: Mapping[str, Sequence[str]],
) -> dict[JobKey, RowMapping]:
    """Of `good` jobs those that stand though the study grew; `before` and `now` are the series' instances."""
    standing: dict[JobKey, RowMapping] = {}
    unchanged = {series_id for series_id, ids in now.items() if _same(before.get(series_id, ()), ids)}
    for job in plan.jobs:
        if (row := good.get(job.key)) is None:
            continue
        settings = job.job.settings
        same_series = settings.level is Level.SERIES and job.key.series_id in unchanged
        if settings.on_update is OnUpdate.IGNORE or (
            same_series and row["digest"] == job.job.digest and all(key in standing for key in job.dependencies)
        ):
            standing[job.key] = row
    return standing


def _same(before: Sequence[str], now: Sequence[str]) -> bool:
    """Whether these are the same instances; of a million it is to be known soon."""
    return len(before) == len(now) and (before == now or set(before) == set(now))


def _runs(job: Mapping[Any, Any]) -> bool:
    """Whether the job, or the one whose end it waits to take over, runs right now."""
    return job["state"] == JobState.STARTED or (job["state"] == JobState.WAITING and job["reused_from"] is not None)


def _reused(job: Mapping[Any, Any]) -> str | None:
    """The job that ran, or runs, in the place of this one of an earlier plan; None: nothing that could be reused."""
    if JobState(job["state"]).ended or _runs(job):
        return str(job["reused_from"] or job["job_id"])
    return None


def _ancestors(plan: Plan, keys: Collection[JobKey]) -> set[JobKey]:
    """What the jobs depend on, at any depth; a plan has dependencies before dependents."""
    needed = set(keys)
    for job in reversed(plan.jobs):
        if job.key in needed:
            needed.update(job.dependencies)
    return needed - set(keys)

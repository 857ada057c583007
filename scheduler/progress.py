"""One plan taken as far as it goes now, inside the caller's transaction."""

from collections.abc import Sequence

from dcm_processor.advance import Node, advance
from sqlalchemy import Connection, RowMapping

from dcm_processor.ledger import attempts, plans, studies
from dcm_processor.vocabulary import JobState, OnDependencyFailure, Stage, StudyState, Verdict


def progress(db: Connection, plan_id: str, *, now: float) -> list[str]:
    """Skip what will never run, queue what may run now, and end the plan when all has ended.

    Returns the ids of the jobs whose new attempts are to be enqueued once the transaction is on the disk. Doing it
    again changes nothing.
    """
    plan = plans.get(db, plan_id)
    if plan is None or not plan["active"]:
        return []
    jobs = plans.jobs_of(db, plan_id)
    scheduled = [job for job in jobs if job["verdict"] == Verdict.SCHEDULED]
    states = {job["job_id"]: JobState(job["state"]) for job in scheduled}
    decided = advance([_node(job) for job in scheduled], states)
    attempts.skip(db, decided.skipped, now=now)
    states |= dict.fromkeys((job_id for job_id, _ in decided.skipped), JobState.SKIPPED)
    ready: list[RowMapping] = []
    if decided.ready and not plans.predecessor_runs(db, plan["study_id"], plan_id):
        by_id = {job["job_id"]: job for job in scheduled}
        ready = [by_id[job_id] for job_id in decided.ready]
        attempts.queue(db, ready, now=now)
        states |= {job["job_id"]: JobState.QUEUED for job in ready}
    if all(state.ended for state in states.values()):
        if plan["ended_at"] is None:
            plans.end(db, plan_id, now=now)
        state, reason = _verdict(jobs, states)
        studies.set_state(db, plan["study_id"], state, reason=reason, now=now)
    else:
        studies.set_state(db, plan["study_id"], StudyState.RUNNING, now=now)
    return [job["job_id"] for job in ready]


def _node(job: RowMapping) -> Node:
    settings = job["settings"]
    return Node(
        job_id=job["job_id"],
        job_name=job["job_name"],
        stage=Stage(settings["stage"]),
        dependencies=tuple(job["dependencies"]),
        on_dependency_failure=OnDependencyFailure(settings["onDependencyFailure"]),
    )


def _verdict(jobs: Sequence[RowMapping], states: dict[str, JobState]) -> tuple[StudyState, str | None]:
    """A study failed where a job failed, was cancelled, or could not be decided about."""
    bad = [
        job["job_name"]
        for job in jobs
        if states.get(job["job_id"]) in (JobState.FAILED, JobState.CANCELLED) or job["verdict"] == Verdict.ERRORED
    ]
    if bad:
        names = ", ".join(dict.fromkeys(bad))
        return StudyState.FAILED, f"not finished: {names}"
    if not states:
        return StudyState.FINISHED, "no job applies"
    return StudyState.FINISHED, None

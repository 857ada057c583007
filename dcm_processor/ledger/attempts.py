"""Jobs on their way: attempts queued, started and ended, and what that makes of their jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, exists, func, insert, select, update

from dcm_processor import identity
from dcm_processor.ledger import plans
from dcm_processor.ledger.prepared import Prepared
from dcm_processor.ledger.schema import attempts, jobs
from dcm_processor.ledger.schema import plans as plans_table
from dcm_processor.vocabulary import AttemptState, JobState


@dataclass(frozen=True)
class Cancelled:
    """How many jobs were cancelled, and their queued attempts: nobody waits for these any more."""

    jobs: int
    attempts: Sequence[str] = ()


_UNENDED = tuple(state for state in JobState if not state.ended)
_NOT_STARTED = (JobState.WAITING, JobState.QUEUED, JobState.RETRYING)

# Made once: whoever waits for a job's successor waits for these, and an idle controller asks every second.
_LONG = ("error", "traceback", "phases", "details", "output", "injected", "dependencies")
_ATTEMPT_COLUMNS = [column for column in attempts.c if column.key not in _LONG]
_JOB_COLUMNS = [column for column in jobs.c if column.key not in _LONG]
_ATTEMPT = Prepared(
    select(*_ATTEMPT_COLUMNS, *_JOB_COLUMNS)
    .join(jobs, jobs.c.job_id == attempts.c.job_id)
    .where(attempts.c.attempt_id == bindparam("attempt"))
)
_RETRIES_DUE = (
    select(jobs).where(jobs.c.state == JobState.RETRYING, jobs.c.due_at <= bindparam("now")).order_by(jobs.c.due_at)
)
_ADD = Prepared(insert(attempts))
_SET_ATTEMPT = Prepared(update(attempts).where(attempts.c.attempt_id == bindparam("of_attempt")))
_SET_JOB = Prepared(update(jobs).where(jobs.c.job_id == bindparam("of_job")))


def queue(db: Connection, rows: Sequence[Mapping[Any, Any]], *, now: float) -> list[str]:
    """Give each of the jobs its next attempt, queued; returns the attempts' ids in the order given."""
    if not rows:
        return []
    made = [
        {
            "attempt_id": identity.attempt_id(row["job_id"], row["attempt"] + 1),
            "job_id": row["job_id"],
            "attempt": row["attempt"] + 1,
            "state": AttemptState.QUEUED,
            "queued_at": now,
        }
        for row in rows
    ]
    _ADD.run(db, *made)
    queued = {"state": JobState.QUEUED, "due_at": None, "reason": None}
    _SET_JOB.run(db, *({**queued, "of_job": row["job_id"], "attempt": row["attempt"]} for row in made))
    return [str(row["attempt_id"]) for row in made]


def get(db: Connection, attempt_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The attempt and its job, but for what they said; None where the ledger knows no such attempt."""
    found = _ATTEMPT.rows(db, {"attempt": attempt_id})
    if not found:
        return None
    values = iter(found[0])
    attempt = {column.key: next(values) for column in _ATTEMPT_COLUMNS}
    return attempt, {column.key: next(values) for column in _JOB_COLUMNS}


def finished_among(db: Connection, attempt_ids: Sequence[str]) -> dict[str, RowMapping]:
    """Of these attempts those that finished their job, with the job; those of the newest plan are the last.

    `outdated`: a later plan's job, of which the results lie in the same place, has finished too.
    """
    newer, newer_plan = jobs.alias(), plans_table.alias()
    outdated = exists().where(
        newer_plan.c.plan_id == newer.c.plan_id,
        newer_plan.c.created_at > plans_table.c.created_at,
        newer.c.study_id == jobs.c.study_id,
        newer.c.job_name == jobs.c.job_name,
        newer.c.series_id.is_not_distinct_from(jobs.c.series_id),
        newer.c.state == JobState.FINISHED,
        newer.c.reused_from.is_(None),
    )
    found: dict[str, RowMapping] = {}
    for start in range(0, len(attempt_ids), 1000):  # a database takes so many parameters, not any number
        made = plans_table.c.created_at.label("planned_at")
        query = select(attempts.c.attempt_id.label("finished"), jobs, made, outdated.label("outdated"))
        query = query.join(jobs, jobs.c.job_id == attempts.c.job_id)
        query = query.join(plans_table, plans_table.c.plan_id == jobs.c.plan_id)
        query = query.where(
            attempts.c.attempt_id.in_(attempt_ids[start : start + 1000]), attempts.c.state == AttemptState.FINISHED
        )
        found |= {row["finished"]: row for row in db.execute(query).mappings()}
    return dict(sorted(found.items(), key=lambda each: (each[1]["planned_at"], each[1]["ended_at"])))


def unended_among(db: Connection, attempt_ids: Sequence[str]) -> set[str]:
    """Those of the attempts that are queued or started."""
    found: set[str] = set()
    for start in range(0, len(attempt_ids), 1000):
        some = attempts.c.attempt_id.in_(attempt_ids[start : start + 1000])
        states = attempts.c.state.in_((AttemptState.QUEUED, AttemptState.STARTED))
        found.update(db.execute(select(attempts.c.attempt_id).where(some, states)).scalars())
    return found


def start(
    db: Connection, attempt: Mapping[str, Any], *, worker: str | None = None, host: str | None = None, now: float
) -> None:
    """A worker claimed the attempt; which one is None as long as only the claim was seen."""
    db.execute(
        update(attempts)
        .where(attempts.c.attempt_id == attempt["attempt_id"])
        .values(
            state=AttemptState.STARTED,
            started_at=func.coalesce(attempts.c.started_at, now),
            worker=worker and worker[:128],
            host=host and host[:128],
        )
    )
    db.execute(
        update(jobs)
        .where(jobs.c.job_id == attempt["job_id"])
        .values(state=JobState.STARTED, started_at=func.coalesce(jobs.c.started_at, now))
    )


def end(db: Connection, attempt_id: str, state: AttemptState, values: Mapping[str, Any], *, now: float) -> None:
    _SET_ATTEMPT.run(db, {**values, "of_attempt": attempt_id, "state": state, "ended_at": now})


def set_job(db: Connection, job_id: str, values: Mapping[str, Any]) -> None:
    _SET_JOB.run(db, {**values, "of_job": job_id})


def ask_cancel(db: Connection, ids: Sequence[str], reason: str, *, now: float) -> None:
    """Running jobs are to be cancelled: none of them is tried again, however its attempt ends."""
    for start in range(0, len(ids), 1000):  # a database takes so many parameters, not any number
        db.execute(
            update(jobs).where(jobs.c.job_id.in_(ids[start : start + 1000])).values(cancel_asked_at=now, reason=reason)
        )


def skip(db: Connection, skipped: Sequence[tuple[str, str]], *, now: float) -> None:
    """End jobs that will never run; `skipped` holds (job id, reason)."""
    if skipped:
        db.execute(
            update(jobs)
            .where(jobs.c.job_id == bindparam("of_job"))
            .values(state=JobState.SKIPPED, reason=bindparam("why"), ended_at=now),
            [{"of_job": job_id, "why": reason} for job_id, reason in skipped],
        )


def started(db: Connection) -> Sequence[RowMapping]:
    """Started attempts: attempt_id, and cancel_asked_at of the job."""
    query = select(attempts.c.attempt_id, jobs.c.cancel_asked_at).join(jobs, jobs.c.job_id == attempts.c.job_id)
    return db.execute(query.where(attempts.c.state == AttemptState.STARTED)).mappings().all()


def queued(db: Connection) -> Sequence[tuple[str, str, str, str, float]]:
    """Queued attempts, oldest first: attempt_id, job_id, plan_id, queue, queued_at."""
    query = select(attempts.c.attempt_id, jobs.c.job_id, jobs.c.plan_id, jobs.c.queue, attempts.c.queued_at)
    query = query.join(jobs, jobs.c.job_id == attempts.c.job_id).where(attempts.c.state == AttemptState.QUEUED)
    return db.execute(query.order_by(attempts.c.queued_at)).all()


def retries_due(db: Connection, *, now: float) -> Sequence[RowMapping]:
    return db.execute(_RETRIES_DUE, {"now": now}).mappings().all()


def retrying(db: Connection, *, after: float) -> Sequence[RowMapping]:
    """Jobs whose next attempt is due later than that: job_id, due_at, settings, outages."""
    query = select(jobs.c.job_id, jobs.c.due_at, jobs.c.settings, jobs.c.outages)
    return db.execute(query.where(jobs.c.state == JobState.RETRYING, jobs.c.due_at > after)).mappings().all()


def count_unended(db: Connection, service: str) -> dict[str, int]:
    query = select(jobs.c.state, func.count()).where(jobs.c.service == service, jobs.c.state.in_(_UNENDED))
    return {str(state): int(number) for state, number in db.execute(query.group_by(jobs.c.state))}


def cancel_service(db: Connection, service: str, reason: str, *, now: float) -> Cancelled:
    """Cancel the service's jobs that have not started."""
    which = select(jobs.c.job_id).where(jobs.c.service == service, jobs.c.state.in_(_NOT_STARTED))
    ids = db.execute(which).scalars().all()
    return Cancelled(len(ids), plans.drop_attempts(db, ids, JobState.CANCELLED, reason, now=now))


def pinned(db: Connection) -> set[tuple[str, str]]:
    query = select(jobs.c.service, jobs.c.digest).where(jobs.c.state.in_(_UNENDED)).distinct()
    return {(service, digest) for service, digest in db.execute(query)}

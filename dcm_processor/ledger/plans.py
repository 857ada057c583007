"""Plans and their jobs: what was decided about a study, and what replaced it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Exists,
    RowMapping,
    and_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)

from dcm_processor import identity
from dcm_processor.ledger.prepared import Prepared
from dcm_processor.ledger.schema import attempts, jobs, plans, studies, tombstones
from dcm_processor.vocabulary import AttemptState, ExitReason, JobState

_RUNNING = (JobState.QUEUED, JobState.STARTED, JobState.RETRYING)
_NOT_STARTED = (JobState.WAITING, JobState.QUEUED, JobState.RETRYING)


def _another_runs(study: Any, plan: Any) -> Exists:
    """Whether a job of another plan of the study runs."""
    others, theirs = plans.alias(), jobs.alias()
    return exists().where(
        others.c.study_id == study, others.c.plan_id != plan,
        theirs.c.plan_id == others.c.plan_id, theirs.c.state == JobState.STARTED,
    )  # fmt: skip


# Made once: whoever waits for a job's successor waits for these. No IN, which is written out anew at each execution.
_ANOTHER_RUNS = select(_another_runs(bindparam("study"), bindparam("plan")))
_ACTIVE = (
    select(
        plans.c.plan_id,
        plans.c.ended_at,
        studies.c.state,
        studies.c.reason,
        *(
            exists()
            .where(jobs.c.plan_id == plans.c.plan_id, or_(*(jobs.c.state == state for state in states)))
            .label(name)
            for name, states in (("waits", (JobState.WAITING,)), ("runs", _RUNNING))
        ),
        _another_runs(plans.c.study_id, plans.c.plan_id).label("blocked"),
    )
    .join(studies, studies.c.study_id == plans.c.study_id)
    .where(plans.c.study_id == bindparam("study"), plans.c.active)
)
_ADD, _ADD_JOBS, _ADD_ATTEMPTS = insert(plans), insert(jobs), insert(attempts)
_LARGE = ("headers", "instances")  # megabytes, of a study of many series or instances
_LATEST = (
    select(*(column for column in plans.c if column.key not in _LARGE))
    .where(plans.c.study_id == bindparam("study"))
    .order_by(plans.c.created_at.desc(), plans.c.run.desc())
    .limit(1)
)
_JOBS_OF = select(jobs).where(jobs.c.plan_id == bindparam("plan")).order_by(jobs.c.position)
_OUTLINED = (
    "job_id", "study_id", "series_id", "job_name", "verdict", "reason", "state", "dependencies", "reused_from",
    "attempt",
)  # fmt: skip
_OUTLINE = (
    select(
        *(jobs.c[name] for name in _OUTLINED),
        jobs.c.settings["stage"].as_string().label("stage"),
        jobs.c.settings["onDependencyFailure"].as_string().label("on_failure"),
    )
    .where(jobs.c.plan_id == bindparam("plan"))
    .order_by(jobs.c.position)
)
_CHANGING = ("reason", "state", "reused_from", "attempt")
_FIXED = ("job_id", "plan_id", "study_id", "series_id", "job_name", "service", "digest", "settings", "verdict",
          "dependencies", "queue")  # fmt: skip
_FEW_FIXED = (
    select(*(jobs.c[name] for name in _FIXED))
    .where(jobs.c.plan_id == bindparam("plan"))
    .order_by(jobs.c.position)
    .limit(bindparam("most"))
)
_NOW = Prepared(
    select(
        *(jobs.c[name] for name in _CHANGING),
        plans.c.ended_at,
        studies.c.state.label("study_state"),
        studies.c.reason.label("study_reason"),
        _another_runs(bindparam("study"), bindparam("plan")).label("blocked"),  # once, not for each of the jobs
    )
    .join(plans, plans.c.plan_id == jobs.c.plan_id)
    .join(studies, studies.c.study_id == plans.c.study_id)
    .where(plans.c.plan_id == bindparam("plan"), plans.c.active)
    .order_by(jobs.c.position)
)
_KEPT = "jobs of plans"
_KEPT_PLANS, _KEPT_JOBS = 16, 100
_LAST_RUNS = union_all(
    *(
        select(func.max(table.c.run)).where(
            table.c.study_id == bindparam("study"), table.c.revision == bindparam("revision")
        )
        for table in (plans, tombstones)
    )
)
_BY_ID = select(jobs).where(jobs.c.study_id == bindparam("study"), jobs.c.job_id.in_(bindparam("jobs", expanding=True)))
_UNENDED = select(plans.c.study_id).where(plans.c.active, plans.c.ended_at.is_(None))


def get(db: Connection, plan_id: str) -> RowMapping | None:
    return db.execute(select(plans).where(plans.c.plan_id == plan_id)).mappings().one_or_none()


def active(db: Connection, study_id: str) -> Mapping[Any, Any] | None:
    """The study's active plan: plan_id, ended_at, and the study's state and reason.

    `waits`, `runs`: whether jobs of it wait, or are on their way; `blocked`: whether one of an earlier plan runs.
    """
    return db.execute(_ACTIVE, {"study": study_id}).mappings().one_or_none()


def instances(db: Connection, plan_id: str) -> Mapping[str, Sequence[str]]:
    """What the plan pinned: series id -> instance ids."""
    found: Mapping[str, Sequence[str]] = db.execute(
        select(plans.c.instances).where(plans.c.plan_id == plan_id)
    ).scalar_one()
    return found


def is_active(db: Connection, plan_id: str) -> bool:
    return bool(db.execute(select(plans.c.active).where(plans.c.plan_id == plan_id)).scalar_one_or_none())


def latest(db: Connection, study_id: str) -> RowMapping | None:
    """The newest plan of a study, but for its headers and instances."""
    return db.execute(_LATEST, {"study": study_id}).mappings().one_or_none()


def next_run(db: Connection, study_id: str, revision: str) -> int:
    """The number of the revision's next run, also where the rows of earlier ones are gone."""
    runs = db.execute(_LAST_RUNS, {"study": study_id, "revision": revision}).scalars()
    return max(int(run or 0) for run in runs) + 1


def supersede(db: Connection, study_id: str, plan_id: str, *, now: float) -> tuple[list[str], Sequence[str]]:
    """Make room for `plan_id`: what earlier plans of the study have not started never will be.

    Returns their queued attempts, now unwanted, and the plans. What runs there ends first (see `predecessor_runs`).
    """
    older = select(jobs.c.job_id).where(jobs.c.study_id == study_id, jobs.c.state.in_(_NOT_STARTED))
    unwanted = drop_attempts(
        db, db.execute(older).scalars().all(), JobState.SUPERSEDED, f"superseded by {plan_id}", now=now
    )
    before = db.execute(
        update(plans)
        .where(plans.c.study_id == study_id, plans.c.active)
        .values(active=False, ended_at=func.coalesce(plans.c.ended_at, now))
        .returning(plans.c.plan_id)
    )
    return unwanted, before.scalars().all()


def add(db: Connection, plan: Mapping[str, Any], job_rows: Sequence[Mapping[str, Any]], *, now: float) -> None:
    """Write a plan (see `supersede`, and `studies.set_plan`); jobs that are queued get their first attempt."""
    db.execute(_ADD, {"created_at": now, **plan, "active": True})
    used = [column.key for column in jobs.c if any(row.get(column.key) is not None for row in job_rows)]
    if job_rows:  # all rows alike, and no column that nobody fills
        db.execute(_ADD_JOBS, [{key: row.get(key) for key in used} for row in job_rows])
    queued = [
        {
            "attempt_id": identity.attempt_id(row["job_id"], row["attempt"]),
            "job_id": row["job_id"],
            "attempt": row["attempt"],
            "state": AttemptState.QUEUED.value,
            "queued_at": now,
        }
        for row in job_rows
        if row["state"] == JobState.QUEUED
    ]
    if queued:
        db.execute(_ADD_ATTEMPTS, queued)


def drop_attempts(db: Connection, ids: Sequence[str], state: JobState, reason: str, *, now: float) -> list[str]:
    """End jobs that have not started in `state`; returns their queued attempts."""
    unwanted: list[str] = []
    for start in range(0, len(ids), 1000):  # a database takes so many parameters, not any number
        some = ids[start : start + 1000]
        queued = and_(attempts.c.job_id.in_(some), attempts.c.state == AttemptState.QUEUED)
        unwanted += db.execute(select(attempts.c.attempt_id).where(queued)).scalars()
        db.execute(
            update(attempts)
            .where(queued)
            .values(state=AttemptState.CANCELLED, ended_at=now, exit_reason=ExitReason.CANCELLED, error=reason)
        )
        db.execute(
            update(jobs).where(jobs.c.job_id.in_(some)).values(state=state, reason=reason, ended_at=now, due_at=None)
        )
    return unwanted


def jobs_of(db: Connection, plan_id: str) -> Sequence[RowMapping]:
    """The plan's jobs in plan order."""
    return db.execute(_JOBS_OF, {"plan": plan_id}).mappings().all()


def outline(db: Connection, plan_id: str, series: Collection[str] = ()) -> list[dict[str, Any]]:
    """The plan's jobs in plan order, with what it takes to go on: of their settings stage and onDependencyFailure.

    With `series` only those of the study as a whole and of these series.
    """
    query = _OUTLINE.where(jobs.c.series_id.in_(series) | jobs.c.series_id.is_(None)) if series else _OUTLINE
    return [
        {**dict(zip(_OUTLINED, values, strict=True)), "settings": {"stage": stage, "onDependencyFailure": on_failure}}
        for *values, stage, on_failure in db.execute(query, {"plan": plan_id})
    ]


def small(db: Connection, study_id: str, plan_id: str) -> tuple[Mapping[Any, Any], list[dict[str, Any]]] | None:
    """A plan that was committed before: as `active` tells of it, and its jobs with all that orders are made of.

    In plan order, at once. None where it is not the active one, or large. What never changes of its jobs is read once,
    and kept with the connection: whoever waits for a job's successor waits for this.
    """
    kept: dict[str, list[dict[str, Any]]] = db.info.setdefault(_KEPT, {})
    if (fixed := kept.get(plan_id)) is None:
        found = db.execute(_FEW_FIXED, {"plan": plan_id, "most": _KEPT_JOBS + 1}).all()
        fixed = [dict(zip(_FIXED, row, strict=True)) for row in found] if len(found) <= _KEPT_JOBS else []
        kept[plan_id] = fixed
        if len(kept) > _KEPT_PLANS:
            del kept[next(iter(kept))]
    now = _NOW.rows(db, {"study": study_id, "plan": plan_id}) if fixed else []
    if not now or len(now) != len(fixed):  # else jobs of it are being forgotten
        return None
    ended_at, state, reason, blocked = now[0][len(_CHANGING) :]
    rows = [{**job, **dict(zip(_CHANGING, row, strict=False))} for job, row in zip(fixed, now, strict=True)]
    states = {row["state"] for row in rows}
    plan = {"plan_id": plan_id, "ended_at": ended_at, "state": state, "reason": reason, "blocked": blocked}
    return {**plan, "waits": JobState.WAITING in states, "runs": not states.isdisjoint(_RUNNING)}, rows


def others_go_on(db: Connection, plan_id: str, job_name: str) -> bool:
    """Whether a job of that name has not ended, for any series."""
    query = select(jobs.c.job_id).where(jobs.c.plan_id == plan_id, jobs.c.state.in_((*_RUNNING, JobState.WAITING)))
    return db.execute(query.where(jobs.c.job_name == job_name).limit(1)).first() is not None


def jobs_by_id(db: Connection, study_id: str, job_ids: Collection[str]) -> Sequence[RowMapping]:
    """Those of the jobs that belong to the study, each plan's in plan order."""
    found: list[RowMapping] = []
    ids = list(job_ids)
    for start in range(0, len(ids), 1000):  # a database takes so many parameters, not any number
        found += db.execute(_BY_ID, {"study": study_id, "jobs": ids[start : start + 1000]}).mappings()
    return sorted(found, key=lambda job: job["position"])


def ended_among(db: Connection, job_ids: Sequence[str]) -> dict[str, RowMapping]:
    """Those of the jobs that have ended, by id."""
    found: dict[str, RowMapping] = {}
    for start in range(0, len(job_ids), 1000):  # a database takes so many parameters, not any number
        query = select(jobs).where(jobs.c.job_id.in_(job_ids[start : start + 1000]), jobs.c.ended_at.is_not(None))
        found |= {row["job_id"]: row for row in db.execute(query).mappings()}
    return found


def predecessor_runs(db: Connection, study_id: str, plan_id: str) -> bool:
    """Whether a job of an earlier plan of the study still runs."""
    return bool(db.execute(_ANOTHER_RUNS, {"study": study_id, "plan": plan_id}).scalar_one())


def idle(db: Connection) -> Sequence[str]:
    """Studies whose active plan has not ended, and of which nothing is on its way."""
    on_its_way = select(jobs.c.job_id).where(jobs.c.plan_id == plans.c.plan_id, jobs.c.state.in_(_RUNNING)).exists()
    return db.execute(_UNENDED.where(~on_its_way).order_by(plans.c.created_at)).scalars().all()


def unended(db: Connection, after: str, limit: int) -> Sequence[str]:
    """So many of the studies whose active plan has not ended, in the order of their ids, behind `after`."""
    return db.execute(_UNENDED.where(plans.c.study_id > after).order_by(plans.c.study_id).limit(limit)).scalars().all()


def unended_among(db: Connection, plan_ids: Sequence[str]) -> set[str]:
    """Those of the plans that are active and have not ended."""
    found: set[str] = set()
    for start in range(0, len(plan_ids), 1000):  # a database takes so many parameters, not any number
        some = plans.c.plan_id.in_(plan_ids[start : start + 1000])
        query = select(plans.c.plan_id).where(some, plans.c.active, plans.c.ended_at.is_(None))
        found.update(db.execute(query).scalars())
    return found


def end(db: Connection, plan_id: str, *, now: float) -> None:
    db.execute(update(plans).where(plans.c.plan_id == plan_id).values(ended_at=now))

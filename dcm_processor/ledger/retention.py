"""What the ledger no longer needs: studies that ended long ago, of which tombstones stay, and events dealt with.

A study is open while something of it is still to be done, or expected: a plan, job or attempt that has not ended, an
event that was not dealt with, instances that came and are not stable. Nothing goes of a study that is open.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select

from dcm_processor.ledger.schema import attempts, events, jobs, plans, results, series_owners, studies, tombstones
from dcm_processor.ledger.upsert import upsert
from dcm_processor.vocabulary import JobState, StudyState

ROWS = 1000
"""Jobs, with their attempts and named results, that go in one transaction."""

_UNENDED = (JobState.WAITING, JobState.QUEUED, JobState.STARTED, JobState.RETRYING)
_UNSETTLED = (StudyState.RECEIVED, StudyState.WAITING, StudyState.PLANNING, StudyState.RUNNING)


def revisions(db: Connection, study_id: str) -> set[str]:
    """Revisions of the study that were planned, and whose rows are gone."""
    return set(db.execute(select(tombstones.c.revision).where(tombstones.c.study_id == study_id)).scalars())


def open_among(db: Connection, study_ids: Collection[str]) -> set[str]:
    """Those of the studies of which something is still to be done, or expected."""
    return set(db.execute(select(studies.c.study_id).where(studies.c.study_id.in_(study_ids), _is_open())).scalars())


def ended_at(db: Connection, study_ids: Collection[str]) -> dict[str, float]:
    """When the last plan of each of these studies ended; of those that never had one, nothing."""
    found: dict[str, float] = {}
    for table in (tombstones, plans):
        last = func.max(table.c.ended_at)
        query = select(table.c.study_id, last).where(table.c.study_id.in_(study_ids), table.c.ended_at.is_not(None))
        for study_id, moment in db.execute(query.group_by(table.c.study_id)):
            found[study_id] = max(float(moment), found.get(study_id, 0.0))
    return found


def of_attempts(db: Connection, attempt_ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """attempt id -> its study's id and its state, of those that the ledger knows."""
    query = select(attempts.c.attempt_id, jobs.c.study_id, attempts.c.state)
    query = query.join(jobs, jobs.c.job_id == attempts.c.job_id).where(attempts.c.attempt_id.in_(attempt_ids))
    return {attempt_id: (study_id, state) for attempt_id, study_id, state in db.execute(query)}


def expired(db: Connection, *, before: float, limit: int, but: Collection[str] = ()) -> Sequence[str]:
    """Some studies whose plans ended before that, longest ended first; none that is open, or could not be planned."""
    query = select(studies.c.study_id).join(plans, plans.c.study_id == studies.c.study_id)
    query = query.where(plans.c.active, plans.c.ended_at < before, studies.c.study_id.not_in(but))
    query = query.where(studies.c.unplanned.is_(None), studies.c.state != StudyState.UNPLANNED, ~_is_open())
    return db.execute(query.order_by(plans.c.ended_at).limit(limit)).scalars().all()


def bury(db: Connection, study_ids: Sequence[str]) -> bool:
    """Have tombstones in the place of a few studies' rows; False: there are so many that some are left, call again.

    Only of studies that `expired` names in the same transaction.
    """
    stones = select(plans.c.study_id, plans.c.revision, func.max(plans.c.run), func.max(plans.c.ended_at))
    stones = stones.where(plans.c.study_id.in_(study_ids)).group_by(plans.c.study_id, plans.c.revision)
    put = upsert(db.dialect.name, tombstones).from_select(["study_id", "revision", "run", "ended_at"], stones)
    values = {"run": put.excluded.run, "ended_at": put.excluded.ended_at}
    db.execute(put.on_conflict_do_update(index_elements=["study_id", "revision"], set_=values))
    some = db.execute(select(jobs.c.job_id).where(jobs.c.study_id.in_(study_ids)).limit(ROWS)).scalars().all()
    of_some = select(attempts.c.attempt_id).where(attempts.c.job_id.in_(some))
    db.execute(delete(results).where(results.c.attempt_id.in_(of_some)))
    db.execute(delete(attempts).where(attempts.c.job_id.in_(some)))
    db.execute(delete(jobs).where(jobs.c.job_id.in_(some)))
    if len(some) == ROWS:
        return False
    for table in (plans, events, series_owners, studies):
        db.execute(delete(table).where(table.c.study_id.in_(study_ids)))
    return True


def drop_events(db: Connection, *, before: float, limit: int) -> int:
    """Delete some events that were dealt with before that; returns how many. What is known of the studies stays."""
    some = select(events.c.event_id).where(events.c.handled_at < before).limit(limit)
    return db.execute(delete(events).where(events.c.event_id.in_(some))).rowcount


def _is_open() -> ColumnElement[bool]:
    going = plans.alias()
    return (
        studies.c.state.in_(_UNSETTLED)
        | studies.c.stable_due_at.is_not(None)
        | studies.c.hold_until.is_not(None)
        | exists().where(going.c.study_id == studies.c.study_id, going.c.ended_at.is_(None))
        | exists().where(events.c.study_id == studies.c.study_id, events.c.handled_at.is_(None))
        | exists().where(jobs.c.study_id == studies.c.study_id, jobs.c.state.in_(_UNENDED))
    )

"""Studies: where each stands; facts about Orthanc and about who stored a series."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, bindparam, func, select, update

from dcm_processor.ledger.schema import facts, series_owners, studies
from dcm_processor.ledger.upsert import upsert
from dcm_processor.vocabulary import StudyState

_SET_PLAN = update(studies).where(studies.c.study_id == bindparam("of_study"))
_SET_LAST_UPDATE = _SET_PLAN.values(last_update=bindparam("last_update"))
_UNPLANNED = select(studies.c.unplanned, studies.c.hold_until).where(studies.c.study_id == bindparam("study"))
_SET_STATE = _SET_PLAN.where(
    (studies.c.state != bindparam("other_than")) | studies.c.reason.is_distinct_from(bindparam("and_than"))
)


def get(db: Connection, study_id: str) -> RowMapping | None:
    return db.execute(select(studies).where(studies.c.study_id == study_id)).mappings().one_or_none()


def count(db: Connection, state: StudyState) -> int:
    """How many studies are in a state."""
    return int(db.execute(select(func.count()).select_from(studies).where(studies.c.state == state)).scalar_one())


def set_state(db: Connection, study_id: str, state: StudyState, *, now: float, reason: str | None = None) -> None:
    """Say where the study stands; `changed_at` is the moment of the last difference."""
    values = {"state": state, "reason": reason, "changed_at": now}
    db.execute(_SET_STATE, {**values, "of_study": study_id, "other_than": state, "and_than": reason})


def set_unplanned(db: Connection, study_id: str, why: str | None, *, hold_until: float | None = None) -> None:
    """Say why the study's newest revision has no plan: it was given up, or is held back until then.

    None: that revision has its plan.
    """
    values = {"unplanned": why, "hold_until": hold_until}
    db.execute(update(studies).where(studies.c.study_id == study_id).values(values))


def unplanned(db: Connection, study_id: str) -> tuple[StudyState, str] | None:
    """Where the study stands once no plan of it runs, and why, if its newest revision has none."""
    found = db.execute(_UNPLANNED, {"study": study_id}).one_or_none()
    if found is None or found.unplanned is None:
        return None
    return StudyState.UNPLANNED if found.hold_until is None else StudyState.WAITING, found.unplanned


def held(db: Connection) -> Sequence[str]:
    """Studies that are held back."""
    query = select(studies.c.study_id).where(studies.c.hold_until.is_not(None)).order_by(studies.c.hold_until)
    return db.execute(query).scalars().all()


def held_until(db: Connection, moment: float, *, limit: int = 200) -> Sequence[str]:
    """Studies that are held back until then at the latest."""
    query = select(studies.c.study_id).where(studies.c.hold_until <= moment).order_by(studies.c.hold_until).limit(limit)
    return db.execute(query).scalars().all()


def held_beyond(db: Connection, latest: float) -> bool:
    """Whether a study is held back for longer than that."""
    return db.execute(select(studies.c.study_id).where(studies.c.hold_until > latest).limit(1)).first() is not None


def hold_at_most(db: Connection, latest: float) -> int:
    """Have no study held back for longer; returns how many were: the clock was set back since."""
    return db.execute(update(studies).where(studies.c.hold_until > latest).values(hold_until=latest)).rowcount


def end_hold(db: Connection, study_id: str) -> None:
    """The study, if it is held back, is held back no longer."""
    held_back = (studies.c.study_id == study_id) & studies.c.hold_until.is_not(None)
    db.execute(update(studies).where(held_back).values(hold_until=None, unplanned=None))


def expect_stable(db: Connection, study_id: str, due_at: float | None) -> None:
    """When a study that still grows counts as stable; None: it was said to be stable."""
    db.execute(update(studies).where(studies.c.study_id == study_id).values(stable_due_at=due_at))


def expected_after(db: Connection, latest: float) -> bool:
    """Whether a study counts as stable only later than that."""
    return db.execute(select(studies.c.study_id).where(studies.c.stable_due_at > latest).limit(1)).first() is not None


def expect_stable_before(db: Connection, latest: float) -> int:
    """Have no study count as stable only later than that: the clock was set back since its due time was made.

    Returns how many would have.
    """
    return db.execute(update(studies).where(studies.c.stable_due_at > latest).values(stable_due_at=latest)).rowcount


def overdue(db: Connection, *, now: float, limit: int = 200) -> Sequence[str]:
    """Studies that grew, were never said to be stable, and are quiet since."""
    query = (
        select(studies.c.study_id).where(studies.c.stable_due_at <= now).order_by(studies.c.stable_due_at).limit(limit)
    )
    return db.execute(query).scalars().all()


def seen(db: Connection, study_ids: Sequence[str]) -> dict[str, RowMapping]:
    """Of those of the studies (at most 1000) that the ledger has: last_update, stable_due_at, hold_until."""
    columns = (studies.c.study_id, studies.c.last_update, studies.c.stable_due_at, studies.c.hold_until)
    rows = db.execute(select(*columns).where(studies.c.study_id.in_(study_ids))).mappings()
    return {row["study_id"]: row for row in rows}


def set_last_update(db: Connection, found: Mapping[str, str]) -> None:
    """Put down Orthanc's LastUpdate of studies as they were when an event told of them, or when they were read."""
    if found:
        db.execute(_SET_LAST_UPDATE, [{"of_study": study_id, "last_update": text} for study_id, text in found.items()])


def set_plan(
    db: Connection,
    study_id: str,
    plan_id: str | None,
    *,
    headers: Mapping[str, Any],
    state: StudyState,
    reason: str | None,
    now: float,
) -> None:
    """Make a plan the study's active one, with what pages show and search of the study, never of the patient."""
    modalities = sorted({str(entry["Modality"]) for entry in headers.get("series", []) if entry.get("Modality")})

    def text(keyword: str, length: int) -> str | None:
        value = headers.get(keyword)
        return str(value)[:length] if value not in (None, "") else None

    db.execute(
        _SET_PLAN,
        {
            "of_study": study_id,
            "active_plan_id": plan_id,
            "state": state,
            "reason": reason,
            "changed_at": now,
            "study_instance_uid": text("StudyInstanceUID", 64),
            "study_date": text("StudyDate", 16),
            "modalities": "\\".join(modalities)[:64] or None,
            "description": text("StudyDescription", 256),
        },
    )


def owners(db: Connection, study_id: str) -> dict[str, bool]:
    """Of the study's series that were asked about before: whether the platform stored them."""
    query = select(series_owners).where(series_owners.c.study_id == study_id)
    return {row.series_id: row.ours for row in db.execute(query)}


def remember_owners(db: Connection, study_id: str, found: Mapping[str, bool]) -> None:
    """Put down of series whether the platform stored them; thousands are one statement."""
    rows = [{"series_id": series_id, "study_id": study_id, "ours": ours} for series_id, ours in found.items()]
    if rows:
        _upsert(db, series_owners, ["series_id"], rows)


def fact(db: Connection, name: str) -> Any:
    return db.execute(select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()


def set_fact(db: Connection, name: str, value: Any) -> None:
    _upsert(db, facts, ["name"], [{"name": name, "value": value}])


def _upsert(db: Connection, table: Table, key: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Put down rows that have the same columns, in the place of those with their key."""
    put = upsert(db.dialect.name, table)
    values = {name: put.excluded[name] for name in rows[0] if name not in key}
    db.execute(put.on_conflict_do_update(index_elements=key, set_=values), rows)

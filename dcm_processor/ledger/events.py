"""Events: why the ledger was told about a study, and whether that was dealt with."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, case, func, insert, select, update

from dcm_processor.ledger import studies as studies_of
from dcm_processor.ledger.schema import events, studies
from dcm_processor.ledger.upsert import upsert
from dcm_processor.vocabulary import HELD, EventKind, StudyState

_BEGUN = "being planned, by leader "

# Made once: the hook waits for these, and making them costs more than running them.
_RECORD = insert(events)
_ASKED = (EventKind.RERUN, EventKind.CANCEL)


@cache
def _meet(dialect: str) -> Any:
    put = upsert(dialect, studies)
    return put.on_conflict_do_nothing(index_elements=["study_id"]).returning(studies.c.number)


def record(
    db: Connection,
    kind: EventKind,
    study_id: str,
    payload: Mapping[str, Any] | None,
    *,
    now: float,
    due_at: float | None = None,
) -> int:
    """Put an event down, and the study if it is new; a study so far only `known` is now `received`."""
    if kind is not EventKind.CANCEL and not meet(db, study_id, StudyState.RECEIVED, now=now):
        db.execute(
            update(studies)
            .where(studies.c.study_id == study_id, studies.c.state == StudyState.KNOWN)
            .values(state=StudyState.RECEIVED, reason=None, changed_at=now)
        )
    if kind is EventKind.RERUN:  # whoever looks at once shall not take the old plan's end for the new one's
        studies_of.set_state(db, study_id, StudyState.PLANNING, reason="is to run again", now=now)
    values = {
        "kind": kind,
        "study_id": study_id,
        "payload": dict(payload) if payload else None,
        "received_at": now,
        "due_at": now if due_at is None else due_at,
        "failures": 0,
    }
    result = db.execute(_RECORD, values)
    return int(result.inserted_primary_key[0])  # type: ignore[index]


def meet(
    db: Connection, study_id: str, state: StudyState, *, now: float, reason: str | None = None, last_update: str = ""
) -> bool:
    """Put a study down unless the ledger has it; returns whether it was new.

    `last_update` is Orthanc's of a study that needs no event; "": whatever it is, there is something to plan.
    """
    values = {"study_id": study_id, "state": state, "reason": reason, "first_seen_at": now, "changed_at": now}
    values["last_update"] = last_update
    return db.execute(_meet(db.dialect.name), values).first() is not None


_LATEST = case((events.c.failures > 0, bindparam("latest_failed")), else_=bindparam("latest"))
_DUE = tuple(  # made once: an idle controller asks every second
    select(events)
    .where(events.c.handled_at.is_(None), (events.c.due_at <= bindparam("now")) | (events.c.due_at > _LATEST), whose)
    .order_by(events.c.event_id)
    .limit(bindparam("most"))
    for whose in (events.c.kind.not_in(_ASKED), events.c.kind.in_(_ASKED))  # many asked for keep no study waiting
)


def due(
    db: Connection, *, now: float, longest: float, longest_failed: float | None = None, limit: int = 200
) -> Sequence[RowMapping]:
    """Events that wait to be dealt with, oldest first: `limit` of what Orthanc and clocks tell, and of what people ask.

    One that is put off for more than `longest` seconds (`longest_failed` once it has failed) is due: the clock was set
    back since.
    """
    values = {
        "now": now, "latest": now + longest, "latest_failed": now + (longest_failed or longest), "most": limit,
    }  # fmt: skip
    found = [row for query in _DUE for row in db.execute(query, values).mappings()]
    return sorted(found, key=lambda event: int(event["event_id"]))


def held_since(db: Connection, study_id: str) -> float | None:
    """When the study was first held back since its last plan; None: it is not held back."""
    query = (
        select(events.c.payload)
        .join(studies, studies.c.study_id == events.c.study_id)
        .where(events.c.study_id == study_id, studies.c.hold_until.is_not(None), events.c.result.startswith(HELD))
        .order_by(events.c.event_id.desc())
        .limit(1)
    )
    payload = db.execute(query).scalar_one_or_none()
    return payload and float(payload["heldSince"])


def note_held(db: Connection, event_ids: Sequence[int], *, since: float) -> None:
    """Put down since when the study of these events is held back: limits count from there."""
    db.execute(update(events).where(events.c.event_id.in_(event_ids)).values(payload={"heldSince": since}))


def bring_forward(db: Connection, event_ids: Sequence[int], *, now: float) -> None:
    """Have events be due now that are put off further than they can be."""
    db.execute(update(events).where(events.c.event_id.in_(event_ids)).values(due_at=now))


def waiting_among(db: Connection, study_ids: Sequence[str]) -> set[str]:
    """Those of the studies (at most 1000) that an event waits for whose handling reads them anew."""
    query = select(events.c.study_id, events.c.payload)
    rows = db.execute(query.where(events.c.study_id.in_(study_ids), events.c.handled_at.is_(None)))
    return {row.study_id for row in rows if (row.payload or {}).get("jobIds") is None}


def begin(db: Connection, event_ids: Sequence[int], *, epoch: int) -> None:
    """Put down that the leader of this epoch plans for these events; see `left_by_others`."""
    db.execute(update(events).where(events.c.event_id.in_(event_ids)).values(result=f"{_BEGUN}{epoch}"))


def left_by_others(found: Sequence[Mapping[Any, Any]], *, epoch: int) -> int:
    """How many of these waiting events an earlier leader began to plan for, and left."""
    return sum(str(event["result"]).startswith(_BEGUN) and event["result"] != f"{_BEGUN}{epoch}" for event in found)


def settle(db: Connection, event_ids: Sequence[int], result: str, *, now: float) -> None:
    """Put down what came of events."""
    db.execute(update(events).where(events.c.event_id.in_(event_ids)).values(handled_at=now, result=result))


def put_off(db: Connection, event_ids: Sequence[int], why: str, *, due_at: float, counts: bool) -> int:
    """Try again later; returns the highest number of failures among them, this one included where it counts."""
    step = 1 if counts else 0
    db.execute(
        update(events)
        .where(events.c.event_id.in_(event_ids))
        .values(failures=events.c.failures + step, due_at=due_at, result=why)
    )
    return int(db.execute(select(func.max(events.c.failures)).where(events.c.event_id.in_(event_ids))).scalar_one())

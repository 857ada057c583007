"""The ledger in numbers: each a count over an index, none of a study or a patient."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from dcm_processor.ledger import repairs
from dcm_processor.ledger.schema import events, jobs, studies
from dcm_processor.vocabulary import JobState, RepairKind, StudyState


@dataclass(frozen=True)
class Tally:
    """How many there are; every kind and state is there, at 0 if need be."""

    repairs: Mapping[RepairKind, int]
    studies: Mapping[StudyState, int]
    jobs: Mapping[JobState, int]  # of those that were scheduled
    events: int  # that wait
    oldest_event: float | None  # when the oldest of them came


def tally(db: Connection) -> Tally:
    """Count."""
    by_state = [
        {row.state: row.number for row in db.execute(select(column.label("state"), number).group_by(column))}
        for column, number in ((table.c.state, func.count().label("number")) for table in (studies, jobs))
    ]
    waiting = select(func.count(), func.min(events.c.received_at)).where(events.c.handled_at.is_(None))
    number, oldest = db.execute(waiting).one()
    return Tally(
        repairs=repairs.counted(db),
        studies={state: by_state[0].get(state, 0) for state in StudyState},
        jobs={state: by_state[1].get(state, 0) for state in JobState},
        events=number,
        oldest_event=oldest,
    )

"""Repairs: how often which difference was closed, counted where it is closed."""

from sqlalchemy import Connection, select

from dcm_processor.ledger.schema import repairs
from dcm_processor.ledger.upsert import upsert
from dcm_processor.vocabulary import RepairKind


def count(db: Connection, kind: RepairKind, number: int = 1, *, now: float) -> None:
    """Count so many more of a kind, inside the transaction that closes them."""
    statement = upsert(db.dialect.name, repairs).values(kind=kind, number=number, last_at=now)
    values = {"number": repairs.c.number + number, "last_at": now}
    db.execute(statement.on_conflict_do_update(index_elements=["kind"], set_=values))


def counted(db: Connection) -> dict[RepairKind, int]:
    """How many of each kind there were since the ledger was made; 0 for those that never were."""
    found = {row.kind: row.number for row in db.execute(select(repairs.c.kind, repairs.c.number))}
    return {kind: int(found.get(kind, 0)) for kind in RepairKind}

"""Named results: the numbers and texts that jobs found, by attempt. Those of the one that finished its job count."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from dcm_processor.ledger.schema import attempts, results
from dcm_processor.notes import NamedResult

_ADD = insert(results)


def add(db: Connection, attempt_id: str, found: Sequence[NamedResult]) -> None:
    """Put down what an attempt found, in the transaction that ends it: once."""
    rows = [
        {"attempt_id": attempt_id, "position": position, **result.to_json()} for position, result in enumerate(found)
    ]
    if rows:
        db.execute(_ADD, rows)


def of_jobs(db: Connection, job_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """attempt id -> name, value and unit of its results in order, of all attempts of these jobs (at most 1000)."""
    query = select(results).join(attempts, attempts.c.attempt_id == results.c.attempt_id)
    query = query.where(attempts.c.job_id.in_(job_ids)).order_by(results.c.attempt_id, results.c.position)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in db.execute(query):
        found[row.attempt_id].append({"name": row.name, "value": row.value, "unit": row.unit})
    return found

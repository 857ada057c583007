"""Named results: the numbers and texts that jobs found, by attempt. Those of the one that finished its job count.

Of a job that ran in several plans of a study (for the same series) the newest that finished counts, as its folder under
DATA/results does.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, exists, func, insert, select

from dcm_processor.ledger.schema import attempts, jobs, plans, results
from dcm_processor.matching import Query
from dcm_processor.notes import NamedResult
from dcm_processor.vocabulary import AttemptState, JobState

_ADD = insert(results)
_CURSOR = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?~[A-Za-z0-9_-]{1,220}")
_ABOUT = (
    "PatientID", "StudyInstanceUID", "StudyDate", "StudyDescription", "SeriesInstanceUID", "SeriesNumber",
    "SeriesDescription", "Modality",
)  # fmt: skip
_OF_SERIES = frozenset({"SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"})
_LONGEST = 1024  # characters of an element that are told
MOST = 20_000
"""Results on one page: one with so many ends early."""


@dataclass(frozen=True)
class Terms:
    """Which attempts are meant; all terms must hold.

    `since`: ended then or later (s since the epoch). `named`: with named results only, or (a name) with that one.
    `all_attempts`: also those of earlier plans, and those that did not finish their job.
    """

    query: Query = field(default_factory=Query)
    service: str | None = None
    job_name: str | None = None
    since: float | None = None
    named: bool | str = False
    all_attempts: bool = False


def add(db: Connection, attempt_id: str, found: Sequence[NamedResult]) -> None:
    """Put down what an attempt found, in the transaction that ends it: once."""
    rows = [
        {"attempt_id": attempt_id, "position": position, **result.to_json()} for position, result in enumerate(found)
    ]
    if rows:
        db.execute(_ADD, rows)


def of_jobs(db: Connection, job_ids: Sequence[str], most: int) -> dict[str, list[dict[str, Any]]]:
    """attempt id -> name, value and unit of its first results, of all attempts of these jobs (at most 1000)."""
    query = select(results).join(attempts, attempts.c.attempt_id == results.c.attempt_id)
    return _named(db, query.where(attempts.c.job_id.in_(job_ids), results.c.position < most))


def search(db: Connection, cursor: str | None, limit: int, terms: Terms) -> tuple[list[dict[str, Any]], str | None]:
    """Ended attempts as the API tells of them, newest job first, and the cursor of the next page.

    `limit` are looked at, or fewer where they have many results; any number of these may match the query.

    Raises ValueError where the cursor is none of ours.
    """
    rows = db.execute(_candidates(cursor, terms).limit(limit + 1)).mappings().all()
    looked_at = rows[:limit]
    matching = list(_matching(db, looked_at, terms.query))
    fits = _fitting(db, [row["attempt_id"] for row, _ in matching])
    if fits < len(matching):
        looked_at = rows[: rows.index(matching[fits][0])]
        matching = matching[:fits]
    named = _named(db, select(results).where(results.c.attempt_id.in_([row["attempt_id"] for row, _ in matching])))
    items = [{**_item(row), **about, "results": named.get(row["attempt_id"], [])} for row, about in matching]
    last = looked_at[-1] if len(rows) > len(looked_at) else None
    return items, f"{last['created_at']!r}~{last['attempt_id']}" if last is not None else None


def _fitting(db: Connection, attempt_ids: Sequence[str]) -> int:
    """How many of the attempts, from the first on, go onto one page with their results; one always does."""
    query = select(results.c.attempt_id, func.count()).where(results.c.attempt_id.in_(attempt_ids))
    counts = {row[0]: int(row[1]) for row in db.execute(query.group_by(results.c.attempt_id))}
    total = 0
    for place, attempt_id in enumerate(attempt_ids):
        total += counts.get(attempt_id, 0)
        if total > MOST and place:
            return place
    return len(attempt_ids)


def _candidates(cursor: str | None, terms: Terms) -> Select[Any]:
    query = (
        select(
            attempts.c.attempt_id, attempts.c.attempt, attempts.c.state, attempts.c.ended_at,
            *(jobs.c[name] for name in ("job_id", "plan_id", "study_id", "series_id", "job_name", "service", "digest")),
            jobs.c.created_at,
        )
        .join(jobs, jobs.c.job_id == attempts.c.job_id)
        .join(plans, plans.c.plan_id == jobs.c.plan_id)
        .where(attempts.c.ended_at.is_not(None))
        .order_by(jobs.c.created_at.desc(), attempts.c.attempt_id.desc())
    )  # fmt: skip
    if not terms.all_attempts:
        newer, newer_plan = jobs.alias(), plans.alias()
        replaced = exists().where(
            newer.c.study_id == jobs.c.study_id,
            newer.c.job_name == jobs.c.job_name,
            newer.c.series_id.is_not_distinct_from(jobs.c.series_id),
            newer.c.state == JobState.FINISHED,
            newer.c.reused_from.is_(None),
            newer_plan.c.plan_id == newer.c.plan_id,
            newer_plan.c.created_at > plans.c.created_at,
        )
        query = query.where(
            jobs.c.state == JobState.FINISHED, attempts.c.state == AttemptState.FINISHED,
            attempts.c.attempt == jobs.c.attempt, ~replaced,
        )  # fmt: skip
    for column, value in ((jobs.c.service, terms.service), (jobs.c.job_name, terms.job_name)):
        if value is not None:
            query = query.where(column == value)
    if terms.since is not None:
        query = query.where(attempts.c.ended_at >= terms.since)
    if terms.named:
        has = exists().where(results.c.attempt_id == attempts.c.attempt_id)
        query = query.where(has if terms.named is True else has.where(results.c.name == terms.named))
    if cursor is not None:
        if not _CURSOR.fullmatch(cursor):
            raise ValueError("the cursor is none of a list of results")
        created, _, attempt_id = cursor.partition("~")
        at = float(created)
        earlier = (jobs.c.created_at == at) & (attempts.c.attempt_id < attempt_id)
        query = query.where((jobs.c.created_at < at) | earlier)
    return query


def _matching(db: Connection, rows: Sequence[RowMapping], query: Query) -> Iterator[tuple[RowMapping, dict[str, Any]]]:
    """Those of the rows that match, with what is told of study and series; one plan's headers are held at a time."""
    of_plan: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        of_plan[row["plan_id"]].append(place)
    found: dict[int, dict[str, Any]] = {}
    for plan_id, places in of_plan.items():
        headers = db.execute(select(plans.c.headers).where(plans.c.plan_id == plan_id)).scalar_one()
        for place in places:
            series_id = rows[place]["series_id"]
            if query.matches(headers, series_id):
                found[place] = _about(headers, series_id)
    for place in sorted(found):
        yield rows[place], found[place]


def _about(headers: Mapping[str, Any], series_id: str | None) -> dict[str, Any]:
    """The elements by which people know a study, and the series of a series' job; of others none of a series."""
    entry: Mapping[str, Any] = next(
        (each for each in headers.get("series", ()) if each.get("seriesId") == series_id), {}
    )
    told = {name: entry.get(name) if name in _OF_SERIES else headers.get(name) for name in _ABOUT}
    return {name: None if value in (None, "") else str(value)[:_LONGEST] for name, value in told.items()}


def _item(row: RowMapping) -> dict[str, Any]:
    return {
        "attemptId": row["attempt_id"],
        "jobId": row["job_id"],
        "studyId": row["study_id"],
        "seriesId": row["series_id"],
        "jobName": row["job_name"],
        "service": row["service"],
        "version": row["digest"],
        "attempt": row["attempt"],
        "state": row["state"],
        "endedAt": row["ended_at"],
    }


def _named(db: Connection, query: Select[Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in db.execute(query.order_by(results.c.attempt_id, results.c.position)):
        found[row.attempt_id].append({"name": row.name, "value": row.value, "unit": row.unit})
    return found

"""The ledger as API and pages show it: plain dicts with camelCase keys and RFC 3339 times in UTC."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select

from dcm_processor.history import history
from dcm_processor.job_helper.dcm_processor_job import MAX_RESULTS
from dcm_processor.ledger import results
from dcm_processor.ledger.schema import attempts as attempts_table
from dcm_processor.ledger.schema import events as events_table
from dcm_processor.ledger.schema import jobs as jobs_table
from dcm_processor.ledger.schema import plans as plans_table
from dcm_processor.ledger.schema import studies as studies_table
from dcm_processor.notes import SHOWN
from dcm_processor.vocabulary import Verdict

_STUDIES_CURSOR = re.compile(r"[0-9]{1,18}")  # what fits a database's integer
_JOBS_CURSOR = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?~[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True)
class Page:
    """One page of a list; `next_cursor` is None on the last."""

    items: list[dict[str, Any]]
    next_cursor: str | None


def studies(db: Connection, state: str | None, cursor: str | None, limit: int, search: Mapping[str, Any]) -> Page:
    table = studies_table
    query = select(table).order_by(table.c.number.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(table.c.state == state)
    if cursor is not None:
        if not _STUDIES_CURSOR.fullmatch(cursor):
            raise ValueError("the cursor is none of a list of studies")
        query = query.where(table.c.number < int(cursor))
    query = _search(query, search)
    rows = db.execute(query).mappings().all()
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    active = [row["active_plan_id"] for row in rows if row["active_plan_id"]]
    standing = func.coalesce(jobs_table.c.state, jobs_table.c.verdict)
    counted = jobs_table.c.state.is_not(None) | (jobs_table.c.verdict == Verdict.ERRORED)
    grouped = select(jobs_table.c.plan_id, standing, func.count()).where(jobs_table.c.plan_id.in_(active), counted)
    for plan_id, word, number in db.execute(grouped.group_by(jobs_table.c.plan_id, standing)):
        counts[plan_id][str(word)] = number
    items = [{**_study(row), "jobs": counts.get(row["active_plan_id"], {})} for row in rows[:limit]]
    return Page(items, str(rows[limit - 1]["number"]) if len(rows) > limit else None)


def study(db: Connection, study_id: str) -> dict[str, Any] | None:
    row = db.execute(select(studies_table).where(studies_table.c.study_id == study_id)).mappings().one_or_none()
    if row is None:
        return None
    shown = (column for column in plans_table.c if column is not plans_table.c.instances)  # megabytes of a large study
    plan_rows = db.execute(
        select(*shown).where(plans_table.c.study_id == study_id).order_by(plans_table.c.created_at.desc())
    ).mappings()
    job_rows = db.execute(
        select(jobs_table).where(jobs_table.c.study_id == study_id).order_by(jobs_table.c.position)
    ).mappings()
    by_plan: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found = list(job_rows)
    tried = _attempts(db, [job_row["job_id"] for job_row in found])
    counts: dict[str, int] = defaultdict(int)
    for job_row in found:
        by_plan[job_row["plan_id"]].append({**_job(job_row), "attempts": tried[job_row["job_id"]]})
        word = job_row["state"] or job_row["verdict"]
        if job_row["plan_id"] == row["active_plan_id"] and (job_row["state"] or word == Verdict.ERRORED):
            counts[word] += 1
    event_rows = db.execute(
        select(events_table)
        .where(events_table.c.study_id == study_id)
        .order_by(events_table.c.event_id.desc())
        .limit(50)
    ).mappings()
    found_plans = [{**_plan(plan_row), "jobs": by_plan[plan_row["plan_id"]]} for plan_row in plan_rows]
    found_events = [_event(event) for event in event_rows]
    return {
        **_study(row),
        "jobs": dict(counts),
        "plans": found_plans,
        "events": found_events,
        "history": history(str(when(row["first_seen_at"])), found_plans, found_events),
    }


def jobs(db: Connection, state: str | None, cursor: str | None, limit: int, search: Mapping[str, Any]) -> Page:
    """Jobs, newest first, for which all terms hold: service, jobName, reason (a part of it, whatever its case),
    since (s since the epoch: ended then or later), current (of their study's active plan).
    """
    table = jobs_table
    query = select(table).order_by(table.c.created_at.desc(), table.c.job_id.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(table.c.state == state)
    for key, column in (("service", table.c.service), ("jobName", table.c.job_name)):
        if (value := search.get(key)) is not None:
            query = query.where(column == value)
    if (since := search.get("since")) is not None:
        query = query.where(table.c.ended_at >= since)
    if (reason := search.get("reason")) is not None:
        query = query.where(table.c.reason.icontains(reason, autoescape=True))
    if search.get("current"):
        query = query.join(plans_table, plans_table.c.plan_id == table.c.plan_id).where(plans_table.c.active)
    if cursor is not None:
        if not _JOBS_CURSOR.fullmatch(cursor):
            raise ValueError("the cursor is none of a list of jobs")
        created, _, job_id = cursor.partition("~")
        at = float(created)
        query = query.where((table.c.created_at < at) | ((table.c.created_at == at) & (table.c.job_id < job_id)))
    rows = db.execute(query).mappings().all()
    tried = _attempts(db, [row["job_id"] for row in rows[:limit]])
    items = [{**_job(row), "attempts": tried[row["job_id"]]} for row in rows[:limit]]
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(items, f"{last['created_at']!r}~{last['job_id']}" if last is not None else None)


def results_page(db: Connection, cursor: str | None, limit: int, terms: results.Terms) -> Page:
    items, following = results.search(db, cursor, limit, terms)
    return Page([{**item, "endedAt": when(item["endedAt"])} for item in items], following)


def standing(db: Connection, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Those of the jobs that are known, by id: studyId, jobName, level, service, verdict, state.

    And newestPlanId of its study.
    """
    table = jobs_table
    found: dict[str, dict[str, Any]] = {}
    for portion in _portions(job_ids, 1000):
        query = (
            select(
                *(
                    table.c[name]
                    for name in ("job_id", "study_id", "plan_id", "job_name", "service", "verdict", "state")
                ),
                table.c.settings["level"].as_string().label("level"),
                studies_table.c.active_plan_id,
            )
            .join(studies_table, studies_table.c.study_id == table.c.study_id)
            .where(table.c.job_id.in_(portion))
        )
        for row in db.execute(query):
            found[row.job_id] = {
                "jobId": row.job_id,
                "studyId": row.study_id,
                "planId": row.plan_id,
                "jobName": row.job_name,
                "level": row.level,
                "service": row.service,
                "verdict": row.verdict,
                "state": row.state,
                "newestPlanId": row.active_plan_id,
            }
    return found


def job(db: Connection, job_id: str) -> dict[str, Any] | None:
    row = db.execute(select(jobs_table).where(jobs_table.c.job_id == job_id)).mappings().one_or_none()
    return None if row is None else {**_job(row), "attempts": _attempts(db, [job_id], MAX_RESULTS)[job_id]}


def job_summaries(db: Connection, plan_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """plan id -> its jobs in plan order, those of one name, verdict, state and reason counted together.

    What a list of studies says about each; one query, whose answer does not grow with a study's series.
    """
    table = jobs_table
    alike = (table.c.plan_id, table.c.job_name, table.c.verdict, table.c.state, table.c.reason)
    query = select(*alike, func.count().label("count")).where(table.c.plan_id.in_(plan_ids))
    summaries: dict[str, list[dict[str, Any]]] = {plan_id: [] for plan_id in plan_ids}
    for row in db.execute(query.group_by(*alike).order_by(table.c.plan_id, func.min(table.c.position))):
        summaries[row.plan_id].append(
            {
                "jobName": row.job_name,
                "verdict": row.verdict,
                "state": row.state,
                "reason": row.reason,
                "count": row[-1],
            }
        )
    return summaries


def when(seconds: float | None) -> str | None:
    """RFC 3339, UTC, milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _search(query: Select[Any], search: Mapping[str, Any]) -> Select[Any]:
    table = studies_table
    if uid := search.get("studyInstanceUID"):
        query = query.where(table.c.study_instance_uid == str(uid))
    if start := search.get("from"):
        query = query.where(table.c.study_date >= str(start))
    if end := search.get("to"):
        query = query.where(table.c.study_date <= str(end))
    if modality := search.get("modality"):
        query = query.where(table.c.modalities.contains(str(modality), autoescape=True))
    for key, column in (("jobName", jobs_table.c.job_name), ("service", jobs_table.c.service)):
        if value := search.get(key):
            query = query.where(
                select(jobs_table.c.job_id)
                .where(jobs_table.c.plan_id == table.c.active_plan_id, column == str(value))
                .exists()
            )
    return query


def _study(row: RowMapping) -> dict[str, Any]:
    return {
        "studyId": row["study_id"],
        "state": row["state"],
        "reason": row["reason"],
        "firstSeenAt": when(row["first_seen_at"]),
        "changedAt": when(row["changed_at"]),
        "unplanned": row["unplanned"],
        "holdUntil": when(row["hold_until"]),
        "studyInstanceUID": row["study_instance_uid"],
        "studyDate": row["study_date"],
        "modalities": row["modalities"].split("\\") if row["modalities"] else [],
        "description": row["description"],
        "activePlanId": row["active_plan_id"],
    }


def _event(row: RowMapping) -> dict[str, Any]:
    return {
        "eventId": row["event_id"],
        "kind": row["kind"],
        "payload": row["payload"],
        "receivedAt": when(row["received_at"]),
        "handledAt": when(row["handled_at"]),
        "failures": row["failures"],
        "result": row["result"],
    }


def _plan(row: RowMapping) -> dict[str, Any]:
    series = row["headers"].get("series", [])
    return {
        "planId": row["plan_id"],
        "revision": row["revision"],
        "run": row["run"],
        "reason": row["reason"],
        "active": row["active"],
        "createdAt": when(row["created_at"]),
        "endedAt": when(row["ended_at"]),
        "faults": row["faults"] or [],
        "seriesIds": [entry["seriesId"] for entry in series],
        "numberOfInstances": sum(entry["NumberOfInstances"] for entry in series),
    }


def _job(row: RowMapping) -> dict[str, Any]:
    settings = row["settings"]
    return {
        "jobId": row["job_id"],
        "planId": row["plan_id"],
        "studyId": row["study_id"],
        "seriesId": row["series_id"],
        "jobName": row["job_name"],
        "service": row["service"],
        "version": row["digest"],
        "verdict": row["verdict"],
        "reason": row["reason"],
        "state": row["state"],
        "stage": settings["stage"],
        "level": settings["level"],
        "queue": row["queue"],
        "position": row["position"],
        "dependsOn": row["dependencies"],
        "injected": row["injected"] or {},
        "traceback": row["traceback"],
        "callbackOutput": row["output"],
        "reusedFrom": row["reused_from"],
        "attempt": row["attempt"],
        "dueAt": when(row["due_at"]),
        "createdAt": when(row["created_at"]),
        "startedAt": when(row["started_at"]),
        "endedAt": when(row["ended_at"]),
    }


def _attempts(db: Connection, job_ids: Sequence[str], most_results: int = SHOWN) -> dict[str, list[dict[str, Any]]]:
    """job id -> its attempts in order; SQLite takes at most 32,766 parameters, so in portions."""
    result: dict[str, list[dict[str, Any]]] = {job_id: [] for job_id in job_ids}
    for portion in _portions(job_ids, 1000):
        named = results.of_jobs(db, portion, most_results)
        query = select(attempts_table).where(attempts_table.c.job_id.in_(portion)).order_by(attempts_table.c.attempt)
        for row in db.execute(query).mappings():
            result[row["job_id"]].append(
                {
                    "attemptId": row["attempt_id"],
                    "attempt": row["attempt"],
                    "state": row["state"],
                    "queuedAt": when(row["queued_at"]),
                    "startedAt": when(row["started_at"]),
                    "endedAt": when(row["ended_at"]),
                    "worker": row["worker"],
                    "host": row["host"],
                    "exitReason": row["exit_reason"],
                    "error": row["error"],
                    "traceback": row["traceback"],
                    "phases": {
                        phase: [when(moment) for moment in moments] for phase, moments in (row["phases"] or {}).items()
                    },
                    "details": row["details"] or {},
                    "results": named.get(row["attempt_id"], []),
                    "progress": None,  # `live` knows it
                }
            )
    return result


def _portions(ids: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))

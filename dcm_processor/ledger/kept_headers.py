"""The headers that plans keep: what callbacks were asked about, study by study, newest first."""

import json
import re
from typing import Any

from sqlalchemy import Connection, select

from dcm_processor.ledger.schema import plans
from dcm_processor.ledger.views import Page, when

_CURSOR = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?~[A-Za-z0-9_-]{1,128}")
MOST = 8_000_000
"""Characters of headers on a page, about; at least one study's are on it."""


def page(db: Connection, since: float, cursor: str | None, limit: int) -> Page:
    """Of each study whose active plan was made at `since` (s since the epoch) or later: its headers as they were then.

    A page ends early where it gets large. Raises ValueError where the cursor is none of ours.
    """
    query = select(plans.c.plan_id, plans.c.created_at).where(plans.c.active, plans.c.created_at >= since)
    if cursor is not None:
        if not _CURSOR.fullmatch(cursor):
            raise ValueError("the cursor is none of a list of headers")
        created, _, plan_id = cursor.partition("~")
        at = float(created)
        query = query.where((plans.c.created_at < at) | ((plans.c.created_at == at) & (plans.c.plan_id < plan_id)))
    found = db.execute(query.order_by(plans.c.created_at.desc(), plans.c.plan_id.desc()).limit(limit + 1)).all()
    items: list[dict[str, Any]] = []
    room = MOST
    for row in found[:limit]:
        if room <= 0:
            break
        items.append(_kept(db, row.plan_id))
        room -= len(json.dumps(items[-1]["headers"]))
    last = found[len(items) - 1] if len(items) < len(found) else None
    return Page(items, f"{last.created_at!r}~{last.plan_id}" if last is not None else None)


def _kept(db: Connection, plan_id: str) -> dict[str, Any]:
    columns = (plans.c.study_id, plans.c.created_at, plans.c.selected, plans.c.headers)
    row = db.execute(select(*columns).where(plans.c.plan_id == plan_id)).one()
    return {
        "studyId": row.study_id,
        "planId": plan_id,
        "plannedAt": when(row.created_at),
        "selected": row.selected,
        "headers": row.headers,
    }

"""A plan in a ledger, taken on outcome by outcome without controller, Orthanc and workers."""

import copy
import json
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any, Self

from sqlalchemy import event

from dcm_processor import identity
from dcm_processor.ledger import plans
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.plan import CallbackOutcome, instances_of, make_plan
from dcm_processor.registry import combine
from dcm_processor.store import Store
from dcm_processor.transport import Report, Transport
from dcm_processor.vocabulary import EventKind, Level
from scheduler.adoption import adopt
from scheduler.effects import Effects
from scheduler.outcomes import take
from scheduler.planning import Ending, Planned
from scheduler.progress import deciding
from scheduler.results import Results
from tests.ledgers import new_ledger

SERIES = ["a" * 8, "b" * 8]


class AdoptedPlan:
    """A plan of series jobs, taken on outcome by outcome."""

    def __init__(self, folder: Path, transport: Transport, jobs: list[dict[str, Any]], url: str | None = None) -> None:
        self.ledger = new_ledger(url or f"sqlite:///{folder}/ledger.sqlite")
        self.clock = time.time
        self.transport, self.results = transport, Results(folder / "data")
        defaults = Defaults(Level.STUDY, "default", ("default",))
        self.store = Store(folder / "registry", folder / "modules", defaults)
        entries = [{"worker": "svc.work", "callback": "svc.applies", "level": "series", **job} for job in jobs]
        manifest = parse_manifest(json.dumps(entries), "svc", defaults)
        self.registry = combine([("svc", "0" * 32, manifest)])
        self._begin()

    def _begin(self) -> None:
        self.study_id = str(uuid.uuid4())
        self.ledger.record_event(EventKind.STABLE, self.study_id)
        self.plan_id = self.adopt()

    def another(self) -> Self:
        """The same of another study, in the same ledger."""
        other = copy.copy(self)
        other._begin()
        return other

    def adopt(self, *wanted: str) -> str:
        """Plan the study, and so often again; `wanted` are the jobs of a rerun."""
        names = [key for job in self.registry.jobs for key in instances_of(job, SERIES)]
        plan = make_plan(self.registry, SERIES, {key: CallbackOutcome(applies=True) for key in names})
        headers = {"seriesIds": SERIES, "series": [{"seriesId": each, "NumberOfInstances": 1} for each in SERIES]}
        revision, instances, effects = identity.revision(SERIES), {each: ["i"] for each in SERIES}, Effects()
        planned = Planned(Ending.PLANNED, self.study_id, "", revision, headers, instances, {}, plan)
        with self.ledger.write() as db:
            plan_id = adopt(
                db, planned, why="", selected=["*"], faults=[], wanted=wanted, effects=effects, now=self.clock()
            )
        effects.carry_out(self.ledger, self.transport, self.results, self.store)
        return plan_id

    def rows(self) -> list[dict[str, Any]]:
        """The plan's jobs."""
        with self.ledger.read() as db:
            return [dict(row) for row in plans.jobs_of(db, self.plan_id)]

    def look_at_all(self) -> None:
        """What repair does every minute."""
        effects = Effects()
        with deciding(self.ledger, None, effects) as (_, own):  # type: ignore[arg-type]  # no other leader here
            own.touched.append(self.study_id)
        effects.carry_out(self.ledger, self.transport, self.results, self.store)

    def finish(self, job_name: str, series_id: str | None, reason: str = "done") -> list[str]:
        """Take the outcome in; returns the statements it took within transactions, where the database is SQLite."""
        attempt_id = identity.attempt_id(identity.job_id(self.plan_id, job_name, series_id), 1)
        report = Report("outcome", attempt_id, "c", "w", "h", {"exitReason": reason})
        effects, statements = Effects(), []

        def trace(connection: Any, *_: object) -> None:
            if isinstance(connection, sqlite3.Connection):
                connection.set_trace_callback(statements.append)

        event.listen(self.ledger._engine, "checkout", trace)
        try:
            with deciding(self.ledger, None, effects) as (db, own):  # type: ignore[arg-type]  # no other leader here
                take(db, report, own, now=self.clock())
            effects.carry_out(self.ledger, self.transport, self.results, self.store)
        finally:
            event.remove(self.ledger._engine, "checkout", trace)
        return [each for each in statements if not each.startswith(("BEGIN", "COMMIT"))]

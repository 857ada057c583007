"""Plans taken on outcome by outcome: what that costs, and what stands in the next plan of the study."""

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dcm_processor import identity
from dcm_processor.ledger import Ledger, plans
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.plan import CallbackOutcome, JobKey, make_plan
from dcm_processor.registry import combine
from dcm_processor.transport import PREFIX, Report, Transport
from dcm_processor.vocabulary import EventKind, Level
from scheduler.adoption import adopt
from scheduler.effects import Effects
from scheduler.outcomes import take
from scheduler.planning import Ending, Planned
from scheduler.progress import deciding
from scheduler.results import Results
from tests.servers import ValkeyServer

SERIES = ["a" * 8, "b" * 8]


class Plan:
    """A plan of series jobs, taken on outcome by outcome."""

    def __init__(self, folder: Path, transport: Transport, jobs: list[dict[str, Any]]) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
        self.ledger.migrate()
        self.transport, self.results = transport, Results(folder / "data")
        self.study_id = str(uuid.uuid4())
        self.ledger.record_event(EventKind.STABLE, self.study_id)
        entries = [{"worker": "svc.work", "callback": "svc.applies", "level": "series", **job} for job in jobs]
        manifest = parse_manifest(json.dumps(entries), "svc", Defaults(Level.STUDY, "default", ("default",)))
        self.registry = combine([("svc", "0" * 32, manifest)])
        self.plan_id = self.adopt()

    def adopt(self, *wanted: str) -> str:
        """Plan the study, and so often again; `wanted` are the jobs of a rerun."""
        names = [JobKey(job.name, each) for job in self.registry.jobs for each in SERIES]
        plan = make_plan(self.registry, SERIES, {key: CallbackOutcome(applies=True) for key in names})
        headers = {"seriesIds": SERIES, "series": [{"seriesId": each} for each in SERIES]}
        revision, instances, effects = identity.revision(SERIES), {each: ["i"] for each in SERIES}, Effects()
        planned = Planned(Ending.PLANNED, self.study_id, "", revision, headers, instances, {}, plan)
        with self.ledger.write() as db:
            plan_id = adopt(
                db, planned, why="", selected=["*"], faults=[], wanted=wanted, effects=effects, now=time.time()
            )
        effects.carry_out(self.ledger, self.transport, self.results)
        return plan_id

    def finish(self, job_name: str, series_id: str, reason: str = "done") -> list[str]:
        """Take the outcome in; returns the statements it took."""
        attempt_id = identity.attempt_id(identity.job_id(self.plan_id, job_name, series_id), 1)
        report = Report("outcome", attempt_id, "c", "w", "h", {"exitReason": reason})
        effects, statements = Effects(), []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        try:
            with deciding(self.ledger, None, effects) as (db, own):  # type: ignore[arg-type]  # no other leader here
                take(db, report, own, now=time.time())
            effects.carry_out(self.ledger, self.transport, self.results)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        return statements


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    with ValkeyServer(tmp_path / "valkey") as valkey:
        transport = Transport(valkey.url)
        yield transport
        transport.close()


def test_an_outcome_that_nobody_waits_for_reads_no_other_jobs_and_no_headers(
    tmp_path: Path, transport: Transport
) -> None:
    plan = Plan(tmp_path, transport, [{"jobName": "one"}])
    statements = plan.finish("one", SERIES[0])
    assert not [
        statement for statement in statements if "headers" in statement or "ORDER BY jobs.position" in statement
    ]
    plan.finish("one", SERIES[1])
    study = plan.ledger.study(plan.study_id)
    assert study is not None
    assert study["state"] == "finished"


def test_a_plan_lies_in_redis_once_and_is_laid_down_again_where_it_was_lost(
    tmp_path: Path, transport: Transport
) -> None:
    plan = Plan(tmp_path, transport, [{"jobName": "one"}, {"jobName": "two", "dependsOn": "one"}])
    key = PREFIX + "plan:" + plan.plan_id
    laid_down: Any = transport.redis.get(key)
    transport.redis.set(key, b"as it was")
    statements = plan.finish("one", SERIES[0])
    assert not [statement for statement in statements if "headers" in statement]
    assert transport.redis.get(key) == b"as it was"
    transport.redis.delete(key)
    plan.finish("one", SERIES[1])
    assert json.loads(transport.redis.get(key)) == json.loads(laid_down)  # type: ignore[arg-type]
    for series_id in SERIES:
        found = transport.order(identity.attempt_id(identity.job_id(plan.plan_id, "two", series_id), 1))
        assert found is not None
        assert found[0].inputs == {"one": f"results/{plan.study_id}/one/{series_id}"}


def test_what_is_carried_over_keeps_the_times_of_what_ran(tmp_path: Path, transport: Transport) -> None:
    """Finished, failed, and skipped for that: none of them began or ended when the next plan was made."""
    jobs = [{"jobName": "good"}, {"jobName": "bad"}, {"jobName": "after", "dependsOn": "bad"}, {"jobName": "again"}]
    plan = Plan(tmp_path, transport, jobs)
    for series_id in SERIES:
        for name in ("good", "again"):
            plan.finish(name, series_id)
        plan.finish("bad", series_id, "exception")

    def times(plan_id: str) -> dict[tuple[str, str], tuple[float | None, float | None]]:
        with plan.ledger.read() as db:
            rows = [row for row in plans.jobs_of(db, plan_id) if row["job_name"] != "again"]
        return {(row["job_name"], row["series_id"]): (row["started_at"], row["ended_at"]) for row in rows}

    first = times(plan.plan_id)
    assert all(ended for _, ended in first.values())
    assert times(plan.adopt("again")) == first


def test_results_that_could_not_be_put_in_their_place_come_there_in_the_order_of_their_ends(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of a job, none of whose results could be published: the last one's stay, however often repair looks."""
    plan = Plan(tmp_path, transport, [{"jobName": "one"}])

    def refuse(*_: object) -> Path:
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for run in ("first", "second"):
            for series_id in SERIES:
                attempt_id = identity.attempt_id(identity.job_id(plan.plan_id, "one", series_id), 1)
                (tmp_path / "data" / "attempts" / attempt_id).mkdir(parents=True)
                (tmp_path / "data" / "attempts" / attempt_id / run).touch()
                plan.finish("one", series_id)
            plan.plan_id = plan.adopt("one")
    for _ in range(3):
        Results(tmp_path / "data").repair(plan.ledger)
    for series_id in SERIES:
        folder = tmp_path / "data" / "results" / plan.study_id / "one" / series_id
        assert [path.name for path in folder.iterdir()] == ["second"]

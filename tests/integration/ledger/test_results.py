"""Named results in the ledger, on SQLite and PostgreSQL: migrated to, kept once, and gone with their attempts."""

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from dcm_processor.identity import attempt_id
from dcm_processor.ledger import Ledger, attempts, plans, results, retention
from dcm_processor.notes import NamedResult
from dcm_processor.vocabulary import AttemptState, EventKind, JobState
from tests.integration.ledger.test_ledger import STUDY, add_plan

NAMED = (NamedResult("volume", 4810.5, "ml"), NamedResult("side", "L"), NamedResult("ok", value=True))


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    opened = Ledger(database_url, busy_timeout=5)
    opened.migrate()
    yield opened
    opened.close()


def begin(ledger: Ledger, *names: str) -> list[str]:
    """A plan whose jobs have their first attempt started; the attempts' ids."""
    ledger.record_event(EventKind.STABLE, STUDY)
    plan_id, _ = add_plan(ledger, 1, list(names))
    with ledger.write() as db:
        begun = attempts.queue(db, plans.jobs_of(db, plan_id), now=101.0)
        for each in begun:
            found = attempts.get(db, each)
            assert found is not None
            attempts.start(db, found[0], worker="w", host="h", now=102.0)
    return begun


def test_a_ledger_at_0004_with_jobs_in_flight_is_brought_up_and_goes_on(database_url: str) -> None:
    old = Ledger(database_url)
    old.migrate()
    config = Config()
    config.set_main_option("script_location", "dcm_processor.ledger:migrations")
    config.set_main_option("path_separator", "os")
    with old.write() as db:  # as it was at 0004
        db.execute(text("DROP TABLE results"))
        config.attributes["connection"] = db
        command.stamp(config, "0004")
    (running,) = begin(old, "job")
    old.close()
    ledger = Ledger(database_url)
    ledger.migrate()
    with ledger.write() as db:
        found = attempts.get(db, running)
        assert found is not None
        assert found[0]["state"] == AttemptState.STARTED
        attempts.end(db, running, AttemptState.FINISHED, {}, now=200.0)
        results.add(db, running, NAMED)
    study = ledger.study(STUDY)
    assert study is not None
    (attempt,) = study["plans"][0]["jobs"][0]["attempts"]
    assert attempt["results"] == [each.to_json() for each in NAMED]
    with ledger.read() as db:
        assert "results" in inspect(db).get_table_names()
    ledger.close()


def test_values_keep_their_kind_and_order(ledger: Ledger) -> None:
    named = (
        *NAMED, NamedResult("whole", 2**63 - 1), NamedResult("small", -0.5), NamedResult("no", value=False),
        NamedResult("text", "Größe \U0001f9e0"), NamedResult("digits", "0012"), NamedResult("empty", ""),
    )  # fmt: skip
    (attempt,) = begin(ledger, "job")
    with ledger.write() as db:
        results.add(db, attempt, named)
    with ledger.read() as db:
        found = results.of_jobs(db, [attempt.rpartition("-")[0]])[attempt]
    assert found == [each.to_json() for each in named]
    assert [type(each["value"]) for each in found] == [type(each.value) for each in named]


def test_no_attempt_has_them_twice(ledger: Ledger) -> None:
    (attempt,) = begin(ledger, "job")
    with ledger.write() as db:
        results.add(db, attempt, NAMED)
    with pytest.raises(IntegrityError), ledger.write() as db:
        results.add(db, attempt, NAMED[:1])


def test_they_go_with_their_attempts(ledger: Ledger) -> None:
    begun = begin(ledger, "one", "two")
    assert begun == [attempt_id(each.rpartition("-")[0], 1) for each in begun]
    with ledger.write() as db:
        for attempt in begun:
            results.add(db, attempt, NAMED)
            attempts.end(db, attempt, AttemptState.FINISHED, {}, now=200.0)
            attempts.set_job(db, attempt.rpartition("-")[0], {"state": JobState.FINISHED, "ended_at": 200.0})
    with ledger.write() as db:
        plans.end(db, f"{STUDY}-abc-1", now=200.0)
        assert retention.bury(db, [STUDY])
    with ledger.read() as db:
        assert db.execute(text("SELECT count(*) FROM results")).scalar_one() == 0

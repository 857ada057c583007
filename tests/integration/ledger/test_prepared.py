"""Statements handed to the driver, on SQLite and on PostgreSQL: as SQLAlchemy would have executed them."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import LeaseLostError, Ledger, leases
from dcm_processor.ledger.prepared import Prepared
from dcm_processor.ledger.schema import events, facts, jobs, results, studies
from dcm_processor.ledger.schema import leases as lease_table
from dcm_processor.process import boot_time
from dcm_processor.vocabulary import StudyState
from tests.ledgers import new_ledger

ADD = Prepared(insert(studies))
SET = Prepared(update(studies).where(studies.c.study_id == bindparam("of_study")))
STUDY = {"study_id": "s1", "state": StudyState.RUNNING, "first_seen_at": 1.5, "changed_at": 2}
ODD = "Ä\0\ud800Ω"


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with closing(new_ledger(database_url, busy_timeout=5)) as opened:
        yield opened


@pytest.fixture
def lease(ledger: Ledger) -> leases.Lease:
    return lead(ledger)


def lead(ledger: Ledger) -> leases.Lease:
    with ledger.write() as db:
        found = leases.acquire(db, leases.LEADER, "here:1:1", leases.Watch(), now=0, seconds=60)
    assert found is not None
    return found


def connection_of(ledger: Ledger, lease: leases.Lease | None) -> object:
    with ledger.write(lease) as db:
        return db.connection.dbapi_connection


def test_values_of_each_kind_go_in_and_come_out_as_with_sqlalchemy(ledger: Ledger) -> None:
    found = [select(table).order_by(*table.primary_key) for table in (studies, events, facts, results)]
    with ledger.write() as db:
        ADD.run(db, {**STUDY, "reason": ODD})
        Prepared(insert(facts)).run(
            db, {"name": "of", "value": {"series": [1, 2.5, None, True, ODD]}}, {"name": "none", "value": None}
        )
        Prepared(insert(events)).run(
            db,
            {"kind": "stable", "study_id": "s1", "payload": None, "received_at": 1, "due_at": 1e9, "failures": 3},
        )
        for statement in found:
            rows = [tuple(row) for row in Prepared(statement).rows(db, {})]
            assert rows == [tuple(row) for row in db.execute(statement)]
        [study] = Prepared(found[0]).rows(db, {})
    assert list(study[1:6]) == ["s1", "running", "Ä\ufffd?Ω", 1.5, 2.0]
    assert all(type(value) is not int for value in study[4:6])


def test_flags_are_flags_and_constants_of_a_statement_are_converted(ledger: Ledger) -> None:
    there = select(studies.c.study_id, studies.c.reason.is_(None).label("bare")).where(
        studies.c.state == StudyState.RUNNING, studies.c.reason == bindparam("reason")
    )
    with ledger.write() as db:
        ADD.run(db, {**STUDY, "reason": ODD})
        rows = [tuple(row) for row in Prepared(there).rows(db, {"reason": ODD})]
        assert rows == [tuple(row) for row in db.execute(there, {"reason": ODD})] == [("s1", False)]
        assert type(rows[0][1]) is bool


def test_many_rows_and_then_one_with_other_columns(ledger: Ledger) -> None:
    with ledger.write() as db:
        ADD.run(db, *({**STUDY, "study_id": f"s{n}"} for n in range(5)))
        SET.run(db, *({"of_study": f"s{n}", "state": "finished", "reason": str(n)} for n in range(3)))
        SET.run(db, {"reason": None, "of_study": "s0"})
        SET.run(db, {"of_study": "nobody", "reason": "lost"})
        found = db.execute(select(studies.c.state, studies.c.reason).order_by(studies.c.study_id)).all()
    assert found == [("finished", None), ("finished", "1"), ("finished", "2"), ("running", None), ("running", None)]


def test_what_fails_is_sqlalchemys_error_without_values_and_nothing_of_its_transaction_stays(ledger: Ledger) -> None:
    def twice() -> None:
        with ledger.write() as db:
            ADD.run(db, {**STUDY, "study_id": "first"})
            ADD.run(db, *({**STUDY, "study_id": "s1", "reason": "Doe^Jane"} for _ in range(2)))

    with pytest.raises(IntegrityError) as caught:
        twice()
    assert "INSERT INTO studies" in str(caught.value)
    assert "Doe" not in f"{caught.value} {caught.value.orig}"
    with ledger.read() as db:
        assert db.execute(select(studies)).all() == []


def test_a_connection_that_was_closed_below_is_sqlalchemys_error_too(ledger: Ledger) -> None:
    def use() -> None:
        with ledger.write() as db:
            driver = db.connection.driver_connection
            assert driver is not None
            driver.close()
            Prepared(select(studies)).rows(db, {})

    with pytest.raises((DBAPIError, LedgerUnavailableError)):
        use()
    with ledger.write() as db:
        ADD.run(db, STUDY)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(insert(jobs), id="a default"),
        pytest.param(select(studies).where(studies.c.study_id.in_(bindparam("of", expanding=True))), id="a list"),
    ],
)
def test_a_statement_that_the_driver_alone_would_execute_otherwise_is_refused(ledger: Ledger, statement: Any) -> None:
    with pytest.raises(ValueError, match="for SQLAlchemy to execute"), ledger.write() as db:
        Prepared(statement).run(db, {"job_id": "j1"})


def test_a_thread_that_leads_keeps_its_connection_and_others_theirs(ledger: Ledger, lease: leases.Lease) -> None:
    mine, theirs = connection_of(ledger, lease), []
    assert connection_of(ledger, None) is not mine
    other = threading.Thread(target=lambda: theirs.extend(connection_of(ledger, lease) for _ in range(2)))
    other.start()
    other.join(10)
    assert connection_of(ledger, lease) is mine
    assert len(theirs) == 2
    assert theirs[0] is theirs[1] is not mine


def test_a_kept_connection_that_was_not_used_for_long_is_given_back(
    ledger: Ledger, lease: leases.Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may have forgotten it; the pool tries what it hands out."""
    handed_out: list[object] = []
    event.listen(ledger._engine, "checkout", lambda connection, *_: handed_out.append(connection))
    now = boot_time()
    for seconds, times in ((0, 1), (9, 1), (18, 1), (29, 2), (30, 2)):
        monkeypatch.setattr("dcm_processor.ledger.ledger.boot_time", lambda seconds=seconds: now + seconds)
        connection_of(ledger, lease)
        assert len(handed_out) == times, seconds


def test_a_leaders_transaction_that_fails_is_undone_and_the_next_one_works(ledger: Ledger, lease: leases.Lease) -> None:
    def fail() -> None:
        with ledger.write(lease) as db:
            ADD.run(db, STUDY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with ledger.write(lease) as db:
        assert db.execute(select(studies)).all() == []
        ADD.run(db, STUDY)
    with ledger.write() as db:
        db.execute(delete(lease_table))
    with pytest.raises(LeaseLostError), ledger.write(lease) as db:
        pass
    with ledger.read() as db:
        assert len(db.execute(select(studies)).all()) == 1


def test_a_kept_connection_that_broke_costs_one_transaction(postgres_url: str) -> None:
    with closing(new_ledger(postgres_url)) as ledger:
        held = lead(ledger)
        with ledger.write(held) as db:
            pid = db.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with ledger.write() as db:
            assert db.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar_one()
        with pytest.raises(LedgerUnavailableError, match="connection"), ledger.write(held):
            pass
        with ledger.write(held) as db:
            ADD.run(db, STUDY)


def test_a_ledger_that_is_locked_is_unavailable_to_its_leader_and_works_again(sqlite_url: str) -> None:
    with closing(new_ledger(sqlite_url)) as patient, closing(Ledger(sqlite_url, busy_timeout=0.1)) as hasty:
        held = lead(patient)
        with hasty.write(held) as db:
            ADD.run(db, STUDY)
        with patient.write(), pytest.raises(LedgerUnavailableError, match="locked"), hasty.write(held):
            pass
        with hasty.write(held) as db:
            assert SET.run(db, {"of_study": "s1", "reason": "again"}) is None

"""The ledger on SQLite and on PostgreSQL alike: transactions, leases, events, plans and what API and pages read."""

import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text

from dcm_processor.errors import LedgerError, LedgerUnavailableError
from dcm_processor.ledger import Lease, LeaseLostError, Ledger, attempts, events, leases, plans, repairs, studies
from dcm_processor.ledger.engine import file_system
from dcm_processor.ledger.schema import metadata
from dcm_processor.settings import CHECKOUT
from dcm_processor.vocabulary import AttemptState, EventKind, JobState, RepairKind, StudyState, Verdict
from tests.servers import PostgresServer

STUDY = "0a1b2c3d-0a1b2c3d-0a1b2c3d-0a1b2c3d-0a1b2c3d"


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    opened = Ledger(database_url, busy_timeout=5)
    opened.migrate()
    yield opened
    opened.close()


def job_row(plan_id: str, name: str, position: int, **values: Any) -> dict[str, Any]:
    return {
        "job_id": f"{plan_id}-{name}",
        "plan_id": plan_id,
        "study_id": STUDY,
        "series_id": None,
        "job_name": name,
        "service": "svc",
        "digest": "d1",
        "position": position,
        "settings": {"stage": "main", "level": "study"},
        "verdict": Verdict.SCHEDULED,
        "reason": None,
        "traceback": None,
        "output": None,
        "injected": None,
        "dependencies": [],
        "reused_from": None,
        "state": JobState.WAITING,
        "queue": "default",
        "attempt": 0,
        "failures": 0,
        "transients": 0,
        "losses": 0,
        "due_at": None,
        "created_at": 1.0,
        "started_at": None,
        "ended_at": None,
        **values,
    }


def add_plan(ledger: Ledger, run: int, names: list[str], now: float = 100.0) -> tuple[str, list[str]]:
    plan_id = f"{STUDY}-abc-{run}"
    with ledger.write() as db:
        plan = {
            "plan_id": plan_id, "study_id": STUDY, "revision": "abc", "run": run, "reason": "stable",
            "headers": {"StudyDate": "20260101"}, "selected": ["*"], "instances": {"s1": ["i1", "i2"]}, "faults": None,
        }  # fmt: skip
        rows = [job_row(plan_id, name, position, created_at=now) for position, name in enumerate(names)]
        unwanted, _ = plans.supersede(db, STUDY, plan_id, now=now)
        plans.add(db, plan, rows, now=now)
        studies.set_plan(db, STUDY, plan_id, headers={}, state=StudyState.RUNNING, reason=None, now=now)
        return plan_id, unwanted


def test_migrating_twice_is_harmless_and_gives_the_schema_of_the_code(ledger: Ledger) -> None:
    ledger.migrate()
    with ledger.read() as db:
        differences = compare_metadata(MigrationContext.configure(db), metadata)
    assert differences == []


def test_who_finds_the_schema_of_the_code_does_not_load_what_makes_it(database_url: str) -> None:
    migrate = "import sys; from dcm_processor.ledger import Ledger; Ledger(sys.argv[1]).migrate(); print(*sys.modules)"
    first, second = (
        subprocess.run(
            [sys.executable, "-c", migrate, database_url], cwd=CHECKOUT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    )
    assert "alembic" in first
    assert "alembic" not in second


def test_a_database_that_is_still_empty_is_said_to_be_unavailable(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with closing(Ledger(database_url)) as ledger:
        with pytest.raises(LedgerUnavailableError, match="no such table"):
            ledger.check()
        assert ledger.count_unended("svc") == {}
        ledger.migrate()
        ledger.check()


def test_who_dies_while_it_migrates_leaves_nothing_that_others_may_read(sqlite_url: str, tmp_path: Path) -> None:
    dies = (
        "import os, sys, alembic.command; from dcm_processor.ledger import Ledger; os.umask(0); "
        "upgrade = alembic.command.upgrade; "
        "alembic.command.upgrade = lambda *call: (upgrade(*call), os.kill(os.getpid(), 9)); "
        "Ledger(sys.argv[1]).migrate()"
    )
    done = subprocess.run([sys.executable, "-c", dies, sqlite_url], cwd=CHECKOUT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "db").iterdir()} == {0o600}
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.migrate()
        ledger.check()


def test_a_ledger_that_others_may_read_is_made_private_at_the_next_start(sqlite_url: str, tmp_path: Path) -> None:
    file = tmp_path / "db" / "ledger.sqlite"
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.migrate()
        file.chmod(0o644)
        ledger.migrate()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "db").touch()
    ledger = Ledger(f"sqlite:///{tmp_path}/db/ledger.sqlite")
    with closing(ledger), pytest.raises(LedgerUnavailableError, match=f"{tmp_path}/db"):
        ledger.migrate()


BEGINS = """
import sys, time
import alembic.command
from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import Ledger
ledger = Ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
for _ in range(100):
    try:
        ledger.migrate()
        break
    except LedgerUnavailableError:  # a new SQLite file is locked for a moment
        time.sleep(0.1)
ledger.check()
"""


def test_programs_that_begin_at_the_same_moment_make_the_schema_once(database_url: str) -> None:
    call = [sys.executable, "-c", BEGINS, database_url]
    programs = [
        subprocess.Popen(call, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.close()
    for program in programs:
        assert program.wait(60) == 0, program.stderr and program.stderr.read().decode()
        for pipe in (program.stdout, program.stderr):
            assert pipe is not None
            pipe.close()


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    with ledger.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="9999"):
        ledger.migrate()


def test_an_event_makes_its_study_received_and_waits_to_be_dealt_with(ledger: Ledger) -> None:
    first = ledger.record_event(EventKind.STABLE, STUDY)
    second = ledger.record_event(EventKind.CHANGE, STUDY)
    assert second > first
    assert [item["state"] for item in ledger.studies().items] == [StudyState.RECEIVED]
    with ledger.write() as db:
        due = events.due(db, now=time.time(), longest=60)
        assert [event["event_id"] for event in due] == [first, second]
        events.settle(db, [first], "planned", now=5.0)
        assert events.put_off(db, [second], "Orthanc is away", due_at=time.time() + 50, counts=True) == 1
        assert events.due(db, now=time.time(), longest=60) == []


def test_a_known_study_that_is_announced_is_received(ledger: Ledger) -> None:
    with ledger.write() as db:
        assert events.meet(db, STUDY, StudyState.KNOWN, now=1.0)
        assert not events.meet(db, STUDY, StudyState.KNOWN, now=2.0)
    ledger.record_event(EventKind.STABLE, STUDY)
    study = ledger.study(STUDY)
    assert study is not None
    assert study["state"] == StudyState.RECEIVED


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    def record_and_fail() -> None:
        with ledger.write() as db:
            events.record(db, EventKind.STABLE, STUDY, None, now=1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        record_and_fail()
    assert ledger.studies().items == []


def test_events_recorded_at_once_by_many_are_all_there(ledger: Ledger) -> None:
    def record(number: int) -> None:
        for step in range(10):
            ledger.record_event(EventKind.STABLE, f"study-{number}-{step}")

    threads = [threading.Thread(target=record, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ledger.studies(limit=200).items) == 80


def test_only_one_leads_and_an_old_leader_can_write_nothing(ledger: Ledger) -> None:
    now = time.time()
    with ledger.write() as db:
        first = leases.acquire(db, "controller", "elsewhere:1:1", leases.Watch(), now=now, seconds=15)
    assert first is not None
    with ledger.write() as db:
        assert leases.acquire(db, "controller", "other:2:2", leases.Watch(), now=now + 1, seconds=15) is None
    with ledger.write() as db:
        second = leases.acquire(db, "controller", "other:2:2", leases.Watch(), now=now + 20, seconds=15)
    assert second == Lease("controller", "other:2:2", 2)
    with pytest.raises(LeaseLostError), ledger.write(first) as db:
        events.record(db, EventKind.STABLE, STUDY, None, now=now)
    assert ledger.studies().items == []
    with ledger.write(second) as db:
        leases.renew(db, second, now=now + 21, seconds=15)
        leases.release(db, second)


def test_a_leader_that_died_on_this_host_is_replaced_at_once(ledger: Ledger) -> None:
    host = leases.holder_of_this_process().split(":", maxsplit=1)[0]
    now = time.time()
    with ledger.write() as db:
        leases.acquire(db, "controller", f"{host}:999999999:1", leases.Watch(), now=now, seconds=15)
    with ledger.write() as db:
        mine = leases.holder_of_this_process()
        assert leases.acquire(db, "controller", mine, leases.Watch(), now=now, seconds=15) is not None


def test_a_dead_leader_is_replaced_in_time_though_the_clock_was_set_back(ledger: Ledger) -> None:
    """By what a waiter's own monotonic clock says of a lease that nobody renews, and of none that somebody does."""
    ticks = [0.0]
    watch = leases.Watch(lambda: ticks[0])

    def wait(seconds: float, now: float) -> Lease | None:
        ticks[0] += seconds
        with ledger.write() as db:
            return leases.acquire(db, "controller", "other:2:2", watch, now=now, seconds=15)

    with ledger.write() as db:
        first = leases.acquire(db, "controller", "elsewhere:1:1", leases.Watch(), now=1_000_000.0, seconds=15)
    assert first is not None
    assert wait(0, 1000.0) is None
    assert wait(14, 1014.0) is None
    with ledger.write(first) as db:
        leases.renew(db, first, now=1_000_014.0, seconds=15)
    assert wait(2, 1016.0) is None
    assert wait(14.9, 1030.0) is None
    assert wait(0.2, 1031.0) == Lease("controller", "other:2:2", 2)


def test_what_was_put_off_is_not_put_off_for_longer_because_the_clock_was_set_back(ledger: Ledger) -> None:
    event_id = ledger.record_event(EventKind.STABLE, STUDY)
    hour = 3600
    with ledger.write() as db:
        events.put_off(db, [event_id], "later", due_at=time.time() + hour, counts=False)
        assert [event["event_id"] for event in events.due(db, now=time.time(), longest=60)] == [event_id]
        assert events.due(db, now=time.time(), longest=2 * hour) == []
        studies.expect_stable(db, STUDY, 1000.0 + hour)
        assert studies.expected_after(db, 1070.0)
        studies.expect_stable_before(db, 1070.0)
        assert not studies.expected_after(db, 1070.0)
        assert studies.overdue(db, now=1069.0) == []
        assert studies.overdue(db, now=1070.0) == [STUDY]


def test_a_new_plan_supersedes_what_has_not_started_and_waits_for_what_runs(ledger: Ledger) -> None:
    ledger.record_event(EventKind.STABLE, STUDY)
    old, _ = add_plan(ledger, 1, ["a", "b", "c"])
    with ledger.write() as db:
        rows = plans.jobs_of(db, old)
        queued = attempts.queue(db, rows[:2], now=101.0)
        found = attempts.get(db, queued[0])
        assert found is not None
        attempts.start(db, found[0], worker="w", host="h", now=102.0)
    new, unwanted = add_plan(ledger, 2, ["a"], now=103.0)
    assert unwanted == [queued[1]]
    with ledger.read() as db:
        assert [job["state"] for job in plans.jobs_of(db, old)] == ["started", "superseded", "superseded"]
        assert plans.predecessor_runs(db, STUDY, new)
        assert plans.idle(db) == [STUDY]
        assert plans.unended(db, "", 5) == [STUDY]
        assert plans.unended(db, STUDY, 5) == []
    study = ledger.study(STUDY)
    assert study is not None
    assert [plan["planId"] for plan in study["plans"]] == [new, old]
    assert study["activePlanId"] == new


def test_attempts_count_up_and_keep_what_happened(ledger: Ledger) -> None:
    ledger.record_event(EventKind.STABLE, STUDY)
    plan_id, _ = add_plan(ledger, 1, ["a"])
    for number in (1, 2):
        with ledger.write() as db:
            made = attempts.queue(db, plans.jobs_of(db, plan_id), now=101.0)
            assert made == [f"{plan_id}-a-{number}"]
            values = {"exit_reason": "exception", "error": "ValueError", "phases": {"run": [1.0, 2.0]}}
            attempts.end(db, made[0], AttemptState.FAILED, values, now=103.0)
            attempts.set_job(db, f"{plan_id}-a", {"state": JobState.RETRYING, "due_at": 104.0})
            assert attempts.retries_due(db, now=103.0) == []
            assert [row["job_id"] for row in attempts.retries_due(db, now=104.0)] == [f"{plan_id}-a"]
    job = ledger.job(f"{plan_id}-a")
    assert job is not None
    assert [attempt["attempt"] for attempt in job["attempts"]] == [1, 2]
    assert job["attempts"][0]["phases"]["run"] == ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z"]


def test_what_is_committed_is_on_the_disk_itself(ledger: Ledger, database_url: str) -> None:
    """A hook's 202 rests on it: the machine may lose its power right after."""
    sqlite = database_url.startswith("sqlite")
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1} if sqlite else {"synchronous_commit": "on"}
    with ledger.write() as db:
        for name, value in wanted.items():
            found = db.exec_driver_sql(f"PRAGMA {name}" if sqlite else f"SHOW {name}").scalar_one()
            assert found == value, name  # sqlite.org/pragma.html: 2 is FULL


def test_removing_a_service_cancels_what_has_not_started_and_nothing_else(ledger: Ledger) -> None:
    ledger.record_event(EventKind.STABLE, STUDY)
    plan_id, _ = add_plan(ledger, 1, ["a", "b"])
    with ledger.write() as db:
        made = attempts.queue(db, plans.jobs_of(db, plan_id)[:1], now=101.0)
        found = attempts.get(db, made[0])
        assert found is not None
        attempts.start(db, found[0], worker="w", host="h", now=102.0)
    assert ledger.count_unended("svc") == {"started": 1, "waiting": 1}
    assert ledger.pinned() == {("svc", "d1")}
    ledger.cancel_service("svc")
    with ledger.read() as db:
        assert [job["state"] for job in plans.jobs_of(db, plan_id)] == ["started", "cancelled"]


def test_removing_a_service_comes_before_or_after_what_the_leader_does_never_beside_it(ledger: Ledger) -> None:
    """What the leader queues at that very moment is cancelled too, its attempt among those that Redis is to forget."""
    ledger.record_event(EventKind.STABLE, STUDY)
    plan_id, _ = add_plan(ledger, 1, ["a", "b"])
    with ledger.write() as db:
        lease = leases.acquire(db, leases.LEADER, "elsewhere:1:1", leases.Watch(), now=time.time(), seconds=15)
    cancelled: list[attempts.Cancelled] = []
    removal = threading.Thread(target=lambda: cancelled.append(ledger.cancel_service("svc")))
    with ledger.write(lease) as db:
        rows = plans.jobs_of(db, plan_id)
        removal.start()
        removal.join(0.5)
        assert cancelled == []
        made = attempts.queue(db, rows, now=101.0)
    removal.join(10)
    assert [(each.jobs, sorted(each.attempts)) for each in cancelled] == [(2, sorted(made))]
    with ledger.read() as db:
        assert {job["state"] for job in plans.jobs_of(db, plan_id)} == {"cancelled"}


def test_lists_are_paged_newest_first_and_searched(ledger: Ledger) -> None:
    for number in range(5):
        ledger.record_event(EventKind.STABLE, f"study-{number}")
    with ledger.write() as db:
        headers = {
            "StudyInstanceUID": "1.2.3",
            "StudyDate": "20260102",
            "series": [{"Modality": "MR"}, {"Modality": "CT"}],
        }
        studies.set_plan(db, "study-3", "plan", headers=headers, state=StudyState.FINISHED, reason=None, now=1.0)
    first = ledger.studies(limit=2)
    assert [item["studyId"] for item in first.items] == ["study-4", "study-3"]
    second = ledger.studies(limit=2, cursor=first.next_cursor)
    assert [item["studyId"] for item in second.items] == ["study-2", "study-1"]
    assert ledger.studies(limit=2, cursor=second.next_cursor).next_cursor is None
    for search in ({"studyInstanceUID": "1.2.3"}, {"from": "20260101", "to": "20260131"}, {"modality": "MR"}):
        found = ledger.studies(search=search).items
        assert [item["studyId"] for item in found] == ["study-3"]
        assert found[0]["modalities"] == ["CT", "MR"]
    with pytest.raises(ValueError, match="none of a list of studies"):
        ledger.studies(cursor="no cursor")


def test_jobs_are_paged_newest_first(ledger: Ledger) -> None:
    ledger.record_event(EventKind.STABLE, STUDY)
    add_plan(ledger, 1, ["a", "b", "c"])
    names, cursor = [], None
    for _ in range(3):
        page = ledger.jobs(limit=1, cursor=cursor)
        names += [job["jobName"] for job in page.items]
        cursor = page.next_cursor
    assert names == ["c", "b", "a"]
    assert cursor is None
    assert ledger.jobs(state="finished").items == []


def test_facts_and_owners_are_kept(ledger: Ledger) -> None:
    with ledger.write() as db:
        studies.set_fact(db, "orthanc", {"cursor": 1})
        studies.set_fact(db, "orthanc", {"cursor": 2})
        studies.remember_owners(db, STUDY, {"s1": True, "s2": False})
        assert studies.fact(db, "orthanc") == {"cursor": 2}
        assert studies.owners(db, STUDY) == {"s1": True, "s2": False}


def test_repairs_are_counted_by_kind_with_what_they_repair_or_not_at_all(ledger: Ledger) -> None:
    with ledger.write() as db:
        repairs.count(db, RepairKind.ATTEMPT_LOST, now=1.0)
        repairs.count(db, RepairKind.ATTEMPT_LOST, 2, now=2.0)

    def count_and_fail() -> None:
        with ledger.write() as db:
            repairs.count(db, RepairKind.STUDY_QUIET, now=3.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        count_and_fail()
    with ledger.read() as db:
        counted = repairs.counted(db)
    assert {kind: number for kind, number in counted.items() if number} == {RepairKind.ATTEMPT_LOST: 3}
    assert set(counted) == set(RepairKind)


def test_a_locked_ledger_is_said_to_be_unavailable(sqlite_url: str) -> None:
    patient, hasty = Ledger(sqlite_url), Ledger(sqlite_url, busy_timeout=0.1)
    patient.migrate()
    with patient.write(), pytest.raises(LedgerUnavailableError):
        hasty.record_event(EventKind.STABLE, STUDY)
    assert hasty.record_event(EventKind.STABLE, STUDY)


def test_commits_do_not_make_the_log_grow_once_it_has_room(sqlite_url: str) -> None:
    """SQLite's write-ahead log; nothing of what fills it stays in the ledger."""
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.migrate()
        with ledger.write() as before:
            tables = before.execute(text("SELECT name FROM sqlite_master")).all()
        for _ in range(2):
            ledger.make_room()
        log = Path(f"{sqlite_url.removeprefix('sqlite:///')}-wal")
        size = log.stat().st_size
        assert 1000 * 4096 <= size < 5_000_000
        for number in range(20):
            ledger.record_event(EventKind.STABLE, f"study-{number}")
        assert log.stat().st_size == size
        with closing(Ledger(sqlite_url)) as another, another.read() as db:
            assert db.execute(text("SELECT name FROM sqlite_master")).all() == tables
            assert db.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
            assert len(another.studies().items) == 20
        with ledger.read() as db:
            assert db.execute(text("PRAGMA cache_size")).scalar_one() == -2000  # its default


def test_room_is_not_made_while_others_write(sqlite_url: str) -> None:
    with closing(Ledger(sqlite_url)) as patient, closing(Ledger(sqlite_url, busy_timeout=0.1)) as hasty:
        patient.migrate()
        with patient.write(), pytest.raises(LedgerUnavailableError):
            hasty.make_room()
        hasty.make_room()
        assert hasty.record_event(EventKind.STABLE, STUDY)


def test_who_dies_while_it_makes_room_leaves_nothing(sqlite_url: str) -> None:
    """Killed when all is written and nothing rolled back."""
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.migrate()
        ledger.record_event(EventKind.STABLE, STUDY)
        code = (
            "import os, sys; from sqlalchemy import Connection; from dcm_processor.ledger import Ledger; "
            "Connection.rollback = lambda self: os.kill(os.getpid(), 9); Ledger(sys.argv[1]).make_room()"
        )
        dead = subprocess.run([sys.executable, "-c", code, sqlite_url], cwd=CHECKOUT, timeout=60, check=False)
        assert dead.returncode == -9
        ledger.record_event(EventKind.STABLE, "another")
        with ledger.read() as db:
            assert db.execute(text("SELECT name FROM sqlite_master WHERE name = 'room'")).all() == []
            assert db.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert len(ledger.studies().items) == 2


def test_a_full_disk_has_no_room_and_the_ledger_goes_on(sqlite_url: str) -> None:
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.migrate()
        with ledger.write() as db:
            db.execute(text("PRAGMA max_page_count = 100"))  # of a connection: as if the disk were full
        with pytest.raises(LedgerUnavailableError, match="full"):
            ledger.make_room()
        assert ledger.record_event(EventKind.STABLE, STUDY)


def test_a_ledger_on_postgres_needs_no_room(postgres_url: str) -> None:
    with closing(Ledger(postgres_url)) as ledger:
        ledger.migrate()
        ledger.make_room()
        assert ledger.record_event(EventKind.STABLE, STUDY)


def test_counting_needs_no_ledger_yet(sqlite_url: str) -> None:
    ledger = Ledger(sqlite_url)
    assert ledger.count_unended("svc") == {}
    assert ledger.pinned() == set()


@pytest.mark.parametrize("url", ["sqlite://", "mysql://host/name", "no url"])
def test_a_database_that_cannot_be_a_ledger_is_refused(url: str) -> None:
    with pytest.raises(LedgerError, match="DATABASE_URL"):
        Ledger(url)


@pytest.mark.parametrize(
    "rest",
    ["u:p@ss:w0rd/x@h/db", "u:p@w0rd/x@h/db", "u:p@w0rd@h/db", "u:p@ss:w0rd@h:5432/db", "u:p@[w0rd@h/db"],
)
def test_a_password_that_breaks_the_databases_address_is_not_told(rest: str) -> None:
    """Nor does a server get to see the part of it that would be taken for a host."""
    with pytest.raises(LedgerError, match="%40") as caught:
        Ledger(f"postgresql+psycopg://{rest}")
    assert "w0rd" not in "".join(traceback.format_exception(caught.value))


def test_a_database_without_an_encoding_keeps_every_text(postgres_server: PostgresServer) -> None:
    """What initdb makes where no locale is set: psycopg handed out bytes, and the scheduler did not start."""
    with closing(Ledger(postgres_server.database("SQL_ASCII"))) as ledger:
        ledger.migrate()
        with ledger.write() as connection:
            assert connection.execute(text("SELECT '山田'")).scalar_one() == "山田"


def test_a_database_that_cannot_hold_every_text_is_refused(postgres_server: PostgresServer) -> None:
    with closing(Ledger(postgres_server.database("LATIN1"))) as ledger, pytest.raises(LedgerError, match="LATIN1"):
        ledger.migrate()


def test_sqlite_on_a_network_file_system_is_refused_naming_database_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/export rw\n")
    assert file_system(tmp_path / "db" / "ledger.sqlite", mounts) == "nfs4"
    monkeypatch.setattr("dcm_processor.ledger.engine.file_system", lambda _path: "nfs4")
    with pytest.raises(LedgerError, match="DATABASE_URL"):
        Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_who_stored_thousands_of_series_is_put_down_at_once_and_again(ledger: Ledger) -> None:
    """In one statement: the whole ledger waits for it."""
    many = {f"series-{number}": number % 2 == 0 for number in range(5_000)}
    statements: list[str] = []
    event.listen(ledger._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    with ledger.write() as db:
        studies.remember_owners(db, STUDY, dict.fromkeys(many, False))
        studies.remember_owners(db, STUDY, many)
        studies.remember_owners(db, STUDY, {})
        assert studies.owners(db, STUDY) == many
    assert len([statement for statement in statements if statement.startswith("INSERT")]) == 2

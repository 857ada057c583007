"""What was kept long enough goes, on either database, and nothing that anybody may still need."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from dcm_processor import identity
from dcm_processor.ledger import Lease, leases, retention, schema
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import AttemptState, EventKind, JobState, StudyState, Verdict
from scheduler import retention as step
from scheduler.retention import Retention
from tests.ledgers import new_ledger

DAY = 86_400.0
NOW = time.time()
SETTINGS = {"stage": "main", "level": "study", "onDependencyFailure": "skip"}


def study(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


class Stand:
    """A ledger with studies that ended, their files, and the leader's lease."""

    def __init__(self, base: Path, url: str) -> None:
        self.base, self.data, self.jobs = base, base / "data", base / "logs" / "jobs"
        self.ledger = new_ledger(url)
        self.lease = self.lead()

    def lead(self) -> Lease:
        with self.ledger.write() as db:
            db.execute(update(schema.leases).values(expires_at=0))
            lease = leases.acquire(db, leases.LEADER, f"h:{time.time()}:1", leases.Watch(), now=NOW, seconds=60)
        assert lease is not None
        return lease

    def retention(self, **days: float | str) -> Retention:
        kept = {"KEEP_ATTEMPTS": "forever", "KEEP_LOGS": "forever", **days}
        return Retention(Settings(BASEDIR=self.base, **kept), self.ledger)  # type: ignore[arg-type]

    def round(self, **days: float | str) -> None:
        self.retention(**days).run(self.lease)

    def add(self, number: int, days: float, *, jobs: int = 1, **of_study: Any) -> str:
        """A study whose plan ended so many days ago; returns the id of its first attempt."""
        return self.add_all([number], days, jobs=jobs, **of_study)[0]

    def add_all(self, numbers: "list[int] | range", days: float, *, jobs: int = 1, **of_study: Any) -> list[str]:
        ended = NOW - days * DAY
        rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("studies", "events", "plans", "jobs", "attempts")
        }
        for study_id in map(study, numbers):
            plan_id = identity.plan_id(study_id, "abc", 1)
            rows["studies"].append(
                {"study_id": study_id, "state": StudyState.FINISHED, "first_seen_at": ended, "changed_at": ended}
                | {"active_plan_id": plan_id, **of_study}
            )
            rows["events"].append(
                {"kind": EventKind.STABLE, "study_id": study_id, "received_at": ended, "due_at": ended, "failures": 0}
                | {"handled_at": ended, "result": "planned"}
            )
            rows["plans"].append(
                {"plan_id": plan_id, "study_id": study_id, "revision": "abc", "run": 1, "created_at": ended}
                | {"ended_at": ended, "active": True, "headers": {}, "selected": [], "instances": {}}
            )
            for place in range(jobs):
                job_id = identity.job_id(plan_id, f"job{place}", None)
                rows["jobs"].append(
                    {"job_id": job_id, "plan_id": plan_id, "study_id": study_id, "job_name": f"job{place}"}
                    | {"service": "svc", "digest": "d", "position": place, "settings": SETTINGS, "attempt": 1}
                    | {"verdict": Verdict.SCHEDULED, "dependencies": [], "state": JobState.FAILED, "queue": "default"}
                    | {"created_at": ended, "ended_at": ended}
                )
                rows["attempts"].append(
                    {"attempt_id": identity.attempt_id(job_id, 1), "job_id": job_id, "attempt": 1}
                    | {"state": AttemptState.FAILED, "queued_at": ended, "ended_at": ended}
                )
        with self.ledger.write() as db:
            for name, found in rows.items():
                db.execute(insert(schema.metadata.tables[name]), found)
        return [row["attempt_id"] for row in rows["attempts"]]

    def change(self, table: Any, number: int, **values: Any) -> None:
        with self.ledger.write() as db:
            db.execute(update(table).where(table.c.study_id == study(number)).values(**values))

    def file(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        return path

    def known(self) -> set[int]:
        with self.ledger.read() as db:
            return {int(each[:8], 16) for each in db.execute(select(schema.studies.c.study_id)).scalars()}

    def count(self, table: Any) -> int:
        with self.ledger.read() as db:
            return int(db.execute(select(func.count()).select_from(table)).scalar_one())

    def names(self, folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir()}


@pytest.fixture
def stand(tmp_path: Path, database_url: str) -> Iterator[Stand]:
    stand = Stand(tmp_path, database_url)
    yield stand
    stand.ledger.close()


def test_a_study_that_ended_long_ago_leaves_a_tombstone(stand: Stand) -> None:
    """All its rows go, and its logs, which a later run of the same name would go on with; its results stay."""
    stand.add(1, days=31, jobs=3)
    stand.add(2, days=29)
    log = stand.file(stand.jobs / study(1) / "job" / "1.log")
    result = stand.file(stand.data / "results" / study(1) / "job0" / "x")
    stand.round(KEEP_LEDGER=30)
    assert stand.known() == {2}
    assert [stand.count(table) for table in (schema.plans, schema.jobs, schema.attempts, schema.events)] == [1] * 4
    with stand.ledger.read() as db:
        stones = db.execute(select(schema.tombstones)).all()
        assert retention.revisions(db, study(1)) == {"abc"}
        assert retention.ended_at(db, [study(1), study(2)])[study(1)] == pytest.approx(NOW - 31 * DAY)
    assert [(stone.study_id, stone.revision) for stone in stones] == [(study(1), "abc")]
    assert not log.parent.parent.exists()
    assert result.exists()
    stand.add(1, days=40)  # run again meanwhile, and ended
    stand.round(KEEP_LEDGER=30)
    assert stand.known() == {2}


def test_nothing_goes_of_a_study_of_which_something_is_still_to_come(stand: Stand) -> None:
    """Whatever it is, and of none that could not be planned: somebody has to look at it."""
    numbers = range(1, 10)
    attempts = stand.add_all(numbers, days=365)
    stand.change(schema.plans, 1, ended_at=None)
    stand.change(schema.events, 2, handled_at=None)
    stand.change(schema.jobs, 3, state=JobState.STARTED)
    stand.change(schema.studies, 4, stable_due_at=NOW)
    stand.change(schema.studies, 5, hold_until=NOW)
    stand.change(schema.studies, 6, state=StudyState.PLANNING)
    stand.change(schema.studies, 7, unplanned="planning failed")
    stand.change(schema.studies, 8, state=StudyState.UNPLANNED)
    for number, attempt_id in zip(numbers, attempts, strict=True):
        stand.file(stand.data / "results" / study(number) / "job0" / "x")
        stand.file(stand.data / "attempts" / attempt_id / "x")
        stand.file(stand.jobs / study(number) / "job" / "1.log")
    stand.round(KEEP_LEDGER=1, KEEP_RESULTS=1, KEEP_ATTEMPTS=1e-9, KEEP_LOGS=1e-9)
    assert stand.known() == {1, 2, 3, 4, 5, 6, 7, 8}
    still = {1, 2, 3, 4, 5, 6}
    assert stand.names(stand.data / "results") == {study(number) for number in still}
    assert stand.names(stand.data / "attempts") == {attempts[number - 1] for number in still}
    assert stand.names(stand.jobs) == {study(number) for number in still}


def test_results_go_by_the_end_of_the_studys_last_plan_also_after_its_rows(stand: Stand) -> None:
    """What the ledger does not know anything of stays: it may be an older one, from a backup."""
    for number, days in ((1, 11), (2, 9), (3, 50)):
        stand.add(number, days=days)
    for number in (1, 2, 3, 4):
        stand.file(stand.data / "results" / study(number) / "job" / "x").parent.chmod(0o500)
    stand.file(stand.data / "results" / "of somebody else" / "x")
    stand.round(KEEP_LEDGER=30)
    assert stand.known() == {1, 2}
    stand.round(KEEP_RESULTS=10)
    assert stand.names(stand.data / "results") == {study(2), study(4), "of somebody else"}


def test_what_attempts_left_goes_unless_it_is_yet_to_become_results(stand: Stand) -> None:
    failed, finished, new = (stand.add(number, days=20) for number in (1, 2, 3))
    with stand.ledger.write() as db:
        accepted = schema.attempts.c.attempt_id == finished
        db.execute(update(schema.attempts).where(accepted).values(state=AttemptState.FINISHED))
    folder = stand.data / "attempts"
    for name in (failed, f"{failed}.misplaced", finished, f"{finished}.replaced", "unknown-1"):
        stand.file(folder / name / "x")
    stand.file(folder / f"{new}.replaced")  # no folder: what stood in the way of results
    stand.round(KEEP_ATTEMPTS=1)
    assert len(stand.names(folder)) == 6  # put there just now, however old the files are
    stand.round(KEEP_ATTEMPTS=1e-9)
    assert stand.names(folder) == {finished}


def test_a_log_goes_by_its_last_line(stand: Stand) -> None:
    stand.add(1, days=200)
    old, new = (stand.file(stand.jobs / study(1) / name / "1.log") for name in ("old", "new"))
    alone = stand.file(stand.jobs / study(2) / "old" / "1.log")
    for path in (old, alone):
        for each in (path, path.parent):
            os.utime(each, (0, NOW - 91 * DAY))
    stand.round(KEEP_LOGS=90)
    assert (old.parent.exists(), new.exists(), alone.parent.parent.exists()) == (False, True, False)


def test_for_ever_is_what_nothing_else_was_said_of(stand: Stand) -> None:
    attempt_id = stand.add(1, days=5000)
    stand.file(stand.data / "results" / study(1) / "job0" / "x")
    stand.file(stand.data / "attempts" / attempt_id / "x")
    stand.round()
    assert stand.known() == {1}
    assert len(list(stand.data.rglob("x"))) == 2
    default = Settings()
    assert (default.KEEP_RESULTS, default.KEEP_ATTEMPTS, default.KEEP_LOGS, default.KEEP_LEDGER) == (None, 7, 90, None)


def test_who_does_not_lead_any_more_deletes_nothing(stand: Stand) -> None:
    """Stopped for a while, and woken: the study may have been planned anew."""
    attempt_id = stand.add(1, days=100)
    result = stand.file(stand.data / "results" / study(1) / "job0" / "x")
    left = stand.file(stand.data / "attempts" / attempt_id / "x")
    stand.lead()
    stand.round(KEEP_LEDGER=1, KEEP_RESULTS=1, KEEP_ATTEMPTS=1e-9)
    assert (stand.known(), result.exists(), left.exists()) == ({1}, True, True)


def test_a_round_that_was_interrupted_is_ended_by_the_next(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the rename and the commit, and between the commit and the deletion."""
    stand.add(1, days=100)
    stand.file(stand.jobs / study(1) / "job" / "1.log")
    stand.file(stand.data / "results" / study(1) / "job0" / "x")

    def crash(*_: object) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(step.retention, "bury", crash)
        patch.setattr(step.service_tree, "remove", crash)
        stand.round(KEEP_LEDGER=1, KEEP_RESULTS=1)
    assert stand.known() == {1}
    for folder in (stand.jobs, stand.data / "results"):
        assert [name.startswith(".") for name in stand.names(folder)] == [True]
    stand.round(KEEP_LEDGER=1, KEEP_RESULTS=1)
    assert stand.known() == set()
    assert stand.names(stand.jobs) | stand.names(stand.data / "results") == set()


def test_a_large_study_goes_bit_by_bit(stand: Stand) -> None:
    """Nobody waits for all of its rows at once."""
    stand.add(1, days=100, jobs=2500)
    with stand.ledger.write() as db:
        assert [retention.bury(db, [study(1)]) for _ in range(3)] == [False, False, True]
    assert stand.known() == set()
    stand.add(2, days=100, jobs=2500)
    stand.round(KEEP_LEDGER=1)
    assert [stand.count(table) for table in (schema.studies, schema.plans, schema.jobs, schema.attempts)] == [0] * 4


def test_events_that_were_dealt_with_go_of_studies_that_stay_too(stand: Stand) -> None:
    stand.add(1, days=1)
    stand.change(schema.events, 1, handled_at=NOW - 40 * DAY)
    with stand.ledger.write() as db:
        db.execute(insert(schema.events).values(kind="stable", study_id=study(1), received_at=1, due_at=1, failures=0))
    stand.round(KEEP_LEDGER=30)
    assert stand.known() == {1}
    with stand.ledger.read() as db:
        assert db.execute(select(schema.events.c.handled_at)).scalars().all() == [None]

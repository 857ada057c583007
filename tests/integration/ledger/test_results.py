"""Named results in the ledger, on SQLite and PostgreSQL: migrated to, kept once, and gone with their attempts."""

from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from dcm_processor.identity import attempt_id
from dcm_processor.ledger import Ledger, attempts, plans, results, retention, studies
from dcm_processor.ledger.results import Terms
from dcm_processor.matching import Query
from dcm_processor.notes import SHOWN, NamedResult
from dcm_processor.vocabulary import AttemptState, EventKind, JobState, StudyState
from tests.integration.ledger.test_ledger import STUDY, add_plan, job_row

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
        found = results.of_jobs(db, [attempt.rpartition("-")[0]], 100)[attempt]
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


HEADERS = {
    "PatientID": "ABC-1", "StudyDate": "20240131", "StudyInstanceUID": "1.2", "StudyDescription": "x" * 2_000,
    "series": [
        {"seriesId": "s1", "Modality": "CT", "SeriesNumber": 1, "SeriesDescription": "native"},
        {"seriesId": "s2", "Modality": "PT", "SeriesNumber": 2, "SeriesDescription": "PET"},
    ],
}  # fmt: skip


def ran(ledger: Ledger, study: str, run: int, *jobs: dict[str, Any]) -> None:
    """A plan whose jobs ran; of each job its attempts as (state, value of the result `volume`, or None for none)."""
    plan_id, now = f"{study}-abc-{run}", 100.0 * run
    rows = []
    for position, job in enumerate(jobs):
        row = job_row(plan_id, job["name"], position, study_id=study, created_at=now, series_id=job.get("series"))
        row |= {"job_id": f"{row['job_id']}-{job.get('series')}", "attempt": len(job["tries"]), "ended_at": now + 9}
        row |= {"state": job.get("state", JobState.FINISHED), "service": job.get("service", "svc")}
        rows.append(row | {"reused_from": job.get("reused_from")})
    plan = {"plan_id": plan_id, "study_id": study, "revision": "abc", "run": run, "reason": "", "faults": None}
    plan |= {"headers": {**HEADERS, "PatientID": job_of(study)}, "selected": ["*"], "instances": {}}
    ledger.record_event(EventKind.STABLE, study)
    with ledger.write() as db:
        plans.supersede(db, study, plan_id, now=now)
        plans.add(db, plan, rows, now=now)
        studies.set_plan(db, study, plan_id, headers={}, state=StudyState.FINISHED, reason=None, now=now)
        for row, job in zip(rows, jobs, strict=True):
            for number, (state, value) in enumerate(job["tries"]):
                (made,) = attempts.queue(db, [{**row, "attempt": number}], now=now)
                attempts.end(db, made, state, {}, now=now + number)
                if value is not None:
                    results.add(db, made, [NamedResult("volume", value, "ml")])
            attempts.set_job(db, row["job_id"], {"state": row["state"]})


def job_of(study: str) -> str:
    return f"ABC-{int(study[:8], 16)}"


def study_of(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


def volumes(ledger: Ledger, **terms: Any) -> list[Any]:
    found = ledger.results(terms=Terms(named=True, **terms)).items
    return [(item["PatientID"], item["jobName"], item["seriesId"], item["results"][0]["value"]) for item in found]


def test_the_newest_finished_run_of_each_job_counts(ledger: Ledger) -> None:
    good, bad, lost = AttemptState.FINISHED, AttemptState.FAILED, AttemptState.LOST
    each = [{"name": "each", "series": name, "tries": [(good, number)]} for number, name in enumerate(("s1", "s2"))]
    ran(ledger, study_of(1), 1, {"name": "job", "tries": [(bad, 1), (lost, 2), (good, 3)]}, *each)
    ran(ledger, study_of(1), 2, {"name": "job", "tries": [(good, 4)]}, {**each[1], "tries": [(good, 9)]})
    ran(ledger, study_of(1), 3, {"name": "job", "tries": [(bad, 5)], "state": JobState.FAILED})
    ran(ledger, study_of(2), 1, {"name": "job", "tries": [(good, 6)]}, {"name": "quiet", "tries": [(good, None)]})
    assert sorted(volumes(ledger)) == [
        ("ABC-1", "each", "s1", 0), ("ABC-1", "each", "s2", 9), ("ABC-1", "job", None, 4), ("ABC-2", "job", None, 6),
    ]  # fmt: skip
    everything = sorted(value for *_, value in volumes(ledger, all_attempts=True))
    assert everything == [0, 1, 1, 2, 3, 4, 5, 6, 9]
    assert len(ledger.results(terms=Terms()).items) == 5  # with the quiet one


def test_a_run_that_stands_for_a_later_plans_job_is_told_once(ledger: Ledger) -> None:
    good = AttemptState.FINISHED
    ran(ledger, study_of(1), 1, {"name": "job", "tries": [(good, 3)]})
    ran(ledger, study_of(1), 2, {"name": "job", "tries": [], "reused_from": f"{study_of(1)}-abc-1-job-None"})
    assert volumes(ledger) == [("ABC-1", "job", None, 3)]


@pytest.mark.parametrize(
    ("terms", "count"),
    [
        ({}, 6), ({"service": "svc"}, 4), ({"service": "none"}, 0), ({"job_name": "each"}, 4), ({"since": 300.0}, 2),
        ({"query": Query.parse({"PatientID": "ABC-1*"})}, 3), ({"query": Query.parse({"Modality": "PT"})}, 4),
        ({"query": Query.parse({"PatientID": "ABC-1", "SeriesNumber": "1"}), "job_name": "each"}, 1),
    ],
)  # fmt: skip
def test_all_terms_must_hold(ledger: Ledger, terms: dict[str, Any], count: int) -> None:
    tries = [(AttemptState.FINISHED, 1)]
    for number in (1, 2):
        each = [{"name": "each", "series": name, "tries": tries, "service": "svc"} for name in ("s1", "s2")]
        ran(ledger, study_of(number), 2 * number - 1, *each, {"name": "job", "tries": tries, "service": "other"})
    assert len(volumes(ledger, **terms)) == (3 if "since" in terms else count)


def test_names_are_asked_for_and_pages_hold_every_attempt_once(ledger: Ledger) -> None:
    for number in range(1, 8):
        ran(ledger, study_of(number), 1, {"name": "job", "tries": [(AttemptState.FINISHED, number)]})
    assert ledger.results(terms=Terms(named="volume")).items
    assert ledger.results(terms=Terms(named="mass")).items == []
    seen, cursor = [], None
    while True:
        page = ledger.results(cursor, 2, Terms(Query.parse({"PatientID": "ABC-[0-9]\\ABC-7\\ABC-2"})))
        seen += [item["PatientID"] for item in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(seen) == ["ABC-2", "ABC-7"]
    (item,) = ledger.results(limit=1).items
    assert len(item["StudyDescription"]) == 1024
    assert item["SeriesDescription"] is None
    with pytest.raises(ValueError, match="none of a list of results"):
        ledger.results("x")


def test_thousands_of_results_are_told_in_portions(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a study each attempt's first; all of them with the job alone, and in a search page by page."""
    many = [NamedResult(f"n{number:04}", number) for number in range(2_000)]
    begun = begin(ledger, "one", "two", "three")
    with ledger.write() as db:
        for attempt in begun:
            results.add(db, attempt, many)
            attempts.end(db, attempt, AttemptState.FINISHED, {}, now=200.0)
            attempts.set_job(db, attempt.rpartition("-")[0], {"state": JobState.FINISHED, "ended_at": 200.0})
    study, job = ledger.study(STUDY), ledger.job(begun[0].rpartition("-")[0])
    assert study is not None
    assert job is not None
    told = [attempt["results"] for job in study["plans"][0]["jobs"] for attempt in job["attempts"]]
    assert [len(each) for each in told] == [SHOWN] * 3
    assert [each["name"] for each in told[0][:2]] == ["n0000", "n0001"]
    assert len(job["attempts"][0]["results"]) == 2_000
    monkeypatch.setattr(results, "MOST", 4_500)
    first = ledger.results(limit=10)
    second = ledger.results(first.next_cursor, limit=10)
    assert [len(page.items) for page in (first, second)] == [2, 1]
    assert {item["attemptId"] for item in first.items + second.items} == set(begun)
    assert second.next_cursor is None
    monkeypatch.setattr(results, "MOST", 10)
    assert len(ledger.results(limit=10).items) == 1

"""The pages of studies, from a real ledger."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask

from dashboard.app import create_app
from dashboard.presentation import NAMES_SHOWN
from dashboard.studies import PAGE_SIZE
from dcm_processor.ledger import events
from dcm_processor.ledger.studies import set_state
from dcm_processor.vocabulary import EventKind, JobState, StudyState, Verdict
from tests.integration.dashboard.conftest import Browser
from tests.integration.dashboard.stand import LedgerOfStudies, many_states, settings_in, study_id
from tests.servers import ValkeyServer


def test_a_newcomer_is_told_what_to_do(reader: Browser) -> None:
    text = reader.get("/").text
    assert "No study yet" in text
    assert "bash service.sh install temp -p services/temp" in text
    assert "DCMPROC" in text
    assert "4242" in text


def test_every_job_is_shown_with_its_state_and_its_reason(reader: Browser, studies: LedgerOfStudies) -> None:
    many_states(studies)
    text = reader.get("/").text
    for shown in ("finished", "dcm2nii \u00d72", "CT PT", "2024-01-31", "Head without contrast"):
        assert shown in text
    for reason in (
        "ValueError: no slice is axial", "segment failed", "KeyError: &#39;Modality&#39;", "the callback said no",
        "disabled in its settings.json", "exit status 75; again in 50 s", "waits for segment",
        "waits for a free worker", "Orthanc did not answer, five times",
    ):  # fmt: skip
        assert reason in text, reason


def test_words_that_stand_side_by_side_are_apart(reader: Browser, studies: LedgerOfStudies) -> None:
    study = studies.study(9, StudyState.FAILED)
    no = {"verdict": Verdict.DECLINED, "reason": "its callback said no"}
    ended = {"state": "failed", "exit_reason": "exception", "error": "ValueError: no slice"}
    many = [{"job_name": f"job-{number}", **no} for number in range(NAMES_SHOWN + 3)]
    studies.plan(study, *many, {"job_name": "segment", "state": JobState.FAILED, "tries": [ended]})
    for path, words in (
        ("/", "and 3 more its callback said no"),
        (f"/studies/{study}", "exception ValueError: no slice"),
    ):
        assert words in " ".join(re.sub(r"<[^>]*>", "", reader.get(path).text).split())


def test_studies_stand_newest_first_and_link_to_their_pages(reader: Browser, studies: LedgerOfStudies) -> None:
    made = many_states(studies)
    text = reader.get("/").text
    places = [text.index(f'href="/studies/{study}"') for study in made.values()]
    assert places == sorted(places, reverse=True)


def test_what_came_over_dicom_or_from_a_service_never_becomes_markup(reader: Browser, studies: LedgerOfStudies) -> None:
    hostile = many_states(studies)["hostile"]
    for path in ("/", f"/studies/{hostile}"):
        text = reader.get(path).text
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "<b>Dent" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_state_filters_the_list(reader: Browser, studies: LedgerOfStudies) -> None:
    made = many_states(studies)
    text = reader.get("/?state=running").text
    assert f"/studies/{made['running']}" in text
    assert f"/studies/{made['finished']}" not in text
    assert "No study is waiting" in reader.get("/?state=waiting").text


def test_older_studies_are_a_page_away_and_the_filter_stays(reader: Browser, studies: LedgerOfStudies) -> None:
    for number in range(1, PAGE_SIZE + 4):
        studies.study(number, StudyState.KNOWN)
    first = reader.get("/?state=known").text
    assert first.count('href="/studies/') == PAGE_SIZE
    older = first.split('class="older" href="')[1].split('"')[0].replace("&amp;", "&")
    assert "state=known" in older
    second = reader.get(older).text
    assert second.count('href="/studies/') == 3
    assert study_id(1) in second
    assert "Older" not in second
    assert 'href="/?state=known"' in second


@pytest.mark.parametrize(
    "query",
    [
        *("state=nonsense", "cursor=nonsense", "cursor=1;drop", "state=failed&cursor=~"),
        *(f"cursor={'9' * 25}", f"cursor={'9' * 5000}", "cursor=-1", "cursor=1_0", "cursor=1%00"),
    ],
)
def test_an_address_that_names_nothing_is_refused_with_a_word(reader: Browser, query: str) -> None:
    answer = reader.get(f"/?{query}")
    assert answer.status_code == 400
    assert "studies" in answer.text


def test_a_studys_page_tells_its_whole_story(reader: Browser, studies: LedgerOfStudies) -> None:
    made = many_states(studies)
    text = reader.get(f"/studies/{made['failed']}").text
    for shown in (
        "environment 1.2 s, fetch 0.3 s, run 3.8 s", "worker_00", "ValueError: no slice is axial", "Traceback",
        "What the callback printed", "asked about it", "verdict errored", "2 instances in 1 series",
        f"dcm-processor job log {made['failed']}-0123456789ab-1-segment",
    ):  # fmt: skip
        assert shown in text, shown
    assert "series aaaa" in reader.get(f"/studies/{made['finished']}").text


def test_a_plan_made_while_services_were_broken_says_so(reader: Browser, studies: LedgerOfStudies) -> None:
    study = studies.study(7, StudyState.FINISHED)
    studies.plan(study, faults=["seg: settings.json: jobName: missing"])
    text = reader.get(f"/studies/{study}").text
    assert "seg: settings.json: jobName: missing" in text
    assert "No service is installed that has a job" in text


def test_a_request_that_came_to_nothing_is_seen_on_the_studys_page(reader: Browser, studies: LedgerOfStudies) -> None:
    study = studies.study(10, StudyState.UNPLANNED, "planning failed (5 of 5)")
    with studies.ledger.write() as db:
        number = events.record(db, EventKind.RERUN, study, None, now=time.time())
        events.settle(db, [number], "Orthanc does not hold the study", now=time.time())
        set_state(db, study, StudyState.UNPLANNED, now=time.time())
    text = " ".join(re.sub(r"<[^>]*>", "", reader.get(f"/studies/{study}").text).split())
    assert "rerun Orthanc does not hold the study" in text
    assert "No plan." in text


def test_a_study_without_a_plan_says_how_to_get_one(reader: Browser, studies: LedgerOfStudies) -> None:
    study = studies.study(8, StudyState.KNOWN)
    assert f"dcm-processor study rerun {study}" in reader.get(f"/studies/{study}").text


@pytest.mark.parametrize("unknown", ["nope", study_id(99), "..", "%3Cscript%3E"])
def test_an_unknown_study_is_a_404(reader: Browser, unknown: str) -> None:
    answer = reader.get(f"/studies/{unknown}")
    assert answer.status_code == 404
    assert "<script>" not in answer.text


def test_a_ledger_not_made_yet_is_a_page_that_tries_again(tmp_path: Path, valkey: ValkeyServer) -> None:
    """The dashboard may be up before the scheduler has made the ledger."""
    reader = Browser(create_app(settings_in(tmp_path, valkey.url)))
    reader.log_in()
    answer = reader.get("/")
    assert answer.status_code == 503
    assert "The ledger does not answer" in answer.text
    assert 'http-equiv="refresh"' in answer.text
    LedgerOfStudies(settings_in(tmp_path, valkey.url).database_url)
    assert reader.get("/").status_code == 200


def test_studies_are_shown_while_redis_is_away(tmp_path: Path, studies: LedgerOfStudies) -> None:
    reader = Browser(create_app(settings_in(tmp_path, "redis://127.0.0.1:1/0")))
    reader.log_in()
    many_states(studies)
    assert "segment" in reader.get("/").text


def test_a_list_of_studies_costs_three_queries_however_long_it_is(app: Flask, studies: LedgerOfStudies) -> None:
    from sqlalchemy import Engine, event

    made = many_states(studies)
    reader = Browser(app)
    reader.log_in()
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert reader.get("/").status_code == 200
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(statements) == 3
    assert len(made) == 6


def test_job_summaries_count_what_is_alike_in_plan_order(database_url: str) -> None:
    """SQLite and PostgreSQL alike."""
    ledger = LedgerOfStudies(database_url)
    study, other = ledger.study(1, StudyState.RUNNING), ledger.study(2, StudyState.RUNNING)
    plan = ledger.plan(
        study,
        {"job_name": "z-first"},
        {"job_name": "series", "series_id": "a"},
        {"job_name": "series", "series_id": "b", "state": "failed", "reason": "why"},
        {"job_name": "series", "series_id": "c"},
        {"job_name": "no", "verdict": "declined", "reason": "said no"},
    )
    empty = ledger.plan(other)
    scheduled = {"verdict": "scheduled", "reason": None}
    assert ledger.ledger.job_summaries([plan, empty]) == {
        plan: [
            {"jobName": "z-first", **scheduled, "state": "finished", "count": 1},
            {"jobName": "series", **scheduled, "state": "finished", "count": 2},
            {"jobName": "series", **scheduled, "state": "failed", "reason": "why", "count": 1},
            {"jobName": "no", "verdict": "declined", "state": None, "reason": "said no", "count": 1},
        ],
        empty: [],
    }
    assert ledger.ledger.job_summaries([]) == {}
    ledger.ledger.close()


def test_times_are_told_with_the_exact_one_beside(reader: Browser, studies: LedgerOfStudies) -> None:
    studies.study(1, StudyState.RECEIVED)
    text = reader.get("/").text
    assert "min ago</time>" in text
    assert f'datetime="{datetime.now(UTC).year}-' in text

"""Every error is a problem document (RFC 9457) that says what, why and what to do, and gives nothing away."""

import json
import logging
import sqlite3
from typing import Any

import pytest
import structlog
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from dcm_processor.errors import (
    DcmProcessorError,
    LedgerError,
    LedgerUnavailableError,
    NotKnownError,
    OrthancUnavailableError,
    StudyGoneError,
    TransientError,
    TransportUnavailableError,
    UsageError,
)
from dcm_processor.ledger.schema import studies
from dcm_processor.vocabulary import StudyState
from scheduler.problems import PROBLEM_TYPES
from tests.integration.scheduler.api.stand import Api, Installation, study_id


def explain_raises(installation: Installation, error: Exception) -> Any:
    def explain(_: str, *, reads: bool) -> Any:
        raise error

    study = installation.study(1)
    return installation.api(explain).get(f"/api/v1/studies/{study}/explain")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotKnownError("x"), 404, "not-known"),
        (StudyGoneError("x"), 410, "study-gone"),
        (LedgerUnavailableError("x"), 503, "ledger-unavailable"),
        (LedgerError("x"), 503, "ledger-unusable"),
        (TransportUnavailableError("x"), 503, "redis-unavailable"),
        (OrthancUnavailableError("x"), 503, "orthanc-unavailable"),
        (TransientError("x"), 503, "try-again"),
        (DcmProcessorError("x"), 500, "failed"),
    ],
)
def test_each_of_our_errors_has_a_type_of_its_own(
    installation: Installation, error: Exception, status: int, kind: str
) -> None:
    response = explain_raises(installation, error)
    problem = response.get_json()
    assert (response.status_code, problem["type"]) == (status, f"urn:dcm-processor:problem:{kind}")
    assert problem["type"] in PROBLEM_TYPES
    assert problem["detail"] == "x"
    assert ("Retry-After" in response.headers) == (status == 503)


def test_wrong_use_found_late_is_the_callers_fault_too(installation: Installation) -> None:
    app = installation.app()

    @app.get("/late")
    def late() -> str:
        raise UsageError("not like that")

    views: Any = app.view_functions
    views["late"].operation = views["health.live"].operation
    assert app.test_client().get("/late").get_json() == {
        "type": "urn:dcm-processor:problem:invalid-request",
        "title": "The request is not valid",
        "status": 400,
        "detail": "not like that",
    }


def test_a_fault_of_ours_is_logged_under_the_name_the_caller_gets(installation: Installation) -> None:
    with structlog.testing.capture_logs() as logs:
        response = explain_raises(installation, ZeroDivisionError("secret of the inside"))
    problem = response.get_json()
    assert response.status_code == 500
    assert "secret" not in response.get_data(as_text=True)
    (entry,) = [entry for entry in logs if entry["event"] == "request failed"]
    assert entry["instance"] == problem["instance"]
    assert isinstance(entry["exc_info"], ZeroDivisionError)


def test_a_time_limit_that_passed_is_a_504(installation: Installation) -> None:
    response = explain_raises(installation, TimeoutError("explaining the study took longer than 60 s"))
    assert response.status_code == 504
    assert "60 s" in response.get_json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/not-there", 404),
        ("GET", "/static/x", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api/v1/studies/../../etc/passwd", 404),
        ("DELETE", "/api/v1/studies", 405),
        ("PUT", "/stable-study", 405),
        ("POST", "/health/live", 405),
        ("BREW", "/health/live", 405),
    ],
)
def test_what_flask_refuses_is_a_problem_document_too(api: Api, method: str, path: str, status: int) -> None:
    response = api.call(method, path)
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    assert "enter" not in response.get_json()["detail"]  # Flask's own words are for people at a browser
    if status == 405:
        assert response.headers["Allow"]


def test_every_fault_of_a_request_is_told_at_once(api: Api) -> None:
    response = api.get("/api/v1/studies?state=lost&limit=501&sort=asc")
    assert response.status_code == 400
    assert {fault["field"] for fault in response.get_json()["faults"]} == {"query.state", "query.limit", "query.sort"}


def test_a_search_term_is_in_no_answer(api: Api) -> None:
    """What somebody looked for may name a patient."""
    body = {"studyInstanceUID": "DOE^JOHN", "modality": "doe^john"}
    response = api.post("/api/v1/studies/search", json=body)
    assert response.status_code == 400
    assert "doe" not in response.get_data(as_text=True).lower()


def test_no_element_gets_into_the_log_with_an_answer_that_breaks_its_model(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installation.study(1, StudyState.FINISHED, StudyDescription="DOE^JOHN")
    api = installation.api()
    whole = installation.ledger.studies

    def broken(*args: Any) -> Any:
        page = whole(*args)
        page.items[0]["state"] = page.items[0]["description"]
        return page

    monkeypatch.setattr(installation.ledger, "studies", broken)
    with structlog.testing.capture_logs() as logs, caplog.at_level(logging.DEBUG):
        assert api.get("/api/v1/studies").status_code == 500
    assert "DOE" not in json.dumps([repr(entry.get("exc_info")) for entry in logs]) + caplog.text


def test_an_error_of_the_database_does_not_tell_what_was_to_be_written(installation: Installation) -> None:
    with pytest.raises(IntegrityError) as raised, installation.ledger.write() as db:
        db.execute(insert(studies), {"study_id": study_id(1), "description": "DOE^JOHN"})
    assert "DOE" not in str(raised.value)


def test_a_ledger_without_its_tables_is_a_503(installation: Installation, api: Api) -> None:
    with sqlite3.connect(installation.base / "db" / "ledger.sqlite") as other:
        other.execute("DROP TABLE events")
    assert api.post("/stable-study", json={"studyId": study_id(1)}).status_code == 503

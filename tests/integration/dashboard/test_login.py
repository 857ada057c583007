"""Logging in and out: nothing is shown without, sessions end, forms need their token."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask

from dashboard.access import SESSION_HOURS
from dashboard.app import create_app
from dcm_processor.errors import SettingsError
from tests.integration.dashboard.conftest import PAGE, Browser, token_of
from tests.integration.dashboard.stand import PASSWORD, settings_in, study_id

OPEN = {"/health", "/login", "/static/<path:filename>"}


def test_nothing_but_health_login_and_style_answers_without_a_login(app: Flask) -> None:
    client = app.test_client()
    for rule in app.url_map.iter_rules():
        if rule.rule in OPEN:
            continue
        path = re.sub(r"<int:[^>]+>", "0", re.sub(r"<(?:path:)?[a-z_]+>", "x", rule.rule))
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = client.open(path, method=method)
            assert answer.status_code in (401, 403), f"{method} {path}"
            assert client.open(path, method=method, headers=PAGE).status_code in (303, 401, 403), f"{method} {path}"
    assert client.get("/no/such/page").status_code == 401


def test_health_needs_no_login_and_touches_nothing(app: Flask, rotate: Callable[[str], None]) -> None:
    """It answers even where password, ledger and Redis are gone."""
    rotate("")
    client = app.test_client()
    client.set_cookie(str(app.config["SESSION_COOKIE_NAME"]), "forged")
    answer = client.get("/health")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    assert "Set-Cookie" not in answer.headers


def test_a_person_logs_in_and_arrives_where_they_wanted(browser: Browser) -> None:
    asked = browser.get("/?state=failed")
    assert asked.status_code == 303
    assert asked.location == "/login?next=/?state%3Dfailed"
    page = browser.get(asked.location)
    assert 'name="next" value="/?state=failed"' in page.text
    answer = browser.send("/login", page, user="admin", password=PASSWORD, next="/?state=failed")
    assert (answer.status_code, answer.location) == (303, "/?state=failed")
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/", "/\\evil.example", "/%0d%0aX: y"])
def test_a_login_leads_to_no_other_site(browser: Browser, wanted: str) -> None:
    answer = browser.log_in(path=f"/login?next={wanted}")
    assert answer.location in ("/", "/%0d%0aX:%20y", "/%250d%250aX:%20y")
    assert "X" not in answer.headers


def test_the_sessions_cookie_is_for_this_site_alone_and_not_for_scripts(browser: Browser) -> None:
    (cookie,) = browser.log_in().headers.getlist("Set-Cookie")
    assert cookie.startswith("dcmproc_session_8080=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie
    assert PASSWORD not in cookie


def test_behind_tls_the_cookie_never_travels_without_it(app: Flask) -> None:
    answer = app.test_client().get("/login", base_url="https://localhost")
    assert "Secure" in answer.headers["Set-Cookie"]


def test_a_session_ends_after_its_hours_however_busy_it_is(reader: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reloading does not prolong it: the page reloads itself, and would keep it alive for ever."""
    assert "Set-Cookie" not in reader.get("/").headers
    import itsdangerous.timed

    later = datetime.now(UTC) + timedelta(hours=SESSION_HOURS, minutes=1)
    monkeypatch.setattr(itsdangerous.timed.TimestampSigner, "get_timestamp", lambda _: int(later.timestamp()))
    assert reader.get("/").status_code == 303


def test_a_rotated_password_ends_every_session_and_is_the_one_to_log_in_with(
    reader: Browser, app: Flask, rotate: Callable[[str], None]
) -> None:
    rotate("another-password")
    assert reader.get("/").status_code == 303
    assert Browser(app).log_in().status_code == 401
    assert Browser(app).log_in("another-password").status_code == 303


def test_a_session_signed_with_another_key_is_none(app: Flask, browser: Browser) -> None:
    browser.client.set_cookie("dcmproc_session_8080", "eyJ1c2VyIjoiYWRtaW4ifQ.ZbpQAA.AAAAAAAAAAAAAAAAAAAAAAAAAAA")
    assert browser.get("/").status_code == 303


def test_logging_out_ends_the_session_of_the_browser(reader: Browser) -> None:
    answer = reader.send("/logout", reader.get("/"))
    assert (answer.status_code, answer.location) == (303, "/login")
    assert reader.get("/").status_code == 303


def test_logging_out_needs_the_token_and_a_post(reader: Browser) -> None:
    assert reader.client.post("/logout", headers=PAGE).status_code == 403
    assert reader.client.post("/logout", data={"csrf_token": "x" * 32}, headers=PAGE).status_code == 403
    assert reader.get("/logout").status_code == 405
    assert reader.get("/").status_code == 200


def test_a_login_form_without_its_token_is_refused_and_shown_again(browser: Browser) -> None:
    page = browser.get("/login")
    for token in ("", "guessed", token_of(page)[:-1]):
        fields = {"user": "admin", "password": PASSWORD, "csrf_token": token}
        answer = browser.client.post("/login", data=fields, headers=PAGE)
        assert answer.status_code == 400
        assert "too old" in answer.text
    assert browser.get("/").status_code == 303


def test_the_token_changes_at_login(browser: Browser) -> None:
    before = token_of(browser.get("/login"))
    browser.log_in()
    assert token_of(browser.get("/")) != before


@pytest.mark.parametrize(("user", "password"), [("admin", "wrong"), ("root", PASSWORD), ("", ""), ("admin", "\x00")])
def test_a_wrong_login_says_no_more_than_that(
    browser: Browser, user: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = browser.log_in(password, user)
    assert answer.status_code == 401
    assert "User or password is wrong." in answer.text
    assert PASSWORD not in answer.text + caplog.text


def test_scripts_log_in_by_http_basic_and_keep_no_session(app: Flask) -> None:
    client = app.test_client()
    answer = client.get("/", auth=("admin", PASSWORD))
    assert answer.status_code == 200
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!!", "Basic YWRtaW4=", "Basic YWRtaW46d3Jvbmc=", "Bearer x", "Digest a=b", "Basic 4pi6OuKYug=="],
)
def test_broken_or_wrong_credentials_are_a_401_with_a_challenge(app: Flask, header: str) -> None:
    answer = app.test_client().get("/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.content_type == "application/problem+json"


def test_a_page_whose_session_ended_gets_no_browser_dialog(app: Flask) -> None:
    answer = app.test_client().get("/rq/0/data/workers.json", headers={"X-Requested-With": "XMLHttpRequest"})
    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers


def test_somebody_logged_in_is_not_asked_again(reader: Browser) -> None:
    assert reader.get("/login?next=/rq/").location == "/rq/"


def test_a_huge_form_is_refused(browser: Browser) -> None:
    assert browser.client.post("/login", data={"password": "x" * 100_000}).status_code == 413


def test_an_empty_or_missing_password_is_a_fault_of_the_start_never_a_way_in(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "redis://127.0.0.1:1/0")
    secret = tmp_path / "secrets" / "dashboard_password"
    secret.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        create_app(settings)
    secret.unlink()
    with pytest.raises(SettingsError, match="does not exist"):
        create_app(settings)


def test_a_password_emptied_while_it_runs_lets_nobody_in(
    app: Flask, reader: Browser, rotate: Callable[[str], None]
) -> None:
    rotate("")
    assert app.test_client().get("/", auth=("admin", "")).status_code == 503
    for path in ("/", "/login"):
        answer = reader.get(path)
        assert answer.status_code == 503
        assert "secrets" not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/login", "/health", f"/studies/{study_id(1)}", "/static/style.css", "/rq/", "/x"]
)
def test_every_answer_is_protected_by_headers(reader: Browser, path: str) -> None:
    headers = reader.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    assert ("unsafe-eval" in policy) == (path == "/rq/")
    assert ("no-store" in headers["Cache-Control"]) == (path != "/static/style.css")

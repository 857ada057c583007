"""An application on a real ledger and a real Valkey, and clients as a person's browser and a script would be."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from dashboard.app import create_app
from tests.integration.dashboard.stand import PASSWORD, LedgerOfStudies, settings_in
from tests.servers import ValkeyServer

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Browser:
    """A test client that asks for pages, keeps cookies and sends forms with their token."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, headers=PAGE)

    def log_in(self, password: str = PASSWORD, user: str = "admin", path: str = "/login") -> TestResponse:
        return self.send(path, self.get(path), user=user, password=password)

    def send(self, path: str, page: TestResponse, **fields: str) -> TestResponse:
        return self.client.post(path, data={"csrf_token": token_of(page), **fields}, headers=PAGE)


def token_of(page: TestResponse) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found, "the page has a form with a token"
    return found[1]


@pytest.fixture
def studies(tmp_path: Path) -> LedgerOfStudies:
    """The application's ledger, to be filled."""
    return LedgerOfStudies(settings_in(tmp_path, "").database_url)


@pytest.fixture
def app(tmp_path: Path, valkey: ValkeyServer, studies: LedgerOfStudies) -> Flask:
    return create_app(settings_in(tmp_path, valkey.url))


@pytest.fixture
def browser(app: Flask) -> Browser:
    """Somebody's browser, not logged in."""
    return Browser(app)


@pytest.fixture
def reader(browser: Browser) -> Browser:
    """Somebody's browser, logged in."""
    assert browser.log_in().status_code == 303
    return browser


@pytest.fixture
def rotate(tmp_path: Path) -> Callable[[str], None]:
    """Put another password into place."""

    def put(password: str) -> None:
        (tmp_path / "secrets" / "dashboard_password").write_text(password)

    return put

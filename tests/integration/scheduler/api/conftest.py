"""An installation whose scheduler is asked over HTTP: in this process, or under gunicorn."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scheduler.api.stand import Api, GunicornServer, Installation
from tests.servers import ValkeyServer


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """Secrets, an empty ledger (SQLite), no services; Redis and Orthanc are named and do not answer."""
    with Installation(tmp_path) as made:
        yield made


@pytest.fixture
def api(installation: Installation) -> Api:
    """The app as a client of the scheduler token sees it; every answer is checked against the OpenAPI document."""
    return installation.api()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, valkey_server: ValkeyServer) -> Iterator[GunicornServer]:
    """The scheduler's HTTP side as an installation runs it: gunicorn with our configuration, and a real Valkey.

    One for all tests of a module, which therefore each have studies of their own.
    """
    folder = tmp_path_factory.mktemp("scheduler")
    with (
        Installation(folder, REDIS_URL=valkey_server.url) as made,
        GunicornServer(folder / "server", made) as running,
    ):
        yield running

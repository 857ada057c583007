"""A platform whose controller runs and has met Orthanc; or a Redis of one's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.ledger import studies
from dcm_processor.transport import Transport
from tests.integration.scheduler.platform import Platform, hasten
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until


@pytest.fixture
def platform(tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer) -> Iterator[Platform]:
    with Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1) as running:
        wait_until(lambda: _met(running), 20, "the controller met Orthanc")
        yield running


@pytest.fixture
def alone(
    tmp_path: Path, orthanc: OrthancServer, shared_envs: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    """The same with a Redis of its own, which may be full; it looks after what is lost without long waits."""
    hasten(monkeypatch, lost_after=30)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "envs").symlink_to(shared_envs)
    with (
        ValkeyServer(tmp_path / "own-valkey") as valkey,
        Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=1) as running,
    ):
        wait_until(lambda: _met(running), 20, "the controller met Orthanc")
        yield running


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    with ValkeyServer(tmp_path / "valkey") as valkey:
        transport = Transport(valkey.url)
        yield transport
        transport.close()


def _met(platform: Platform) -> bool:
    with platform.ledger.read() as db:
        return studies.fact(db, "orthanc") is not None

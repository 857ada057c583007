"""Health is open to anybody, quick, and tells what is wrong without giving anything away."""

import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.integration.scheduler.api.stand import TOKENS, Api, Installation
from tests.servers import ValkeyServer


def test_a_scheduler_that_answers_is_alive(installation: Installation, api: Api) -> None:
    """Whatever else is broken: a restart would not mend it."""
    (installation.base / "db" / "ledger.sqlite").unlink()
    assert api.get("/health/live", token=None).get_json() == {"status": "live"}


def test_a_scheduler_is_ready_when_ledger_and_redis_are(tmp_path: Path, valkey: ValkeyServer) -> None:
    with Installation(tmp_path, REDIS_URL=valkey.url) as installation:
        response = installation.api().get("/health/ready", token=None)
    assert response.status_code == 200
    assert response.get_json() == {"status": "ready", "checks": {"ledger": "ok", "redis": "ok"}, "warnings": {}}


def test_low_room_under_data_is_a_warning_and_no_reason_to_stop(tmp_path: Path, valkey: ValkeyServer) -> None:
    """Whatever is fetched is refused by the workers; events, plans and outcomes go on."""
    with Installation(tmp_path, REDIS_URL=valkey.url, MIN_FREE=2**50) as installation:
        (installation.base / "data").mkdir(exist_ok=True)
        response = installation.api().get("/health/ready", token=None)
    assert response.status_code == 200
    assert response.get_json()["warnings"] == {"data": "low on room: no study is fetched to the scheduler's host"}


def test_without_redis_it_is_not_ready_and_says_so(api: Api) -> None:
    response = api.get("/health/ready", token=None)
    assert response.status_code == 503
    assert response.get_json()["checks"] == {"ledger": "ok", "redis": "does not answer"}
    assert "redis does not answer" in response.get_json()["detail"]


def test_without_the_ledger_it_is_not_ready_and_says_so(tmp_path: Path, valkey: ValkeyServer) -> None:
    with Installation(tmp_path, REDIS_URL=valkey.url) as installation:
        api = installation.api()
        with sqlite3.connect(installation.base / "db" / "ledger.sqlite", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            response = api.get("/health/ready", token=None)
            other.execute("ROLLBACK")
    assert response.status_code == 503
    assert response.get_json()["checks"] == {"ledger": "cannot be written", "redis": "ok"}


def test_a_hanging_redis_is_told_within_seconds(tmp_path: Path, valkey_server: ValkeyServer) -> None:
    with Installation(tmp_path, REDIS_URL=valkey_server.url) as installation:
        api = installation.api()
        assert valkey_server.process is not None
        valkey_server.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert api.get("/health/ready", token=None).status_code == 503
            assert time.monotonic() - began < 3.5
        finally:
            valkey_server.process.send_signal(signal.SIGCONT)


def test_asking_all_the_time_costs_one_look_a_second(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(installation.ledger, "check", lambda: looks.append(1))
    api = installation.api()
    for _ in range(20):
        api.get("/health/ready", token=None)
    assert 1 <= len(looks) <= 3


def test_health_gives_no_secret_away(tmp_path: Path) -> None:
    with Installation(tmp_path, REDIS_URL="redis://:hidden-password@127.0.0.1:1/0") as installation:
        text = installation.api().get("/health/ready", token=None).get_data(as_text=True)
    assert not any(secret in text for secret in ("hidden-password", "127.0.0.1", str(tmp_path), *TOKENS.values()))


def test_rules_that_cannot_be_used_are_told_and_hooks_are_taken_all_the_same(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    with Installation(tmp_path, REDIS_URL=valkey.url) as installation:
        rules = installation.settings.completeness
        rules.parent.mkdir()
        rules.write_text('[{"name": "MR", "match": {"Modality": "MR"}, "series": 3, "limit": "1h"}]')
        assert installation.api().get("/health/ready", token=None).get_json()["warnings"] == {}
        rules.write_text("[{")
        response = installation.api().get("/health/ready", token=None)
    assert response.status_code == 200
    assert response.get_json()["warnings"] == {"completeness": "the rules cannot be used; studies wait"}

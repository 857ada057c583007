"""The dashboard as an installation runs it: one gunicorn process tree, on the loopback, logging JSON."""

import json
import socket
from pathlib import Path

import pytest
import requests

from tests.integration.dashboard.stand import PASSWORD, DashboardServer, LedgerOfStudies, many_states
from tests.servers import ValkeyServer


class _AtHome(DashboardServer):
    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HOME": str(self.directory)}


def test_it_serves_logs_json_and_leaves_nothing_behind(tmp_path: Path, valkey: ValkeyServer) -> None:
    with _AtHome(tmp_path / "dashboard", valkey.url) as server:
        many_states(LedgerOfStudies(server.settings.database_url))
        assert requests.get(f"{server.url}/health", timeout=5).json() == {"status": "ok"}
        assert "segment" in requests.get(server.url, auth=("admin", PASSWORD), timeout=5).text
        assert requests.get(server.url, auth=("admin", "guessed"), timeout=5).status_code == 401
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.port), timeout=2)
    lines = [json.loads(line) for line in (tmp_path / "dashboard" / "server.log").read_text().splitlines()]
    assert {line["program"] for line in lines} == {"dashboard"}
    assert any(line["message"] == "log-in refused" for line in lines)
    assert "guessed" not in str(lines)
    assert not (tmp_path / "dashboard" / ".gunicorn").exists()

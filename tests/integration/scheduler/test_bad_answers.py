"""An Orthanc that answers with something else for a while loses nothing, and all goes on when it is well again."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from dcm_processor.ledger import studies
from scheduler import changes, comparison, planner
from tests.integration.scheduler.platform import YES, HandWorker, Platform, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until

Spoiled = tuple[int, str, bytes]
BAD: dict[str, Callable[[bytes], Spoiled]] = {
    "500": lambda _: (500, "application/json", b"{}"),
    "HTML": lambda _: (200, "text/html", b"<html>Maintenance</html>"),
    "half a JSON": lambda body: (200, "application/json", body[: len(body) // 2]),
}


class Proxy:
    """Stands before an Orthanc and spoils its answers about paths that begin so, in the way that is chosen."""

    def __init__(self, orthanc: OrthancServer) -> None:
        self.orthanc, self.password = orthanc, orthanc.password
        self.beginning, self.bad, self.spoiled = "", BAD["500"], 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name: self.headers[name] for name in ("Authorization", "Accept-Encoding")}
                answer = requests.get(orthanc.url + self.path, headers=headers, timeout=30)
                found = (answer.status_code, answer.headers.get("Content-Type", ""), answer.content)
                if proxy.beginning and self.path.startswith(proxy.beginning):
                    found = proxy.bad(answer.content)
                    proxy.spoiled += 1
                status, kind, body = found
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy(orthanc: OrthancServer) -> Iterator[Proxy]:
    proxy = Proxy(orthanc)
    yield proxy
    proxy.close()


@pytest.fixture
def platform(tmp_path: Path, valkey: ValkeyServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """One that has met Orthanc through the proxy, and tries again soon."""
    monkeypatch.setattr(changes, "EVERY", 0.2)
    monkeypatch.setattr(comparison, "PAUSE", 0.5)
    monkeypatch.setattr(planner, "_ORTHANC_BACKOFF", (0.5,) * 4)
    behind: Any = proxy
    platform = Platform(tmp_path / "base", valkey, behind, STABLE_AGE=1)
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")

    def met() -> bool:
        with platform.ledger.read() as db:
            return studies.fact(db, "orthanc") is not None

    with platform:
        wait_until(met, 30, "the controller met Orthanc")
    yield platform
    platform.stop()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("beginning", ["/changes?since", "/studies/", "/instances/"])
def test_a_study_that_comes_meanwhile_is_planned_once_orthanc_is_well(
    platform: Platform, proxy: Proxy, tmp_path: Path, beginning: str, bad: str
) -> None:
    """What is asked: changes, the study as it is planned, its instances' files and metadata."""
    proxy.bad = BAD[bad]
    proxy.beginning = beginning
    with platform:
        study = send(proxy.orthanc, tmp_path / "study")
        wait_until(lambda: proxy.spoiled >= 2, 60, "it was asked, and asked again")
        proxy.beginning = ""
        HandWorker(platform).run()
        found = platform.wait_for(study.study_id, "finished", 40)
    assert len(found["plans"]) == 1


@pytest.mark.parametrize("bad", BAD)
def test_a_comparison_begins_anew_once_orthanc_is_well(
    platform: Platform, proxy: Proxy, orthanc: OrthancServer, tmp_path: Path, bad: str
) -> None:
    study = send(orthanc, tmp_path / "study")
    wait_until(
        lambda: requests.get(f"{orthanc.url}/studies/{study.study_id}", auth=orthanc.auth).json()["IsStable"], 10
    )
    requests.delete(f"{orthanc.url}/changes", auth=orthanc.auth, timeout=10)
    proxy.bad = BAD[bad]
    proxy.beginning = "/studies?expand"
    with platform:
        wait_until(lambda: proxy.spoiled >= 2, 30, "it was asked, and asked again")
        proxy.beginning = ""
        HandWorker(platform).run()
        found = platform.wait_for(study.study_id, "finished", 40)
    assert found["plans"][0]["reason"] == "found"

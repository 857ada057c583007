"""The Lua hook in a real Orthanc with our configuration, against a small real receiver."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pynetdicom import AE

from tests.dicom import StudyFiles, make_study
from tests.servers import OrthancServer, free_port
from tests.waiting import wait_until

FOLDER = Path(__file__).resolve().parents[2] / "orthanc"
NAME, PATIENT = "Unmistakable^Jane", "UNMISTAKABLE-7"


class Receiver:
    """Answers POSTs as the scheduler would, or as its `mode` says; may be away."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mode = "accept"
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.released = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.requests.append((self.path, dict(self.headers), body))
                if receiver.mode == "hang":
                    receiver.released.wait(30)
                status = 500 if receiver.mode == "error" else 202
                answer = json.dumps({"status": "accepted", "studyId": body["studyId"], "eventId": 1}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def told(self) -> list[str]:
        return [body["studyId"] for _, _, body in self.requests]


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OrthancServer, Receiver]]:
    directory = tmp_path_factory.mktemp("hooked")
    (directory / "hook_token").write_text("the-token\n")
    receiver = Receiver()
    config = json.loads((FOLDER / "orthanc.json").read_text())
    config |= {"LuaScripts": [str(FOLDER / "on_stable_study.lua")], "HttpTimeout": 2}  # the tests wait it out
    environment = {
        "HOOK_URL": f"http://127.0.0.1:{receiver.port}/stable-study",
        "HOOK_TOKEN_FILE": str(directory / "hook_token"),
    }
    with OrthancServer(directory / "orthanc", config, environment) as orthanc:
        yield orthanc, receiver
        receiver.stop()


@pytest.fixture
def orthanc_and_receiver(hooked: tuple[OrthancServer, Receiver]) -> Iterator[tuple[OrthancServer, Receiver]]:
    """A running receiver that accepts, nothing received yet."""
    orthanc, receiver = hooked
    receiver.mode = "accept"
    receiver.released.clear()
    receiver.requests.clear()
    receiver.start()
    yield orthanc, receiver
    receiver.stop()


def store(orthanc: OrthancServer, study: StudyFiles) -> float:
    """C-STORE, as a scanner that Orthanc does not know; returns the seconds it took."""
    datasets = [dcmread(path) for path in study.files]
    scanner = AE(ae_title="SCANNER")
    for context in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
        scanner.add_requested_context(*context)
    begun = time.monotonic()
    association = scanner.associate("127.0.0.1", orthanc.dicom_port, ae_title="DCMPROC")
    assert association.is_established
    statuses = [association.send_c_store(dataset).Status for dataset in datasets]
    association.release()
    assert statuses == [0] * len(datasets)
    return time.monotonic() - begun


def log_lines(orthanc: OrthancServer, study_id: str) -> list[str]:
    log = (orthanc.directory / "server.log").read_text(errors="replace")
    return [line for line in log.splitlines() if "dcm-processor: study " + study_id in line]


def study(tmp_path: Path, name: str) -> StudyFiles:
    return make_study(tmp_path / name, PatientID=PATIENT, PatientName=NAME, StudyDescription=NAME)


def test_a_stable_study_is_told_once_with_one_log_line(
    orthanc_and_receiver: tuple[OrthancServer, Receiver], tmp_path: Path
) -> None:
    """POST with the token, JSON, the study's identifier and nothing else; nothing of the patient in the log."""
    orthanc, receiver = orthanc_and_receiver
    sent = study(tmp_path, "a")
    store(orthanc, sent)
    wait_until(lambda: log_lines(orthanc, sent.study_id), 10, "the hook's log line")
    [(path, headers, body)] = receiver.requests
    assert (path, body) == ("/stable-study", {"studyId": sent.study_id})
    assert headers["Authorization"] == "Bearer the-token"
    assert headers["Content-Type"] == "application/json"
    [line] = log_lines(orthanc, sent.study_id)
    assert line.endswith("is stable, the scheduler knows")
    log = (orthanc.directory / "server.log").read_text(errors="replace")
    assert "Unmistakable" not in log
    assert PATIENT not in log


@pytest.mark.parametrize(
    ("mode", "why"), [("away", "does not answer"), ("error", "did not accept it"), ("hang", "does not answer")]
)
def test_orthanc_goes_on_storing_whatever_the_receiver_does(
    orthanc_and_receiver: tuple[OrthancServer, Receiver], tmp_path: Path, mode: str, why: str
) -> None:
    """One log line that says why; studies are stored meanwhile and after; the next one is told when all is well."""
    orthanc, receiver = orthanc_and_receiver
    receiver.mode = mode
    if mode == "away":
        receiver.stop()
    first, second = study(tmp_path, "a"), study(tmp_path, "b")
    store(orthanc, first)
    if mode != "away":
        wait_until(lambda: first.study_id in receiver.told(), 10, "the hook's POST")
    assert store(orthanc, second) < 5
    for sent in (first, second):
        [line] = wait_until(lambda sent=sent: log_lines(orthanc, sent.study_id), 15, "the hook's log line")
        assert why in line
        assert "was not told and will find it in the changes" in line

    receiver.released.set()
    receiver.mode = "accept"
    if mode == "away":
        receiver.start()
    third = study(tmp_path, "c")
    store(orthanc, third)
    wait_until(lambda: third.study_id in receiver.told(), 15, "the hook's POST")
    stored = requests.get(f"{orthanc.url}/studies", auth=orthanc.auth, timeout=10).json()
    assert {first.study_id, second.study_id, third.study_id} <= set(stored)
    changes = requests.get(f"{orthanc.url}/changes?limit=10000", auth=orthanc.auth, timeout=10).json()["Changes"]
    stable = {change["ID"] for change in changes if change["ChangeType"] == "StableStudy"}
    assert {first.study_id, second.study_id} <= stable


def test_without_its_environment_the_hook_says_so(tmp_path: Path) -> None:
    """An Orthanc that was started by hand, without HOOK_URL, works all the same."""
    config = json.loads((FOLDER / "orthanc.json").read_text())
    config["LuaScripts"] = [str(FOLDER / "on_stable_study.lua")]
    sent = study(tmp_path, "a")
    with OrthancServer(tmp_path / "orthanc", config, {"HOOK_URL": "", "HOOK_TOKEN_FILE": ""}) as orthanc:
        store(orthanc, sent)
        [line] = wait_until(lambda: log_lines(orthanc, sent.study_id), 10, "the hook's log line")
        assert "HOOK_URL is not set" in line

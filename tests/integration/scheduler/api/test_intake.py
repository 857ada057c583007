"""Intake: the hook is answered once the ledger has its event, whatever Redis and Orthanc do."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import requests

from dcm_processor.transport import WAKE
from tests.integration.scheduler.api.stand import Api, GunicornServer, Installation, bearer, study_id
from tests.servers import PostgresServer, ValkeyServer
from tests.small_disk import small_disk
from tests.waiting import wait_until

STUDY = study_id(1)


def test_a_stable_study_is_in_the_ledger_when_the_hook_is_answered(installation: Installation, api: Api) -> None:
    response = api.post("/stable-study", json={"studyId": STUDY}, token="hook_token")
    assert response.status_code == 202
    (event,) = installation.events()
    assert response.get_json() == {"status": "accepted", "studyId": STUDY, "eventId": event["event_id"]}
    assert (event["kind"], event["study_id"], event["payload"]) == ("stable", STUDY, None)
    assert wait_until(lambda: installation.wakes, 5, "the controller is woken") == ["stable"]


def test_the_study_is_shown_as_received(api: Api) -> None:
    api.post("/stable-study", json={"studyId": STUDY})
    (shown,) = api.get("/api/v1/studies").get_json()["items"]
    assert (shown["studyId"], shown["state"], shown["jobs"]) == (STUDY, "received", {})


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", None, "application/json; charset=utf-8"])
def test_a_body_is_taken_as_the_json_it_is_however_libcurl_calls_it(api: Api, content_type: str | None) -> None:
    body = f'{{"studyId": "{STUDY}"}}'
    assert api.post("/stable-study", data=body, content_type=content_type).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"studyId=1",
        b"{",
        b"[]",
        b"null",
        b'"' + STUDY.encode() + b'"',
        b"{}",
        b'{"studyId": null}',
        b'{"studyId": 7}',
        b'{"studyId": ["' + STUDY.encode() + b'"]}',
        b'{"studyId": "' + STUDY.encode() + b'\\n"}',
        b'{"studyId": "' + STUDY.encode() + b' "}',
        b'{"studyId": "' + STUDY.upper().replace("0", "A").encode() + b'"}',
        b'{"studyId": "1.2.840.113619.2.1"}',
        b'{"studyId": "../../etc/passwd"}',
        b'{"studyId": "' + STUDY.encode() + b"'; DROP TABLE studies; --\"}",
        b'{"studyId": "\xff"}',
        b"[" * 4000,
    ],
)
def test_what_names_no_study_is_refused_and_nothing_is_recorded(
    installation: Installation, api: Api, body: bytes
) -> None:
    response = api.post("/stable-study", data=body, content_type="application/json")
    assert response.status_code == 400
    assert response.get_json()["faults"][0]["field"].startswith("body")
    assert "DROP" not in response.get_data(as_text=True)
    assert installation.events() == []


def test_a_body_that_is_no_json_by_its_type_is_refused(api: Api) -> None:
    assert api.post("/stable-study", data="<a/>", content_type="text/xml").status_code == 415


def test_the_method_is_post(api: Api) -> None:
    response = api.get("/stable-study")
    assert (response.status_code, "POST" in response.headers["Allow"]) == (405, True)


def test_a_hook_says_which_study_and_nothing_more_is_needed(installation: Installation, api: Api) -> None:
    """A newer hook may send more than this scheduler knows."""
    assert api.post("/stable-study", json={"studyId": STUDY, "lastUpdate": "20260101T000000"}).status_code == 202


@pytest.mark.parametrize("token", ["hook_token", "worker_token"])
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_who_sends_10_mb_gets_to_read_why_not(server: GunicornServer, chunked: bool, token: str) -> None:
    """Also a client that sends it all before it reads anything: a server that just closes leaves it a reset."""
    body = [b"x" * 65536] * 160
    headers = {**bearer(token), "Content-Type": "application/json"}
    for _ in range(5):
        began = time.monotonic()
        client = HTTPConnection("127.0.0.1", server.port, timeout=10)
        client.request(
            "POST", "/stable-study", iter(body) if chunked else b"".join(body), headers, encode_chunked=chunked
        )
        response = client.getresponse()
        assert response.status == (413 if token == "hook_token" else 403)
        assert response.headers["Content-Type"] == "application/problem+json"
        client.close()
        assert time.monotonic() - began < 1.5
    assert server.hook(1).status_code == 202


def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(server: GunicornServer) -> None:
    head = (
        f"POST /stable-study HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer('hook_token')['Authorization']}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n"
    )
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - began < 0.5
        while client.recv(65536):  # who then sends nothing is cut off, and soon
            pass
    assert time.monotonic() - began < 3.5
    assert server.hook(1).status_code == 202


def test_a_thousand_hooks_at_once_are_all_recorded(server: GunicornServer) -> None:
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(server.hook, range(1000, 2000)))
    said = Counter(answer.text if answer.status_code != 202 else "accepted" for answer in answers)
    assert said == {"accepted": 1000}
    recorded = server.installation.events(*map(study_id, range(1000, 2000)))
    assert sorted(event["event_id"] for event in recorded) == sorted(answer.json()["eventId"] for answer in answers)
    assert len({event["study_id"] for event in recorded}) == 1000


@contextmanager
def ledger_locked(installation: Installation) -> Iterator[None]:
    """Somebody else writes to the ledger and does not come to an end."""
    other = sqlite3.connect(installation.base / "db" / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_hooks_are_refused_within_two_seconds_while_the_ledger_takes_no_write(server: GunicornServer) -> None:
    def timed(number: int) -> tuple[int, float, requests.Response]:
        began = time.monotonic()
        response = server.hook(number)
        return response.status_code, time.monotonic() - began, response

    with ledger_locked(server.installation), ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(timed, range(100, 140)))
    assert {status for status, _, _ in answers} == {503}
    assert max(seconds for _, seconds, _ in answers) < 2
    problem = answers[0][2].json()
    assert problem["type"] == "urn:dcm-processor:problem:ledger-unavailable"
    assert answers[0][2].headers["Retry-After"]
    assert server.installation.events(*map(study_id, range(100, 140))) == []
    wait_until(lambda: server.hook(50).status_code == 202, 3, "hooks are taken again")


def test_a_database_that_hangs_keeps_no_hook_for_two_seconds(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Nothing in a database that is stopped, or behind a cut line, can end the wait: the scheduler has to."""
    with Installation(tmp_path, DATABASE_URL=postgres_server.database()) as installation:
        api = installation.api()
        assert api.post("/stable-study", json={"studyId": STUDY}).status_code == 202
        assert postgres_server.process is not None
        postgres = psutil.Process(postgres_server.process.pid)
        stopped = [postgres, *postgres.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            began = time.monotonic()
            for number in range(2, 6):
                assert api.post("/stable-study", json={"studyId": study_id(number)}).status_code == 503
            assert time.monotonic() - began < 2
            assert api.get("/health/ready", token=None).get_json()["checks"]["ledger"] == "cannot be written"
            assert time.monotonic() - began < 5
        finally:
            for process in stopped:
                process.resume()

        def taken() -> bool:
            return api.post("/stable-study", json={"studyId": study_id(9)}).status_code == 202

        wait_until(taken, 10, "hooks are taken again")


def test_a_full_disk_under_the_ledger_is_a_503(installation: Installation) -> None:
    """SQLite says `database or disk is full`; here by a limit on its pages."""
    api = installation.api()
    with installation.ledger.write() as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar_one()
    api.post("/stable-study", json={"studyId": STUDY})

    from sqlalchemy import event

    engine = installation.ledger._engine

    def small(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "checkout", small)
    statuses = {api.post("/stable-study", json={"studyId": study_id(number)}).status_code for number in range(100, 400)}
    assert 503 in statuses
    assert statuses <= {202, 503}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_under_the_ledger_is_a_503_at_once_and_forgotten_when_there_is_room(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    """A real one, under a real server. What was accepted is there; nothing has to be started anew."""
    database = tmp_path / "basedir" / "db"
    database.mkdir(parents=True)
    with (
        small_disk(database, "4m"),
        Installation(tmp_path, REDIS_URL=valkey.url) as installation,
        GunicornServer(tmp_path / "server", installation) as server,
    ):
        assert server.hook(1).status_code == 202
        filler = database / "of somebody else"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False, capture_output=True)
        assert shutil.disk_usage(database).free == 0
        answers: dict[int, int] = {1: 202}
        longest = 0.0
        for number in range(2, 300):
            began = time.monotonic()
            answers[number] = server.hook(number).status_code
            longest = max(longest, time.monotonic() - began)
            if answers[number] == 503:
                break
        assert set(answers.values()) <= {202, 503}
        assert 503 in answers.values()
        assert longest < 2
        filler.unlink()
        wait_until(lambda: server.hook(1000).status_code == 202, 5, "hooks are taken again")
        accepted = {study_id(number) for number, status in [*answers.items(), (1000, 202)] if status == 202}
        assert {row["study_id"] for row in installation.events()} == accepted


def test_redis_down_changes_nothing_for_the_hook(server: GunicornServer, valkey: ValkeyServer) -> None:
    valkey.stop()
    try:
        began = time.monotonic()
        answers = [server.hook(number).status_code for number in range(1, 11)]
        assert answers == [202] * 10
        assert time.monotonic() - began < 1
    finally:
        valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        wait_until(lambda: client.xlen(WAKE), 5, "the controller is woken once Redis is back")


def test_redis_hanging_changes_nothing_for_the_hook(server: GunicornServer, valkey_server: ValkeyServer) -> None:
    assert server.hook(1).status_code == 202
    assert valkey_server.process is not None
    valkey_server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        answers = [server.hook(number).status_code for number in range(2, 12)]
        assert answers == [202] * 10
        assert time.monotonic() - began < 1
    finally:
        valkey_server.process.send_signal(signal.SIGCONT)


def test_the_hook_never_calls_orthanc(tmp_path: Any) -> None:
    """Orthanc's REST is frozen until the hook is answered: a call to it would wait for itself."""
    with socket.create_server(("127.0.0.1", 0)) as orthanc:
        orthanc.settimeout(0.3)
        url = f"http://127.0.0.1:{orthanc.getsockname()[1]}"
        with Installation(tmp_path, ORTHANC_REST_URL=url) as installation:
            assert installation.api().post("/stable-study", json={"studyId": STUDY}).status_code == 202
        with pytest.raises(TimeoutError):
            orthanc.accept()


def test_a_hook_that_was_cut_off_in_the_middle_is_not_recorded(server: GunicornServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            f"POST /stable-study HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer('hook_token')['Authorization']}\r\n"
            f'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"studyId": "{study_id(60)}"'.encode()
        )
    assert server.hook(61).status_code == 202
    assert [event["study_id"] for event in server.installation.events(study_id(60), study_id(61))] == [study_id(61)]

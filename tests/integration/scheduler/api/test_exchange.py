"""What workers of other hosts fetch and send: whole archives, for what the ledger knows, and nothing else."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from werkzeug.test import TestResponse

from dcm_processor.archives.archive import OUTPUT, VERSION, pack, survey
from dcm_processor.archives.unpacking import unpack
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from scheduler import results, transfers
from scheduler.parts import EXTENSION
from tests.integration.scheduler.api.stand import Api, GunicornServer, Installation, bearer, study_id
from tests.servers import ValkeyServer
from tests.waiting import wait_until

STUDY, SERIES = study_id(1), study_id(2)
DIGEST = "0123456789abcdef0123456789abcdef"
TAR = "application/x-tar"
NOT_THERE = (404, 403)
"""403 where the name makes another address, which a worker's token does not open."""


def fetch(api: Api, path: str) -> TestResponse:
    return api.get(path, token="worker_token")


def send(api: Api, attempt: str, body: bytes, **more: str) -> TestResponse:
    return api.call(
        "PUT", f"/api/v1/attempts/{attempt}/output", token="worker_token", data=body, **{"content_type": TAR, **more}
    )


def output(folder: Path, **files: str) -> bytes:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return b"".join(pack(survey({"": folder}, OUTPUT)))


def attempts_of(installation: Installation) -> Path:
    return installation.settings.data / "attempts"


def running(installation: Installation, number: int = 1, **job: object) -> str:
    """An attempt that runs."""
    study = installation.study(number)
    tries = [{"state": "started"}]
    (job_id,) = installation.plan(study, {"job_name": "segment", "state": "started", "tries": tries, **job})
    return f"{job_id}-1"


# -- module code


@pytest.fixture
def service(installation: Installation, tmp_path: Path) -> str:
    """An installed service; returns its digest."""
    source = tmp_path / "source"
    for part in ("registry", "module"):
        (source / part).mkdir(parents=True)
    (source / "registry" / "settings.json").write_text(
        '{"jobName": "segment", "worker": "svc.work", "callback": "svc.applies"}'
    )
    (source / "registry" / "__init__.py").write_text("def applies(**kwargs):\n    return True\n")
    (source / "module" / "__init__.py").write_text("def work(**kwargs):\n    pass\n")
    (source / "module" / "tool").write_text("#!/bin/sh\n")
    (source / "module" / "tool").chmod(0o755)
    return Store.of(installation.settings).install("svc", source).digest


def test_a_version_of_a_service_travels_and_is_the_same_on_the_other_host(
    api: Api, service: str, tmp_path: Path
) -> None:
    answer = fetch(api, f"/api/v1/services/svc/versions/{service}")
    assert (answer.status_code, answer.mimetype) == (200, TAR)
    unpack([answer.get_data()], tmp_path / "came", VERSION)
    other = Store.of(Settings(BASEDIR=tmp_path / "other"))
    other.add("svc", service, tmp_path / "came")
    assert os.access(other.module_folder("svc", service) / "tool", os.X_OK)
    assert other.services() == []  # it is there, and not current


@pytest.mark.parametrize(
    "path",
    [f"svc/versions/{DIGEST}", "svc/versions/x", f"..%2Fsvc/versions/{DIGEST}", f"%2E%2E/versions/{DIGEST}",
     f"svc/versions/..%2F{DIGEST}", f"svc/versions/{DIGEST}%0A", f"other/versions/{DIGEST}"],
)  # fmt: skip
def test_a_version_that_is_not_here(api: Api, service: str, path: str) -> None:
    assert fetch(api, f"/api/v1/services/{path}").status_code in NOT_THERE


# -- results


@pytest.fixture
def published(installation: Installation) -> Path:
    folder = installation.settings.data / "results" / STUDY
    for place, text in (("convert", "study"), (f"each/{SERIES}", "series")):
        (folder / place / "deep").mkdir(parents=True)
        (folder / place / "deep" / "result.txt").write_text(text)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("/etc")
    (folder / "file").write_text("no folder")
    return folder


@pytest.mark.parametrize(("place", "text"), [("convert", "study"), (f"each/{SERIES}", "series"), ("empty", None)])
def test_results_travel(api: Api, published: Path, tmp_path: Path, place: str, text: str | None) -> None:
    answer = fetch(api, f"/api/v1/results/{STUDY}/{place}")
    assert (answer.status_code, answer.mimetype) == (200, TAR)
    unpack([answer.get_data()], tmp_path / "came", OUTPUT)
    found = [path.read_text() for path in (tmp_path / "came").rglob("*.txt")]
    assert found == ([text] if text else [])


@pytest.mark.parametrize(
    "path",
    [f"{STUDY}/other", f"{SERIES}/convert", f"{STUDY}/each/{STUDY}", f"{STUDY}/link", f"{STUDY}/file", f"{STUDY}/..",
     f"{STUDY}/%2E%2E", f"{STUDY}/..%2F..%2Fsecrets", f"{STUDY}/convert/%2E%2E", f"{STUDY}/convert/deep",
     "%2E%2E/secrets", f"{STUDY}/convert%0A", f"{STUDY}/convert%00", f"{STUDY}/.hidden"],
)  # fmt: skip
def test_results_that_are_not_there(api: Api, published: Path, path: str) -> None:
    answer = fetch(api, f"/api/v1/results/{path}")
    assert answer.status_code in NOT_THERE
    assert "hook_token" not in answer.get_data(as_text=True)


def test_results_of_more_than_may_travel_are_refused(
    api: Api, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.joinpath("convert", *["d"] * 70).mkdir(parents=True)
    answer = fetch(api, f"/api/v1/results/{STUDY}/convert")
    assert (answer.status_code, answer.get_json()["type"]) == (422, "urn:dcm-processor:problem:archive-refused")


# -- output


def test_the_output_of_a_running_attempt_is_taken_and_again(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    attempt = running(installation)
    place = attempts_of(installation) / attempt
    for text in ("first", "second"):
        answer = send(api, attempt, output(tmp_path / text, **{f"{text}.txt": text}))
        assert answer.status_code == 200
        assert answer.get_json() == {"attemptId": attempt, "entries": 1, "size": len(text)}
        assert [path.name for path in place.iterdir()] == [f"{text}.txt"]
        assert [path.name for path in place.parent.iterdir()] == [attempt]


def test_output_is_taken_before_the_ledger_heard_that_the_attempt_runs(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    attempt = running(installation, state="queued", tries=[{"state": "queued"}])
    assert send(api, attempt, output(tmp_path / "empty")).status_code == 200
    assert list((attempts_of(installation) / attempt).iterdir()) == []


def test_what_a_job_put_in_the_place_of_the_output_is_replaced(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    attempt = running(installation)
    attempts_of(installation).mkdir(parents=True)
    (attempts_of(installation) / attempt).symlink_to(tmp_path)
    assert send(api, attempt, output(tmp_path / "out", a="a")).status_code == 200
    assert (attempts_of(installation) / attempt / "a").read_text() == "a"
    assert not (attempts_of(installation) / attempt).is_symlink()


@pytest.mark.parametrize("state", ["finished", "failed", "lost", "handed_back", "cancelled"])
def test_nobody_waits_for_the_output_of_an_attempt_that_ended(
    installation: Installation, api: Api, tmp_path: Path, state: str
) -> None:
    attempt = running(installation, state="retrying", tries=[{"state": state}])
    assert send(api, attempt, output(tmp_path / "out")).status_code == 409
    assert not attempts_of(installation).exists()


def test_nobody_waits_for_an_attempt_that_is_not_the_current_one(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    attempt = running(installation, tries=[{"state": "started"}, {"state": "started"}])
    assert send(api, attempt, output(tmp_path / "out")).status_code == 409


@pytest.mark.parametrize("attempt", ["unknown-1", "..", "%2E%2E", "a%2F..%2Fb", "a.part", "a" * 201, "%0A", "a\x00"])
def test_an_attempt_that_nobody_knows(installation: Installation, api: Api, attempt: str, tmp_path: Path) -> None:
    assert send(api, attempt, output(tmp_path / "out")).status_code in NOT_THERE
    assert not attempts_of(installation).exists()


def test_an_attempt_that_ends_while_its_output_comes(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import update

    from dcm_processor.ledger import schema

    attempt, unpacked = running(installation), results.unpack

    def end_meanwhile(*args: object, **more: object) -> object:
        came = unpacked(*args, **more)  # type: ignore[arg-type]
        with installation.ledger.write() as db:
            db.execute(update(schema.attempts).values(state="lost"))
        return came

    monkeypatch.setattr(results, "unpack", end_meanwhile)
    assert send(installation.api(), attempt, output(tmp_path / "out")).status_code == 409
    assert list(attempts_of(installation).iterdir()) == []


def test_what_is_no_whole_archive_leaves_nothing(installation: Installation, api: Api, tmp_path: Path) -> None:
    attempt, body = running(installation), output(tmp_path / "out", a="a" * 5000)
    assert send(api, attempt, b"no archive" * 100).status_code == 422
    assert send(api, attempt, body[:2048]).status_code == 503  # it may come whole the next time
    assert send(api, attempt, b"").status_code == 503
    assert send(api, attempt, body, content_type="application/json").status_code == 415
    assert list(attempts_of(installation).iterdir()) == []


def test_too_much_is_refused_by_what_it_announces(installation: Installation, api: Api) -> None:
    attempt = running(installation)
    answer = api.call(
        "PUT",
        f"/api/v1/attempts/{attempt}/output",
        token="worker_token",
        content_type=TAR,
        environ_overrides={"CONTENT_LENGTH": str(1 << 50)},
    )
    assert answer.status_code == 413


def test_a_full_disk_is_said_and_leaves_nothing(
    installation: Installation, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, body = running(installation), output(tmp_path / "out", a="a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = send(api, attempt, body)
    assert (answer.status_code, answer.get_json()["type"]) == (507, "urn:dcm-processor:problem:data-full")
    assert list(attempts_of(installation).iterdir()) == []
    assert send(api, attempt, body).status_code == 200


def test_what_a_killed_scheduler_left_is_cleared(installation: Installation, api: Api, tmp_path: Path) -> None:
    attempt = running(installation)
    stale = attempts_of(installation) / f"{attempt}.part"
    (stale / "half").mkdir(parents=True)
    assert send(api, attempt, output(tmp_path / "out", a="a")).status_code == 200
    assert [path.name for path in attempts_of(installation).iterdir()] == [attempt]


def test_only_so_many_travel_at_once_and_the_others_are_told_to_wait(
    installation: Installation, api: Api, published: Path, tmp_path: Path
) -> None:
    api.app.extensions[EXTENSION].transfers._free = transfers.Transfers(1)._free
    attempt, path = running(installation), f"/api/v1/results/{STUDY}/convert"
    client = api.app.test_client()
    open_ = client.get(path, headers=bearer("worker_token"), buffered=False)
    assert open_.status_code == 200
    for answer in (fetch(api, path), send(api, attempt, output(tmp_path / "out"))):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    open_.close()
    for _ in range(3):  # each gives its place back, however it ends
        assert fetch(api, path).status_code == 200
        assert client.head(path, headers=bearer("worker_token"), buffered=True).status_code == 200
        assert send(api, attempt, b"").status_code == 503
        assert fetch(api, f"/api/v1/results/{STUDY}/none").status_code == 404


# -- under gunicorn


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, valkey_server: ValkeyServer) -> Iterator[GunicornServer]:
    """gunicorn with our configuration, but for a `timeout` of two seconds."""

    class Impatient(GunicornServer):
        def command(self) -> list[str]:
            return [*super().command(), "--timeout", "2"]

    folder = tmp_path_factory.mktemp("impatient")
    with (
        Installation(folder, REDIS_URL=valkey_server.url) as made,
        Impatient(folder / "server", made) as server,
    ):
        yield server


def put(server: GunicornServer, attempt: str, body: Iterator[bytes], token: str = "worker_token") -> requests.Response:
    return requests.put(
        f"{server.url}/api/v1/attempts/{attempt}/output",
        data=body,
        headers={**bearer(token), "Content-Type": TAR},
        timeout=30,
    )


def blocks(folder: Path, size: int) -> Iterator[bytes]:
    """An archive with one file of so many bytes."""
    folder.mkdir()
    with (folder / "big").open("wb") as file:
        file.truncate(size)
    return pack(survey({"": folder}, OUTPUT))


def test_an_upload_may_take_longer_than_gunicorns_time_out(impatient: GunicornServer, tmp_path: Path) -> None:
    attempt = running(impatient.installation, 10)

    def slowly() -> Iterator[bytes]:
        for block in blocks(tmp_path / "out", 2_000_000):
            yield block
            time.sleep(0.7)  # as slow as a network may be: this is what is tested

    assert put(impatient, attempt, slowly()).status_code == 200
    assert (attempts_of(impatient.installation) / attempt / "big").stat().st_size == 2_000_000
    assert "WORKER TIMEOUT" not in impatient.log()


def test_a_client_that_dies_in_the_middle_leaves_nothing(impatient: GunicornServer, tmp_path: Path) -> None:
    attempt = running(impatient.installation, 11)
    place = attempts_of(impatient.installation)
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        head = f"PUT /api/v1/attempts/{attempt}/output HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        head += f"Content-Type: {TAR}\r\nAuthorization: {bearer('worker_token')['Authorization']}\r\n\r\n"
        block = next(blocks(tmp_path / "out", 5_000_000))
        connection.sendall(head.encode() + f"{len(block):x}\r\n".encode() + block + b"\r\n")
        wait_until(lambda: list(place.glob(f"{attempt}.part/big")), 10, "it arrives")
    wait_until(lambda: not list(place.glob(f"{attempt}*")), 10, "nothing is left of it")
    assert put(impatient, attempt, blocks(tmp_path / "again", 5_000_000)).status_code == 200


def test_the_same_output_does_not_arrive_twice_at_a_time(impatient: GunicornServer, tmp_path: Path) -> None:
    attempt = running(impatient.installation, 12)
    answers = []

    def meanwhile() -> Iterator[bytes]:
        for number, block in enumerate(blocks(tmp_path / "one", 2_000_000)):
            yield block
            if number == 2:
                answers.append(put(impatient, attempt, blocks(tmp_path / "two", 10)))

    assert put(impatient, attempt, meanwhile()).status_code == 200
    assert [answer.status_code for answer in answers] == [503]
    assert (attempts_of(impatient.installation) / attempt / "big").stat().st_size == 2_000_000


def test_the_refusal_of_a_large_upload_is_read_by_its_client(impatient: GunicornServer, tmp_path: Path) -> None:
    """Were it lost, a worker would send the same again and again."""
    ended = running(impatient.installation, 13, state="failed", tries=[{"state": "lost"}])
    assert put(impatient, ended, blocks(tmp_path / "large", 100_000_000)).status_code == 409
    assert put(impatient, "unknown-1", blocks(tmp_path / "again", 100_000_000)).status_code == 404
    assert put(impatient, ended, blocks(tmp_path / "hook", 100_000_000), token="hook_token").status_code == 403


def test_the_hook_is_answered_while_files_travel(impatient: GunicornServer, tmp_path: Path) -> None:
    study = impatient.installation.settings.data / "results" / STUDY / "large"
    study.mkdir(parents=True)
    with (study / "big").open("wb") as file:
        file.truncate(50_000_000)
    url = f"{impatient.url}/api/v1/results/{STUDY}/large"
    coming = [
        requests.get(url, headers=bearer("worker_token"), stream=True, timeout=10) for _ in range(transfers.AT_ONCE)
    ]
    try:
        assert [answer.status_code for answer in coming] == [200] * transfers.AT_ONCE
        assert requests.get(url, headers=bearer("worker_token"), timeout=10).status_code == 503
        assert impatient.hook(20).status_code == 202
    finally:
        for answer in coming:
            answer.close()
    wait_until(
        lambda: requests.head(url, headers=bearer("worker_token"), timeout=10).status_code == 200,
        10,
        "clients that are gone give their places back",
    )

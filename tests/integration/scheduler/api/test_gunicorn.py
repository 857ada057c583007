"""The scheduler's HTTP side as it runs in an installation: under gunicorn, started from any folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from tests.integration.scheduler.api.stand import GunicornServer, bearer, study_id
from tests.waiting import wait_until


def lines(server: GunicornServer) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log().splitlines()]


def test_every_line_of_the_log_is_json_and_none_has_a_search_term(server: GunicornServer) -> None:
    answer = requests.get(
        f"{server.url}/api/v1/studies?state=failed&cursor=term-in-the-address",
        headers=bearer("scheduler_token"),
        timeout=5,
    )
    assert answer.status_code == 400
    requests.post(
        f"{server.url}/api/v1/studies/search",
        json={"studyInstanceUID": "1.2.3456789"},
        headers=bearer("scheduler_token"),
        timeout=5,
    )

    def told() -> list[dict[str, object]]:
        return [line for line in lines(server) if line.get("path") == "/api/v1/studies/search"]

    (line,) = wait_until(told, 5, "the request is in the log")
    assert (line["program"], line["method"], line["status"]) == ("scheduler", "POST", 200)
    for secret in ("term-in-the-address", "1.2.3456789", bearer("scheduler_token")["Authorization"]):
        assert secret not in server.log()


def test_probes_that_are_well_are_not_logged(server: GunicornServer) -> None:
    for _ in range(3):
        assert requests.get(f"{server.url}/health/live", timeout=5).status_code == 200
    server.hook(1)
    wait_until(lambda: "/stable-study" in server.log(), 5, "the hook is in the log")
    assert "/health/live" not in server.log()


def test_local_mode_listens_on_this_machine_alone(server: GunicornServer) -> None:
    assert server.process is not None
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_killed_worker_is_replaced_and_a_hook_meanwhile_waits(server: GunicornServer) -> None:
    assert server.process is not None
    (worker,) = psutil.Process(server.process.pid).children()
    worker.kill()
    assert server.hook(2).status_code == 202
    assert server.installation.events(study_id(2))


def test_a_killed_parent_takes_its_worker_along_and_so_frees_the_port(server: GunicornServer) -> None:
    assert server.process is not None
    (worker,) = psutil.Process(server.process.pid).children()
    server.process.kill()
    worker.wait(2)


def test_it_starts_from_any_folder_and_checks_its_configuration(tmp_path: Path) -> None:
    checkout = Path(__file__).resolve().parents[4]
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "python:scheduler.gunicorn_conf", "--check-config"],
        cwd=tmp_path,
        env={**os.environ, "BASEDIR": str(tmp_path), "PYTHONPATH": str(checkout), "REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", ["local", "containers"])
def test_where_it_listens(mode: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from scheduler import gunicorn_conf as conf; print(conf.bind, conf.control_socket_disable)",
        ],
        env={**os.environ, "MODE": mode, "BASEDIR": str(tmp_path), "SCHEDULER_PORT": "5999"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["127.0.0.1:5999" if mode == "local" else "0.0.0.0:5999", "True"]

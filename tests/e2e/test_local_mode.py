"""run.sh --local, word for word, in a BASEDIR of its own: the ground that every other way to use it stands on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from uv import find_uv_bin

from dcm_processor.local.processes import marked
from dcm_processor.local.stack import Stack
from dcm_processor.settings import CHECKOUT, Settings
from tests.dicom import make_study, upload
from tests.servers import OrthancServer, free_port
from tests.tutorial import Shell
from tests.waiting import wait_until

PORTS = ("DICOM_PORT", "ORTHANC_PORT", "REDIS_PORT", "SCHEDULER_PORT", "DASHBOARD_PORT")


class Installation:
    """A BASEDIR and ports that nothing else uses, for the scripts of this checkout."""

    def __init__(self, basedir: Path) -> None:
        self.basedir = basedir
        self.settings = {"BASEDIR": str(basedir), **{key: str(free_port()) for key in PORTS}}

    def bash(
        self, script: str, *arguments: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", CHECKOUT / script, *arguments],
            cwd=cwd,
            env={**os.environ, **self.settings, **env},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def up(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = self.bash("run.sh", "--local", *arguments, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.bash("run.sh", "--local", "--down")

    def programs(self) -> dict[str, int]:
        """The process number of each program, as `dcm-processor stack status` asks for it."""
        found = Stack(Settings(BASEDIR=self.basedir)).status()
        return {program.name: program.pid for program in found[1]} if found else {}

    def bash_cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CHECKOUT / ".venv/bin/dcm-processor", *arguments],
            env={**os.environ, **self.settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def shell(self, home: Path) -> Shell:
        """A reader's shell in the checkout, with a home of its own; what was downloaded before is there."""
        cache = subprocess.run([find_uv_bin(), "cache", "dir"], capture_output=True, text=True, check=True).stdout
        home.mkdir()
        own = {"HOME": str(home), "UV_CACHE_DIR": cache.strip(), "LC_ALL": "C"}
        return Shell(CHECKOUT, {**os.environ, **self.settings, **own})

    def stack_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.basedir / "run" / "stack.json").read_text())
        return found

    def secret(self, name: str) -> str:
        return (self.basedir / "secrets" / name).read_text().strip()

    def orthanc(self, user: str, secret: str) -> int:
        url = f"http://127.0.0.1:{self.settings['ORTHANC_PORT']}/system"
        return requests.get(url, auth=(user, self.secret(secret)), timeout=5).status_code


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Up with two workers, in a folder with a space."""
    found = Installation(tmp_path_factory.mktemp("local mode") / "base dir")
    try:
        found.up("--scale", "worker=2")
        yield found
    finally:
        found.down()
        assert marked(found.basedir) == []


def test_everything_runs_and_the_summary_says_where(installation: Installation) -> None:
    done = installation.up()
    for key in ("ORTHANC_PORT", "DASHBOARD_PORT", "SCHEDULER_PORT"):
        assert f"http://127.0.0.1:{installation.settings[key]}" in done.stdout
    assert "2 workers" in done.stdout
    assert str(installation.basedir / "secrets") in done.stdout
    assert "DICOM_BIND_ADDRESS" in done.stdout
    said = json.loads(installation.bash_cli("stack", "status", "--json").stdout)
    assert {program["name"]: program["pid"] for program in said["programs"]} == installation.programs()
    assert set(installation.programs()) == {
        "redis", "orthanc", "scheduler", "controller", "dashboard", "worker_00", "worker_01"
    }  # fmt: skip


def test_no_secret_is_shown_or_stands_in_a_command_line(installation: Installation) -> None:
    done = installation.up()
    secrets = {path.read_text().strip() for path in (installation.basedir / "secrets").iterdir()}
    lines = [" ".join(psutil.Process(process.pid).cmdline()) for process in marked(installation.basedir)]
    assert lines
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr or any(secret in x for x in lines)]


def test_the_secrets_are_those_that_work(installation: Installation) -> None:
    assert installation.orthanc("dcmproc", "orthanc_password") == 200
    assert installation.orthanc("admin", "orthanc_admin_password") == 200
    assert installation.orthanc("admin", "orthanc_password") == 401
    ready = requests.get(f"http://127.0.0.1:{installation.settings['SCHEDULER_PORT']}/health/ready", timeout=5)
    assert ready.status_code == 200


def test_stack_json_tells_others_what_runs(installation: Installation) -> None:
    said = installation.stack_json()
    assert (said["mode"], said["scale"], said["stableAge"]) == ("local", 2, 60)
    assert said["ports"] == {key: int(installation.settings[key]) for key in PORTS}


def test_a_second_run_changes_nothing_that_runs(installation: Installation) -> None:
    before = installation.programs()
    began = time.monotonic()
    installation.up()
    assert time.monotonic() - began < 20
    assert installation.programs() == before


def test_scaling_leaves_all_others_running(installation: Installation) -> None:
    before = installation.programs()
    installation.up("--scale", "worker=3")
    assert installation.stack_json()["scale"] == 3
    more = installation.programs()
    assert set(more) - set(before) == {"worker_02"}
    assert {name: more[name] for name in before} == before
    installation.up("--scale=worker=2")
    assert installation.programs() == before


def test_a_setting_that_changed_meanwhile_is_named_and_not_in_force(installation: Installation) -> None:
    done = installation.up(STABLE_AGE="5")
    assert "not in force: STABLE_AGE" in done.stdout
    assert installation.stack_json()["stableAge"] == 60


def test_a_changed_address_is_named_and_what_runs_is_asked_where_it_listens(installation: Installation) -> None:
    began = time.monotonic()
    done = installation.up(BIND_ADDRESS="127.0.0.2")
    assert time.monotonic() - began < 20
    assert "not in force: BIND_ADDRESS; what runs has the old setting" in done.stdout
    assert f"http://127.0.0.1:{installation.settings['DASHBOARD_PORT']}" in done.stdout
    assert installation.stack_json()["bindAddress"] == "127.0.0.1"


def test_other_servers_than_those_that_are_used_are_refused_at_once(installation: Installation) -> None:
    began = time.monotonic()
    done = installation.bash("run.sh", "--local", ORTHANC_REST_URL="http://127.0.0.1:1")
    assert time.monotonic() - began < 20
    assert done.returncode == 1
    assert "started with another ORTHANC_REST_URL" in done.stderr
    assert "`bash run.sh --local --down`" in done.stderr


def test_each_program_comes_back_when_it_is_killed_and_the_stack_is_healthy(installation: Installation) -> None:
    for program, pid in installation.programs().items():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: installation.programs()[program] not in (0, pid), 30, f"{program} is started again")  # noqa: B023
    installation.up()


def test_down_stops_all_and_up_again_keeps_secrets(installation: Installation) -> None:
    password = installation.secret("orthanc_password")
    processes = marked(installation.basedir)
    assert len(processes) > 7
    done = installation.down()
    assert (done.returncode, "stopped" in done.stdout) == (0, True)
    assert marked(installation.basedir) == []
    assert not [process for process in processes if _runs(process.pid)]
    assert not (installation.basedir / "run" / "stack.json").exists()
    again = installation.down()
    assert (again.returncode, "nothing runs" in again.stdout) == (0, True)
    installation.up("--scale", "worker=2")
    assert installation.secret("orthanc_password") == password


def test_after_supervisord_was_killed_a_start_cleans_up_and_comes_up(installation: Installation) -> None:
    """As after a crash: socket, pid file and stack.json are there, and nobody is behind them."""
    supervisord = int((installation.basedir / "run" / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    installation.up("--scale", "worker=2")
    assert installation.programs()["worker_01"]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # what init has yet to collect runs no more
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Installation]:
    found = Installation(tmp_path / "another")
    yield found
    found.down()
    assert marked(found.basedir) == []


def test_an_orthanc_of_somebody_else_is_used_and_what_it_holds_is_left_alone(
    another: Installation, orthanc: OrthancServer, tmp_path: Path
) -> None:
    upload(orthanc.url, orthanc.auth, make_study(tmp_path / "study").files)
    foreign = {"ORTHANC_REST_URL": orthanc.url, "ORTHANC_REST_PASSWORD": orthanc.password}
    done = another.up(**foreign)
    assert "orthanc" not in another.programs()
    assert f"Orthanc, not ours  {orthanc.url}" in done.stdout
    assert "1 study in Orthanc from before the platform met it: known, not processed" in done.stdout
    assert "study list --state known` lists them, `" in done.stdout
    assert "study rerun STUDY` processes one" in done.stdout
    another.down()


def test_a_server_of_somebody_else_that_cannot_be_used_is_said_before_anything_starts(
    another: Installation, orthanc: OrthancServer
) -> None:
    for env, said in (
        ({"ORTHANC_REST_URL": orthanc.url, "ORTHANC_REST_PASSWORD": "wrong"}, "ORTHANC_REST_USERNAME"),
        ({"ORTHANC_REST_URL": f"http://127.0.0.1:{free_port()}"}, "orthanc is not ours to start"),
        ({"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}, "redis is not ours to start"),
    ):
        done = another.bash("run.sh", "--local", **env)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (another.basedir / "logs" / "supervisord.log").exists()


def test_a_demo_that_refuses_stops_the_stack_that_was_started_for_it(another: Installation, tmp_path: Path) -> None:
    """Else somebody's studies would count as stable after the demo's two seconds."""
    shutil.copytree(CHECKOUT / "services" / "temp", tmp_path / "mine")
    for file in (tmp_path / "mine").rglob("*.*"):
        file.write_text(file.read_text().replace("temp", "mine"))
    assert another.bash("service.sh", "install", "mine", "-p", "mine", cwd=tmp_path).returncode == 0
    done = another.bash("run.sh", "--local", "--demo")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert marked(another.basedir) == []


def test_a_taken_port_is_named_before_anything_starts(another: Installation) -> None:
    with socket.create_server(("127.0.0.1", int(another.settings["DASHBOARD_PORT"]))):
        done = another.bash("run.sh", "--local")
    assert done.returncode == 1
    assert f"DASHBOARD_PORT={another.settings['DASHBOARD_PORT']}: taken by process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (another.basedir / "logs" / "supervisord.log").exists()


def test_an_address_that_is_none_is_named_before_anything_starts(another: Installation) -> None:
    done = another.bash("run.sh", "--local", BIND_ADDRESS="nonsense")
    assert done.returncode == 1
    assert "BIND_ADDRESS=nonsense: is no address of this machine" in done.stderr
    assert marked(another.basedir) == []


def test_a_program_that_cannot_run_is_named_with_the_end_of_its_log_and_nothing_stays(another: Installation) -> None:
    (another.basedir / "redis" / "appendonlydir").mkdir(parents=True)
    (another.basedir / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    done = another.bash("run.sh", "--local")
    assert done.returncode == 1
    assert "redis: ends again and again" in done.stderr
    assert "AOF" in done.stderr
    assert marked(another.basedir) == []
    assert not (another.basedir / "run" / "stack.json").exists()


def test_a_start_that_is_interrupted_leaves_nothing(another: Installation) -> None:
    with subprocess.Popen(
        ["bash", CHECKOUT / "run.sh", "--local"],
        env={**os.environ, **another.settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as starting:
        assert starting.stderr is not None
        assert "redis answers" in starting.stderr.readline()
        starting.send_signal(signal.SIGTERM)
        starting.wait(60)
    assert starting.returncode != 0
    assert marked(another.basedir) == []

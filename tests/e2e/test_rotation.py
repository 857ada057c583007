"""All seven secrets rotated on a running stack, with studies before, during and after."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
import requests
from redis.backoff import NoBackoff
from redis.retry import Retry

from dcm_processor.basedir import SECRETS
from dcm_processor.settings import CHECKOUT
from tests.dicom import StudyFiles, make_study
from tests.e2e.test_study import Stack
from tests.waiting import wait_until

# Asks Orthanc as soon as it is allowed to: with the password that it was started with.
ASKS = """
    import base64, os, pathlib, time, urllib.request
    def work(jobName, params, attempt, output_dir, **kwargs):
        allowed = pathlib.Path(params["allowed"])
        pathlib.Path(params["started"] + "-" + jobName).touch()
        while jobName != "quick" and not allowed.exists():
            time.sleep(0.05)
        if jobName != "patient":
            user = os.environ["ORTHANC_REST_USERNAME"] + ":" + os.environ["ORTHANC_REST_PASSWORD"]
            request = urllib.request.Request(os.environ["ORTHANC_REST_URL"] + "/system")
            request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
            urllib.request.urlopen(request, timeout=10).read()
        pathlib.Path(output_dir, "attempt").write_text(str(attempt))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("rotation") / "base dir")
    running.settings |= {"STABLE_AGE": "2"}
    running.up("--scale", "worker=3")
    yield running
    running.down()


def statuses(stack: Stack, texts: dict[str, str]) -> dict[str, int | bool]:
    """What each server answers to whoever comes with these secrets; Redis: whether it lets them in."""
    orthanc = f"http://127.0.0.1:{stack.settings['ORTHANC_PORT']}/system"
    scheduler = f"http://127.0.0.1:{stack.settings['SCHEDULER_PORT']}"
    dashboard = f"http://127.0.0.1:{stack.settings['DASHBOARD_PORT']}/"

    def bearer(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {texts[name]}"}

    try:
        password = texts["redis_password"]
        port = int(stack.settings["REDIS_PORT"])
        with redis.Redis(port=port, password=password, retry=Retry(NoBackoff(), 0)) as client:
            let_in = bool(client.ping())
    except redis.AuthenticationError:
        let_in = False
    return {
        "redis_password": let_in,
        "orthanc_password": requests.get(orthanc, auth=("dcmproc", texts["orthanc_password"]), timeout=5).status_code,
        "orthanc_admin_password": requests.get(
            orthanc, auth=("admin", texts["orthanc_admin_password"]), timeout=5
        ).status_code,
        "hook_token": requests.post(
            f"{scheduler}/stable-study", json={}, headers=bearer("hook_token"), timeout=5
        ).status_code,
        "worker_token": requests.get(
            f"{scheduler}/api/v1/studies", headers=bearer("worker_token"), timeout=5
        ).status_code,
        "scheduler_token": requests.get(
            f"{scheduler}/api/v1/studies", headers=bearer("scheduler_token"), timeout=5
        ).status_code,
        "dashboard_password": requests.get(
            dashboard, auth=("admin", texts["dashboard_password"]), timeout=5
        ).status_code,
    }


# The worker's token is known, and not for this; the hook's request is let in, and names no study.
RIGHT = {**dict.fromkeys(SECRETS, 200), "redis_password": True, "worker_token": 403, "hook_token": 400}
WRONG = {**dict.fromkeys(SECRETS, 401), "redis_password": False}


class Reader:
    """Somebody logged in at the dashboard."""

    def __init__(self, stack: Stack) -> None:
        self._session = requests.Session()
        self._session.headers["Accept"] = "text/html"
        self._url = f"http://127.0.0.1:{stack.settings['DASHBOARD_PORT']}"
        token = re.search(r'name="csrf_token" value="([^"]+)"', self._session.get(f"{self._url}/login").text)
        assert token
        fields = {"csrf_token": token[1], "user": "admin", "password": stack.secret("dashboard_password")}
        assert self._session.post(f"{self._url}/login", data=fields, timeout=10).ok
        assert self.sees_studies()

    def sees_studies(self) -> bool:
        """Or is sent to the log-in."""
        return self._session.get(f"{self._url}/", allow_redirects=False, timeout=10).status_code == 200


class Watch:
    """Looks at the command lines of all processes until it is told to stop."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or ()))


def sent(stack: Stack, study: StudyFiles) -> bool:
    """As a scanner, which sends again what was not taken."""
    return stack.bash_cli("send", str(study.files[0].parent)).returncode == 0


def texts(stack: Stack) -> dict[str, str]:
    return {name: stack.secret(name) for name in SECRETS}


def test_rotating_all_seven_while_jobs_run(stack: Stack, tmp_path: Path) -> None:
    """Studies sent before, during and after finish; each server refuses the old text, takes the new, and shows none."""
    allowed, started = tmp_path / "allowed", tmp_path / "started"
    params = {"allowed": str(allowed), "started": str(started)}
    retry = {"max": 3, "interval": [1, 3, 5]}  # a function may ask Orthanc while it is away
    jobs = [{"jobName": name, "params": params, "retry": retry} for name in ("asks", "patient", "quick")]
    stack.install(tmp_path / "services", "rotated", jobs, work=ASKS)
    before, during, after = (make_study(tmp_path / name) for name in ("before", "during", "after"))
    old = texts(stack)
    assert statuses(stack, old) == RIGHT
    reader = Reader(stack)

    assert sent(stack, before)
    for job in ("asks", "patient"):
        wait_until(lambda job=job: Path(f"{started}-{job}").exists(), 60, f"{job} runs")
    wait_until(lambda: stack.states(before.study_id).get("quick") == "finished", 60, "quick has ended")
    scanner = threading.Thread(target=lambda: wait_until(lambda: sent(stack, during), 60, "the study is taken"))
    with Watch() as watch:
        scanner.start()
        done = stack.bash_cli("secret", "rotate")
        scanner.join()
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if "rotated" in line] == list(SECRETS)
    new = texts(stack)
    assert not set(old.values()) & set(new.values())
    assert statuses(stack, new) == RIGHT
    assert statuses(stack, old) == WRONG
    assert not reader.sees_studies()
    assert Reader(stack).sees_studies()

    allowed.touch()
    assert sent(stack, after)
    finished = dict.fromkeys(("asks", "patient", "quick"), "finished")
    for study in (before, during, after):
        assert stack.ended(study.study_id) == finished
    # The job that ran meanwhile had the old password: refused, and its retry had the new one.
    attempts = {
        job: (stack.results(before.study_id) / job / "attempt").read_text() for job in ("asks", "patient", "quick")
    }
    assert attempts == {"asks": "2", "patient": "1", "quick": "1"}
    orthanc_log = (stack.basedir / "logs" / "orthanc.log").read_text()
    assert f"study {after.study_id} is stable, the scheduler knows" in orthanc_log

    shown = {done.stdout, done.stderr, *watch.seen}
    shown |= {path.read_text(errors="replace") for path in (stack.basedir / "logs").rglob("*") if path.is_file()}
    for text in (*old.values(), *new.values()):
        assert not [place for place in shown if text in place]
    assert any("secret rotate" in line for line in watch.seen)


def test_a_rotation_that_was_killed_is_mended_by_the_next(stack: Stack) -> None:
    rotating = subprocess.Popen(
        [CHECKOUT / ".venv/bin/dcm-processor", "secret", "rotate", "orthanc_password", "orthanc_admin_password"],
        env={**os.environ, **stack.settings},
    )
    previous = stack.basedir / "secrets" / ".previous" / "orthanc_admin_password"
    wait_until(previous.exists, 30, "it has begun", every=0.001)
    rotating.kill()
    rotating.wait()
    before = texts(stack)
    assert stack.bash_cli("secret", "rotate").returncode == 0
    assert statuses(stack, texts(stack)) == RIGHT
    assert statuses(stack, before) == WRONG
    assert not previous.parent.exists()


def test_after_a_rotation_everything_stops_and_starts_as_ever(stack: Stack, tmp_path: Path) -> None:
    """Also after one that found nothing running."""
    programs = stack.programs()
    assert stack.bash_cli("secret", "rotate", "--json").returncode == 0
    assert stack.programs() == programs
    rotated = texts(stack)
    assert stack.down().returncode == 0
    stack.up("--scale", "worker=2")
    assert statuses(stack, rotated) == RIGHT
    assert stack.stack_json()["stableAge"] == 2

    stack.down()
    done = stack.bash_cli("secret", "rotate", "--json")
    assert {each["ending"] for each in json.loads(done.stdout)} == {"rotated"}
    again = texts(stack)
    stack.up("--scale", "worker=2")
    assert statuses(stack, again) == RIGHT
    assert statuses(stack, rotated) == WRONG

    study = make_study(tmp_path / "later")
    assert sent(stack, study)
    assert stack.ended(study.study_id)["quick"] == "finished"

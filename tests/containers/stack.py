"""A stack in containers, as its user has it: the scripts, DICOM from outside, and the command line in a container."""

import json
import os
import shutil
import subprocess
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from dcm_processor.settings import CHECKOUT
from tests.dicom import StudyFiles
from tests.servers import free_port
from tests.waiting import wait_until

OWNER = 12345
"""The user that the stacks of these tests belong to: as if started with sudo by somebody who is nobody here."""
SERVERS = ("orthanc", "redis", "scheduler", "controller", "dashboard")
YES = "def applies(**kwargs):\n    return True\n"
WRITES = """
import os, pathlib, socket
def work(jobName, output_dir, **kwargs):
    print("at work on", jobName)
    pathlib.Path(output_dir, "host.txt").write_text(socket.gethostname())
"""
LOOKS = """
import pathlib
def work(output_dir, **kwargs):
    pathlib.Path(output_dir, "status").write_text(pathlib.Path("/proc/self/status").read_text())
"""


class ContainerStack:
    """A BASEDIR, a project name and ports that nothing else uses, for the scripts of this checkout."""

    def __init__(self, folder: Path, name: str, **settings: str) -> None:
        self.folder = folder
        self.basedir = folder / "base dir"
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, OWNER, OWNER)
        ports = {key: str(free_port()) for key in ("DICOM_PORT", "ORTHANC_PORT", "DASHBOARD_PORT")}
        self.settings = {
            "BASEDIR": str(self.basedir),
            "COMPOSE_PROJECT_NAME": f"dcmproc-test-{os.getpid()}-{name}",  # one engine may test two checkouts at once
            "DICOM_BIND_ADDRESS": "127.0.0.1",
            "STABLE_AGE": "1",
            "SUDO_UID": str(OWNER),
            "SUDO_GID": str(OWNER),
            **ports,
            **settings,
        }

    # -- as its user

    def bash(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self._call(["bash", str(CHECKOUT / script), *arguments], env)

    def up(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = self.bash("run.sh", *arguments, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def fresh(self) -> None:
        """Up with four workers, no service installed."""
        if self.healthy() != {**dict.fromkeys(SERVERS, 1), "worker": 4}:
            self.up("--scale", "worker=4")
        self.remove_services()

    def healthy(self) -> Counter[str]:
        """How many containers of each service are well."""
        project = f"label=com.docker.compose.project={self.settings['COMPOSE_PROJECT_NAME']}"
        service = '{{.Label "com.docker.compose.service"}}'
        return Counter(docker("ps", "--filter=health=healthy", f"--filter={project}", "--format", service).split())

    def down(self) -> None:
        done = self.bash("run.sh", "--down")
        assert done.returncode == 0, done.stdout + done.stderr

    def cli(self, *arguments: str) -> Any:
        """What `docker compose exec scheduler dcm-processor … --json` says."""
        done = self.compose("exec", "-T", "scheduler", "dcm-processor", *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def send(self, study: StudyFiles) -> None:
        """By dcmtk's storescu, from outside of every container."""
        storescu = shutil.which("storescu")
        assert storescu is not None
        files = [str(file) for file in study.files]
        call = [storescu, "-aec", "DCMPROC", "127.0.0.1", self.settings["DICOM_PORT"], *files]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def install(
        self,
        name: str,
        jobs: Sequence[Mapping[str, Any]],
        work: str = WRITES,
        script: str | None = None,
        requirements: str = "",  # nothing: no minute is spent on a download
    ) -> subprocess.CompletedProcess[str]:
        source = self.folder / "services" / name
        shutil.rmtree(source, ignore_errors=True)
        (source / "registry").mkdir(parents=True)
        (source / "module").mkdir()
        entries = [{"worker": f"{name}.work", "callback": f"{name}.applies", **job} for job in jobs]
        (source / "registry" / "settings.json").write_text(json.dumps(entries))
        (source / "registry" / "__init__.py").write_text(YES)
        (source / "module" / "__init__.py").write_text(textwrap.dedent(work))
        (source / "module" / "requirements.txt").write_text(requirements)
        if script is not None:
            (source / "module" / "script.sh").write_text(script)
        done = self.bash("service.sh", "install", name, "-p", str(source))
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def remove_services(self) -> None:
        """What stands in the registry; asking for a list would cost each test another command in a container."""
        for name in [place.name for place in (self.basedir / "registry").glob("[!.]*")]:
            done = self.bash("service.sh", "remove", name)
            assert done.returncode == 0, done.stderr

    def ended(self, study: StudyFiles, seconds: float = 120) -> dict[str, Any]:
        """The study once all its jobs have ended."""
        return wait_until(lambda: self._ended(study), seconds, f"the jobs of {study.study_id}", every=0.5)

    def finished(self, study: StudyFiles, seconds: float = 120) -> dict[str, Any]:
        """The same, and every job finished."""
        found = self.ended(study, seconds)
        states = {(job["jobName"], job["state"], job["reason"]) for job in found["plans"][0]["jobs"]}
        assert {state for _, state, _ in states} == {"finished"}, states
        return found

    def results(self, study: StudyFiles) -> Path:
        return self.basedir / "data" / "results" / study.study_id

    def started(self, study: StudyFiles) -> int:
        """How many jobs of the study run, or have run."""
        found = self._planned(study)
        return sum(job["state"] in ("started", "finished") for job in found["plans"][0]["jobs"]) if found else 0

    def _ended(self, study: StudyFiles) -> dict[str, Any] | None:
        found = self._planned(study)
        return found if found and found["plans"][0]["endedAt"] else None

    def _planned(self, study: StudyFiles) -> dict[str, Any] | None:
        """The study, once there is a plan."""
        found = self._study(study.study_id)
        return found if found and found["plans"] else None

    def _study(self, study_id: str) -> dict[str, Any] | None:
        """As the scheduler tells it, asked from here: a command in a container would take a core for a second."""
        token = (self.basedir / "secrets" / "scheduler_token").read_text().strip()
        (scheduler,) = self.containers("scheduler")
        (network,) = self.inspect(scheduler)["NetworkSettings"]["Networks"].values()
        address = f"http://{network['IPAddress']}:5000/api/v1/studies/{study_id}"
        answer = requests.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        study: dict[str, Any] = answer.json()
        return study

    # -- as Docker sees it

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._call(["docker", "compose", "--project-directory", str(CHECKOUT), *arguments])

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers that run."""
        labels = {"project": self.settings["COMPOSE_PROJECT_NAME"], "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        return docker("ps", "--quiet", *filters).split()

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", container))[0]
        return found

    def _call(self, arguments: list[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments,
            env={**os.environ, **self.settings, **(env or {})},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def engine_answers() -> bool:
    """Whether there is a Docker engine, with Compose v2."""
    if shutil.which("docker") is None:
        return False
    calls = (["docker", "info"], ["docker", "compose", "version"])
    return all(subprocess.run(call, capture_output=True, timeout=30, check=False).returncode == 0 for call in calls)

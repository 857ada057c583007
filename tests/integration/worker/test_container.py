"""What a worker's container starts with: root runs scripts, then nobody of it is root or can become it.

With the capabilities that docker-compose.worker.yml leaves a container, on this machine; in real containers it is
tests/containers that looks.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.settings import CHECKOUT
from dcm_processor.store import Store
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import Stand, gone
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from worker.container import dropped
from worker.scripts import Owner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="as root only: a worker's container starts as root")

STATUS = """
import json, os
from pathlib import Path
def work(output_dir, params, **kwargs):
    print(Path("/proc/self/status").read_text())
    for file in Path(params["scripts"]).glob("*.json"):
        try:
            file.write_text("{}")
        except PermissionError:
            print("REFUSED", file)
"""
NOBODY = 65534


class Container(Stand):
    """A stand whose workers start as a container's do."""

    def __init__(self, base: Path, valkey: ValkeyServer, owner: Owner) -> None:
        super().__init__(base, valkey, base.parent / "envs")
        self.scripts = base.parent / "scripts"
        self.owner = owner
        self.environ |= {
            "MODE": "containers",
            "SCRIPTS": str(self.scripts),
            "WORKER_UID": str(owner.uid),
            "WORKER_GID": str(owner.gid),
            "HOME": str(base),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.settings = self.settings.model_copy(update={"MODE": "containers", "SCRIPTS": self.scripts})

    def install(self, script: str, name: str = "svc") -> str:
        source = self.base.parent / "sources" / name
        for part in ("registry", "module"):
            (source / part).mkdir(parents=True, exist_ok=True)
        job = {"jobName": name, "worker": f"{name}.job.work", "callback": f"{name}.c.asks"}
        (source / "registry" / "settings.json").write_text(json.dumps(job))
        for file, text in (("script.sh", script), ("job.py", STATUS), ("requirements.txt", "")):
            (source / "module" / file).write_text(text)
        digest = Store.of(self.settings).install(name, source).digest
        self.give()
        return digest

    def give(self) -> None:
        """Have all below belong to the user, as run.sh's does."""
        for folder, folders, files in os.walk(self.base.parent):
            for name in (".", *folders, *files):
                os.chown(Path(folder, name), self.owner.uid, self.owner.gid, follow_symlinks=False)

    def start_container(self, *before: str) -> subprocess.Popen[bytes]:
        """Start what Dockerfile.worker names, with a container's capabilities."""
        [granted] = re.findall(r"cap_add: \[(.*)\]", (CHECKOUT / "docker-compose.worker.yml").read_text())
        allowed = ",".join(f"+{name.lower()}" for name in granted.split(", "))
        confine = ["setpriv", f"--bounding-set=-all,{allowed}", "--inh-caps=-all", "--no-new-privs", "--"]
        with (self.base / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [*before, *confine, sys.executable, "-m", "worker.container"],
                cwd=CHECKOUT, env=self.environ, stdout=log, stderr=log,
            )  # fmt: skip
        self.workers.append(worker)
        return worker


@pytest.fixture(params=[0, NOBODY], ids=["root", "nobody"])
def container(request: pytest.FixtureRequest, valkey: ValkeyServer) -> Iterator[Container]:
    """Of a user who is root, and of one who is not; in a folder that both can reach."""
    owner = Owner(request.param, request.param)
    if owner.uid != 0:
        reach = dropped(owner, [sys.executable, "-c", "import worker.worker"])
        if subprocess.run(reach, cwd=CHECKOUT, capture_output=True, check=False).returncode != 0:
            pytest.skip("another user cannot reach this checkout and its Python")
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "envs").mkdir()
        container = Container(Path(folder) / "base", valkey, owner)
        container.give()
        try:
            yield container
        finally:
            container.close()
            shutil.rmtree(container.base / "modules", ignore_errors=True)


def powerless(status: str, owner: Owner) -> None:
    """What /proc/<pid>/status says of a process that is that user and can become nothing else."""
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert found["Uid"].split() == [str(owner.uid)] * 4
    assert found["Gid"].split() == [str(owner.gid)] * 4
    assert found["Groups"].split() == []
    assert {found[f"Cap{kind}"].strip() for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert found["NoNewPrivs"].strip() == "1"


@pytest.mark.parametrize("owner", [Owner(NOBODY, 65533), Owner(0, 0)], ids=["nobody", "root"])
def test_nothing_is_left_after_the_drop(owner: Owner) -> None:
    done = subprocess.run(dropped(owner, ["/bin/cat", "/proc/self/status"]), capture_output=True, text=True, check=True)
    powerless(done.stdout, owner)


def test_scripts_run_as_root_and_the_worker_and_its_jobs_without_any_power(container: Container) -> None:
    made = container.base.parent / "made"
    version = container.install(f"id -u > {made}; chown 3:3 {made}; echo $HOME; env | grep -i -e secret -e password")
    worker = container.start_container()
    container.enqueue(digest=version, params={"scripts": str(container.scripts)})
    # The script's last command found nothing, and so ended with 1: the job says so.
    assert container.outcome().exitReason is ExitReason.ENVIRONMENT
    assert made.read_text() == "0\n"
    assert (made.stat().st_uid, made.stat().st_gid) == (3, 3)
    [log] = container.scripts.glob("svc-*.log")
    assert log.read_text() == "/root\n"
    powerless(Path(f"/proc/{worker.pid}/status").read_text(), container.owner)


def test_a_job_has_no_power_and_cannot_say_how_scripts_ended(container: Container) -> None:
    version = container.install("mkdir left; touch left/behind")
    container.start_container()
    container.enqueue(digest=version, params={"scripts": str(container.scripts)})
    assert container.outcome().exitReason is ExitReason.DONE
    powerless(container.log(), container.owner)
    if container.owner.uid != 0:
        assert "REFUSED" in container.log()
    left = Store.of(container.settings).module_folder("svc", version) / "left"
    assert {path.stat().st_uid for path in (left, left / "behind")} == {container.owner.uid}


def test_a_new_script_waits_for_the_containers_next_start(container: Container) -> None:
    made = container.base.parent / "made"
    worker = container.start_container()
    container.logged("serving")
    version = container.install(f"id -u > {made}")
    assert worker.wait(20) == 0
    assert not made.exists()
    container.start_container()
    container.enqueue(digest=version, params={"scripts": str(container.scripts)})
    assert container.outcome().exitReason is ExitReason.DONE
    assert made.read_text() == "0\n"


@pytest.mark.parametrize("moment", ["script", "serving"])
def test_the_first_process_of_a_container_can_be_stopped_at_any_time(container: Container, moment: str) -> None:
    """The kernel keeps signals from it that it did not ask for."""
    own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let the test make a PID namespace")
    begun = container.base.parent / "begun"
    container.install(f"touch {begun}; sleep {600 if moment == 'script' else 0}")
    outer = container.start_container(*own)
    wait_until(begun.exists, 15)
    first = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
    if moment == "serving":  # asked while it is about to become the worker, or has just done so
        container.logged("the script.sh ran well")
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: gone(first), 20, "it ends")
    assert outer.wait(10) == (143 if moment == "script" else 0)


def test_without_a_user_to_become_it_does_not_start(valkey: ValkeyServer, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "MODE": "containers", "BASEDIR": str(tmp_path), "REDIS_URL": valkey.url}
    environ["SCRIPTS"] = str(tmp_path / "scripts")
    command = [sys.executable, "-m", "worker.container"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "WORKER_UID and WORKER_GID" in done.stderr
    assert not (tmp_path / "scripts").exists()

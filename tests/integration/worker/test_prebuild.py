"""Environments built by a worker before any job needs them, and how the command line shows that."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.environments.environment_key import recipe
from dcm_processor.environments.environment_state import Failed, state_of
from dcm_processor.settings import CHECKOUT, Settings
from dcm_processor.store import Store
from tests.integration.worker.conftest import Stand, gone
from tests.waiting import wait_until
from tests.wheels import make_wheel
from worker import prebuild
from worker.prebuild import build, is_missing, wanted
from worker.scripts import Scripts

OFFLINE = {"UV_OFFLINE": "1"}
SLOW = "import time, pathlib, os\npathlib.Path({pid!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"


@pytest.fixture
def site(stand: Stand, tmp_path: Path) -> Stand:
    """A stand with environments of its own, and a folder of wheels for all it needs."""
    (stand.base / "envs").unlink()
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "tiny_one", "VALUE = 1\n")
    stand.environ |= {"WHEEL_DIR": str(wheels), **OFFLINE}
    stand.settings = stand.settings.model_copy(update={"WHEEL_DIR": wheels})
    return stand


def source(folder: Path, requirements: str, name: str = "svc", **job: Any) -> Path:
    settings = {"jobName": name, "worker": f"{name}.work", "callback": f"{name}.ask", **job}
    for path, text in {
        "registry/settings.json": json.dumps(settings),
        "registry/ask.py": "def ask(): return True\n",
        "module/work.py": "def work(): pass\n",
        "module/requirements.txt": requirements,
    }.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)
    return folder / name


def cli(stand: Stand, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcm_processor.cli", *map(str, arguments)],
        cwd=CHECKOUT, env=stand.environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def listed(stand: Stand) -> dict[str, Any]:
    (service,) = json.loads(cli(stand, "service", "list", "--json").stdout)
    return dict(service["environment"])


def test_an_install_waits_until_a_worker_has_built_the_environment(site: Stand, tmp_path: Path) -> None:
    """No job was there; the first one finds it ready."""
    site.start()
    site.logged("serving")
    done = cli(site, "service", "install", "svc", "-p", source(tmp_path, "tiny-one\n"), "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert listed(site)["state"] == "ready"
    built = site.logged("built an environment")
    assert built["environment"] == listed(site)["key"]
    digest = Store.of(site.settings).current()["svc"]
    site.enqueue(worker="svc.work.work", digest=digest)
    assert site.outcome().details["environment"] == built["environment"]
    assert "building the service's environment" not in site.log()


def test_an_install_shows_why_an_environment_cannot_be_built(site: Stand, tmp_path: Path) -> None:
    """With the end of uv's log, and exit status 1; the service is installed, and installing it again tries again."""
    site.start()
    site.logged("serving")
    done = cli(site, "service", "install", "svc", "-p", source(tmp_path, "tiny-two\n"), "--wait")
    assert done.returncode == 1
    assert "service svc is installed, and its environment cannot be built: No solution found" in done.stderr
    assert "tiny-two was not found" in done.stderr
    state = listed(site)
    assert (state["state"], state["reason"].partition(":")[0]) == (
        "failed",
        "No solution found when resolving dependencies",
    )
    make_wheel(tmp_path / "wheels", "tiny_two", "VALUE = 2\n")
    done = cli(site, "service", "install", "svc", "-p", tmp_path / "svc", "--wait")
    assert (done.returncode, done.stderr) == (0, "")


def test_where_no_worker_runs_nobody_waits(site: Stand, tmp_path: Path) -> None:
    done = cli(site, "service", "install", "svc", "-p", source(tmp_path, "tiny-one\n"), "--wait")
    assert done.returncode == 0
    assert "the environment of svc is not built yet: no worker runs on this host" in done.stderr
    assert listed(site)["state"] == "none"


def test_nobody_waits_for_what_no_job_will_need(site: Stand, tmp_path: Path) -> None:
    """Workers do not build it."""
    site.start()
    site.logged("serving")
    folder = source(tmp_path, "tiny-one\n", disabled=True, pythonVersion="3.99")
    done = cli(site, "service", "install", "svc", "-p", folder, "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    (service,) = json.loads(cli(site, "service", "list", "--json").stdout)
    assert service["environment"] is None


def test_a_python_that_is_not_here_is_told_at_the_install(site: Stand, tmp_path: Path) -> None:
    """Without a worker to build: as a warning, since its host may have it."""
    folder = source(tmp_path, "", pythonVersion="3.99")
    done = cli(site, "service", "install", "svc", "-p", folder)
    assert done.returncode == 0
    assert "warning: service svc: Python 3.99, which pythonVersion" in done.stderr
    site.start()
    site.logged("serving")
    done = cli(site, "service", "install", "svc", "-p", folder, "--wait")
    assert done.returncode == 1
    assert "cannot be built: Python 3.99" in done.stderr


def slow(folder: Path, pid: Path) -> Path:
    """A service whose package is built for ten minutes."""
    made = source(folder, "./package\n")
    (made / "module" / "package").mkdir()
    (made / "module" / "package" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\nversion = "1.0"\n'
    )
    (made / "module" / "package" / "slow.py").write_text(SLOW.format(pid=str(pid)))
    return made


def test_a_build_goes_on_beside_jobs_and_ends_with_its_worker(site: Stand, tmp_path: Path) -> None:
    """With low priority; the worker runs other jobs meanwhile, also where one of them kills its work-horse."""
    pid = tmp_path / "pid"
    installed = Store.of(site.settings).install("svc", slow(tmp_path, pid))
    worker = site.start()
    wait_until(pid.exists, 30, "the package is being built")
    builder = int(wait_until(pid.read_text, 10, "its process"))
    assert os.getpriority(os.PRIO_PROCESS, builder) == 10
    module = Store.of(site.settings).module_folder("svc", installed.digest)
    key = recipe(site.settings, module, installed.digest).key
    assert state_of(site.settings.envs, key).state == "building"
    site.service("import os, signal\ndef work():\n    pass\n", name="other")
    site.enqueue("job-1", worker="other.job.work")
    assert site.outcome("job-1").exitReason == "done"
    site.service(
        f"import os, signal\ndef work():\n    os.kill({worker.pid}, 0)\n    horse = os.getppid()\n"
        "    horse = int(open(f'/proc/{horse}/stat').read().rpartition(')')[2].split()[1])\n"
        "    os.kill(horse, signal.SIGKILL)\n    import time; time.sleep(60)\n",
        name="kills",
    )
    site.enqueue("job-2", worker="kills.job.work")
    assert site.outcome("job-2").exitReason == "lost"
    wait_until(lambda: gone(builder), 20, "the build has ended with the horse's funeral")
    wait_until(lambda: pid.read_text() not in ("", str(builder)), 60, "it has begun anew")
    again = int(pid.read_text())
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)
    wait_until(lambda: gone(again), 20, "nothing of the build lives on")
    assert state_of(site.settings.envs, key).state == "none"


def test_several_workers_build_once(site: Stand, tmp_path: Path) -> None:
    Store.of(site.settings).install("svc", source(tmp_path, "tiny-one\n"))
    for _ in range(3):
        site.start()
    site.logged("built an environment", 60)
    for worker in site.workers:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    assert [line["message"] for line in site.worker_log()].count("built an environment") == 1


# -- what is built, and when again


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_wheel(tmp_path / "wheels", "tiny_one", "VALUE = 1\n")
    return Settings(BASEDIR=tmp_path / "base", WHEEL_DIR=tmp_path / "wheels")


@pytest.fixture
def install(settings: Settings, tmp_path: Path) -> Callable[..., str]:
    return lambda requirements, name="svc", **job: (
        Store.of(settings).install(name, source(tmp_path, requirements, name, **job)).digest
    )


def test_what_no_job_will_need_is_not_built(settings: Settings, install: Callable[..., str]) -> None:
    store = Store.of(settings)
    install("tiny-one\n", "on")
    install("tiny-one<2\n", "off")
    install("tiny-one<3\n", "without", disabled=True)
    store.disable("off")
    assert [each.service for each in wanted(settings, store)] == ["on"]
    store.enable("off")
    assert [each.service for each in wanted(settings, store)] == ["off", "on"]


def test_a_script_runs_before_the_environment_is_built(settings: Settings, tmp_path: Path) -> None:
    """It may bring the libraries that packages are compiled against. One that fails leaves nothing to build."""
    folder = source(tmp_path, "tiny-one\n")
    (folder / "module" / "script.sh").write_text("exit 0\n")
    running = settings.model_copy(update={"RUN_SCRIPTS": True})
    store = Store.of(running)
    store.install("svc", folder)
    assert not list(wanted(running, store))
    Scripts(running).run_missing(dict(os.environ))
    assert [each.service for each in wanted(running, store)] == ["svc"]
    (folder / "module" / "script.sh").write_text("exit 1\n")
    store.install("svc", folder)
    Scripts(running).run_missing(dict(os.environ))
    assert not list(wanted(running, store))
    assert [each.service for each in wanted(settings, store)] == ["svc"]  # where none is run


def test_what_cannot_be_built_keeps_nothing_else_from_being_built(
    settings: Settings, install: Callable[..., str]
) -> None:
    """And is tried again where it may pass, after a while."""
    install("no-such-package\n", "bad")
    install("tiny-one\n", "good")
    store = Store.of(settings)
    build(settings, {**os.environ, **OFFLINE}, store)
    bad, good = wanted(settings, store)
    assert state_of(settings.envs, good.key).state == "ready"
    assert not is_missing(settings.envs, bad.key)
    for seconds, again in ((1.0, False), (prebuild.RETRY_SECONDS + 1, True), (-1e6, True)):
        Failed("away", passing=True, at=time.time() - seconds).write(settings.envs, bad.key)
        assert is_missing(settings.envs, bad.key) is again
    shutil.rmtree(settings.envs / good.key)
    assert is_missing(settings.envs, good.key)

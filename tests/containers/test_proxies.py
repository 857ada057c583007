"""Sites without a way out (docs/containers.md).

Builds of images and environments, script.sh and jobs behind a proxy that opens TLS; a mirror of PyPI that wants a
password; a folder of wheels; a base image of one's own.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pip._internal.models.index import PyPI

from dcm_processor.settings import CHECKOUT
from tests.containers.conftest import StackMaker
from tests.containers.proxy import IMAGE, Proxy, debian, hosts
from tests.containers.stack import ContainerStack, docker
from tests.containers.tls_proxy import MIRROR_PASSWORD, PASSWORD
from tests.dicom import make_study
from tests.wheels import make_wheel

PROJECT = f"dcmproc-test-{os.getpid()}-proxies"
SCHEDULER, WORKER, BASE = (f"{PROJECT}-{name}" for name in ("scheduler", "worker", "base"))
ALIAS = "proxy.test"
CLOSED = f"""
services:
  worker: {{networks: !override {{inside: {{}}}}}}
  worker-without:
    extends: {{file: {CHECKOUT}/docker-compose.worker.yml, service: worker}}
    networks: [inside]
    environment:  # what nothing answers is not asked again: it builds the same environments as the other worker
      {{HTTP_PROXY: "", HTTPS_PROXY: "", PIP_INDEX_URL: "", WORKER_QUEUES: low, UV_HTTP_RETRIES: "0"}}
"""
SCRIPT = """\
set -e
[ -n "$https_proxy" ] || exit 0
sed -i 's,http://,https://,' $(ls /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null)
apt-get -qq update
apt-get -qq install -y --no-install-recommends hello
python3 -m pip download --quiet --no-deps --dest /tmp/pip idna==3.10
"""
ASKS = f"""
import pathlib, subprocess, urllib.request
import six
def work(output_dir, **kwargs):
    subprocess.run(["hello"], check=True)
    with urllib.request.urlopen("{PyPI.simple_url}/colorama/") as answer:
        answer.read()
"""
USES = """
import only_in_the_folder
def work(**kwargs):
    assert only_in_the_folder.VALUE == 1
"""


@pytest.fixture(scope="module")
def proxy(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    running = Proxy(tmp_path_factory.mktemp("proxy"))
    yield running
    running.stop()


@pytest.fixture
def site(tmp_path: Path) -> "Site":
    return Site(tmp_path / "checkout")


class Site:
    """A checkout whose builds reach no index but through a proxy."""

    def __init__(self, folder: Path) -> None:
        ignored = shutil.ignore_patterns(".git", ".venv", ".env.local", ".*_cache", "__pycache__", "basedir", "tests")
        shutil.copytree(CHECKOUT, folder, ignore=ignored)
        closed = {"build": {"extra_hosts": dict.fromkeys(hosts(), "127.0.0.1")}}
        (folder / "closed.yml").write_text(json.dumps({"services": {"scheduler": closed, "worker": closed}}))
        self.folder = folder

    def build(self, image: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """What `bash build.sh` does with nothing in any cache."""
        chosen = {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": f"{self.folder}/docker-compose.yml:{self.folder}/closed.yml",
            "SCHEDULER_IMAGE": SCHEDULER,
            "WORKER_IMAGE": WORKER,
            **settings,
        }
        (self.folder / ".env.local").write_text("".join(f"{key}={value}\n" for key, value in chosen.items()))
        call = ["bash", "build.sh", "--no-cache", "--build-arg", f"BUILDKIT_CACHE_MOUNT_NS={self.folder}", image]
        env = {key: value for key, value in os.environ.items() if key not in chosen}
        return subprocess.run(call, cwd=self.folder, env=env, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def worker_image(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Built through the proxy, from the mirror, on another base image; gives what build.sh printed."""
    folder = tmp_path_factory.mktemp("behind")
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nLABEL base=another\n")
    docker("build", "--quiet", "--tag", BASE, str(folder))
    done = Site(folder / "checkout").build(
        "worker", HTTP_PROXY=proxy.url(), HTTPS_PROXY=proxy.url(), EXTRA_CA_FILE=str(proxy.authority),
        PIP_INDEX_URL=proxy.mirror, BASE_IMAGE=BASE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    yield done.stdout + done.stderr
    docker("image", "rm", "--force", *docker("images", "--quiet", "--filter", f"reference={PROJECT}-*").split())


def test_an_image_is_built_through_the_proxy_from_a_mirror_on_another_base(proxy: Proxy, worker_image: str) -> None:
    seen = proxy.seen()
    for package in ("uv", "rq", "setuptools"):  # by pip; by uv; for the project itself
        assert f"GET https://mirror.test/simple/{package}/ 200" in seen
        assert [line for line in seen if line.startswith("GET https://files") and f"/{package}-" in line]
    assert not [line for line in seen if f"//{PyPI.netloc}" in line]
    assert docker("inspect", "--format", "{{.Config.Labels.base}}", WORKER).strip() == "another"


def test_no_password_of_proxy_or_mirror_stays_in_the_image(worker_image: str) -> None:
    told = worker_image + docker("inspect", WORKER) + docker("history", "--no-trunc", WORKER)
    look = f"grep -rlE '{PASSWORD}|{MIRROR_PASSWORD}' /app /root /tmp /etc /var || true"
    found = docker("run", "--rm", WORKER, "sh", "-c", look)
    assert PASSWORD not in told
    assert MIRROR_PASSWORD not in told
    assert not found


def test_an_image_is_built_from_a_folder_of_wheels_where_nothing_is_reached(
    proxy: Proxy, worker_image: str, site: Site
) -> None:
    """The lock is the same for both images, so the folder holds what the proxy handed out for the other one."""
    before = proxy.seen()
    shutil.copytree(proxy.wheels, site.folder / "wheels of ours")
    done = site.build("scheduler", WHEEL_DIR="./wheels of ours")
    assert done.returncode == 0, done.stdout + done.stderr
    assert proxy.seen() == before


def test_a_build_that_does_not_trust_the_proxy_says_what_to_do(proxy: Proxy, site: Site) -> None:
    done = site.build("worker", HTTP_PROXY=proxy.url(), HTTPS_PROXY=proxy.url())
    assert done.returncode != 0
    assert "name it by EXTRA_CA_FILE in .env.local" in done.stdout + done.stderr
    assert [line for line in proxy.seen() if line.startswith(f"REFUSED {PyPI.netloc}:443")]


def test_where_env_names_no_proxy_that_of_docker_s_own_configuration_holds(make_stack: StackMaker) -> None:
    """Compose takes it from ~/.docker/config.json, unless an argument of the build says something, be it nothing."""
    for env, passed in (({}, {}), ({"HTTPS_PROXY": "http://proxy:3128"}, {"HTTPS_PROXY": "http://proxy:3128"})):
        stack = make_stack("proxies-config", **env)
        stack.basedir.mkdir(parents=True, exist_ok=True)
        services = json.loads(stack.compose("config", "--format", "json").stdout)["services"]
        for service in ("scheduler", "worker"):
            args = services[service]["build"]["args"]
            assert {key: value for key, value in args.items() if key != "BASE_IMAGE"} == passed


@pytest.fixture(scope="module")
def stack(proxy: Proxy, worker_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerStack]:
    """One worker reaches the platform and the proxy; another, for the queue `low`, the platform alone."""
    folder = tmp_path_factory.mktemp("stack")
    (folder / "closed.yml").write_text(CLOSED)
    wheels = folder / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "only_in_the_folder", "VALUE = 1\n")
    made = ContainerStack(
        folder, "proxies", WORKER_IMAGE=WORKER, COMPOSE_FILE=f"{CHECKOUT}/docker-compose.yml:{folder}/closed.yml",
        HTTP_PROXY=proxy.url(ALIAS), HTTPS_PROXY=proxy.url(ALIAS), EXTRA_CA_FILE=str(proxy.authority),
        PIP_INDEX_URL=proxy.mirror, WHEEL_DIR=str(wheels), WORKER_QUEUES="high default medium",
    )  # fmt: skip
    network = f"{made.settings['COMPOSE_PROJECT_NAME']}_inside"
    try:
        made.up()
        docker("network", "connect", "--alias", ALIAS, network, proxy.container)
        yield made
        docker("network", "disconnect", network, proxy.container)
    finally:
        made.down()


@pytest.fixture(scope="module")
def jobs(stack: ContainerStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How the jobs of a study ended, by name."""
    stack.install("asks", [{"jobName": "asks"}], ASKS, SCRIPT, "six==1.17.0\n")
    stack.install("lacking", [{"jobName": "lacking"}], requirements="no-such-package-anywhere-at-all\n")
    stack.install("folder", [{"jobName": "folder", "priority": "low"}], USES, requirements="only-in-the-folder\n")
    study = make_study(tmp_path_factory.mktemp("study"))
    stack.send(study)
    return {job["jobName"]: job for job in stack.ended(study, 240)["plans"][0]["jobs"]}


def test_environments_scripts_and_jobs_use_the_proxy_and_trust_it(
    proxy: Proxy, jobs: dict[str, dict[str, Any]]
) -> None:
    assert jobs["asks"]["state"] == "finished", jobs["asks"]
    seen = proxy.seen()
    for url in ("mirror.test/simple/six/", "mirror.test/simple/idna/", f"{PyPI.netloc}/simple/colorama/"):
        assert f"GET https://{url} 200" in seen  # the environment, the script, the job
    assert [line for line in seen if line.startswith(f"GET https://{debian()}/") and "/hello_" in line]
    assert not [line for line in seen for ours in ("orthanc", "scheduler", "redis") if f"//{ours}" in line]


def test_an_environment_is_built_from_a_folder_of_wheels_where_nothing_is_reached(
    proxy: Proxy, jobs: dict[str, dict[str, Any]]
) -> None:
    assert jobs["folder"]["state"] == "finished", jobs["folder"]
    assert not [line for line in proxy.seen() if "only" in line and line.endswith(" 200")]  # the lock asked in vain


def test_the_passwords_of_mirror_and_proxy_are_told_to_nobody(
    stack: ContainerStack, jobs: dict[str, dict[str, Any]]
) -> None:
    """Above all where uv says what the mirror lacks."""
    assert "no-such-package-anywhere-at-all" in jobs["lacking"]["reason"], jobs["lacking"]
    told = [json.dumps(jobs), stack.compose("logs").stdout]
    told += [file.read_text() for file in stack.basedir.rglob("*.log")]
    assert len(told) > 6
    assert not [text for text in told if MIRROR_PASSWORD in text or PASSWORD in text]

"""Workers on another host: its network meets the first one's at Redis, scheduler and Orthanc alone, over TLS."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.settings import CHECKOUT
from tests.containers.conftest import StackMaker
from tests.containers.stack import OWNER, ContainerStack, docker
from tests.dicom import make_study
from tests.servers import free_port
from tests.waiting import wait_until

JOBS = [
    {"jobName": "far", "level": "series", "priority": "low"},
    {"jobName": "near", "dependsOn": "far"},
    {"jobName": "far-again", "dependsOn": "near", "priority": "low"},
]
SCRIPT_OF_EACH = """
import pathlib, socket
def folders(found):
    for folder in found.values():
        yield from folders(folder) if isinstance(folder, dict) else [pathlib.Path(folder)]
def work(jobName, dicom_dir, output_dir, inputs, **kwargs):
    print("the log of", jobName)
    came = sorted((folder / "host.txt").read_text() for folder in folders(inputs))
    files = len(list(pathlib.Path(dicom_dir).rglob("*.dcm")))
    pathlib.Path(output_dir, "host.txt").write_text(socket.gethostname())
    pathlib.Path(output_dir, "came.json").write_text(__import__("json").dumps([files, came]))
"""


@pytest.fixture
def first(make_stack: StackMaker) -> ContainerStack:
    """The first host: serves every queue but `low`."""
    ports = {key: str(free_port()) for key in ("REDIS_TLS_PORT", "SCHEDULER_TLS_PORT", "ORTHANC_TLS_PORT")}
    stack = make_stack(
        "first", TLS_NAMES="redis-of-head gateway-of-head", WORKER_QUEUES="high default medium",
        HOSTS_BIND_ADDRESS="127.0.0.1", **ports,
    )  # fmt: skip
    stack.up("-f", str(CHECKOUT / "docker-compose.hosts.yml"))
    return stack


@pytest.fixture
def other(first: ContainerStack, make_stack: StackMaker) -> Iterator[ContainerStack]:
    """The other host: its containers are on a network of their own."""
    stack = make_stack(
        "other", WORKER_QUEUES="low", REDIS_HOST="redis-of-head", REDIS_PORT="6380", REDIS_TLS="true",
        SCHEDULER_HOST="gateway-of-head", SCHEDULER_PORT="5443", SCHEDULER_TLS="true",
        ORTHANC_REST_URL="https://gateway-of-head:8443", EXTRA_CA_FILE=str(first.basedir / "tls" / "server.crt"),
    )  # fmt: skip
    secrets = stack.basedir / "secrets"
    secrets.mkdir(parents=True)
    for name in ("redis_password", "orthanc_password", "worker_token"):
        shutil.copy(first.basedir / "secrets" / name, secrets / name)
    for path in (stack.basedir, secrets, *secrets.iterdir()):
        shutil.chown(path, OWNER, OWNER)
    network = f"{stack.settings['COMPOSE_PROJECT_NAME']}_default"
    docker("network", "create", "--label", f"com.docker.compose.project={stack.settings['COMPOSE_PROJECT_NAME']}",
           "--label", "com.docker.compose.network=default", network)  # fmt: skip
    for service, alias in (("redis", "redis-of-head"), ("gateway", "gateway-of-head")):
        (container,) = first.containers(service)
        docker("network", "connect", "--alias", alias, network, container)
    yield stack
    for service in ("redis", "gateway"):
        for container in first.containers(service):
            docker("network", "disconnect", "--force", network, container)
    stack.bash("run.sh", "--workers-only", "--down")


def test_a_plan_runs_on_two_hosts_that_share_nothing(
    first: ContainerStack, other: ContainerStack, tmp_path: Path
) -> None:
    other.up("--workers-only", "--scale", "worker=2")
    far = {docker("inspect", "--format", "{{.Config.Hostname}}", each).strip() for each in other.containers("worker")}
    assert len(far) == 2
    first.install("spread", JOBS, SCRIPT_OF_EACH)
    study = make_study(tmp_path, ({"Modality": "MR", "instances": 3}, {"Modality": "MR", "instances": 2}))
    first.send(study)
    first.finished(study, 240)
    results = first.results(study)
    far_hosts = [file.read_text() for file in sorted(results.glob("far/*/host.txt"))]
    near_host = (results / "near" / "host.txt").read_text()
    assert set(far_hosts) <= far
    assert near_host not in far
    assert (results / "far-again" / "host.txt").read_text() in far
    assert sorted(json.loads(file.read_text())[0] for file in results.glob("far/*/came.json")) == [2, 3]
    assert json.loads((results / "near" / "came.json").read_text()) == [5, sorted(far_hosts)]
    assert json.loads((results / "far-again" / "came.json").read_text()) == [5, [near_host]]

    def logs() -> str:
        return "".join(file.read_text() for file in (first.basedir / "logs" / "jobs").rglob("*.log"))

    for job in JOBS:
        wait_until(lambda job=job: f"the log of {job['jobName']}\n" in logs(), 20, "the log of each has come")
    assert not (other.basedir / "data" / "results").exists()


def test_without_its_secrets_a_host_says_which_are_missing(make_stack: StackMaker) -> None:
    stack = make_stack("bare", REDIS_HOST="head.example.org", SCHEDULER_HOST="head.example.org")
    done = stack.bash("run.sh", "--workers-only")
    assert done.returncode == 1
    assert "redis_password, orthanc_password, worker_token: copy them" in done.stderr


def test_a_gpu_worker_asks_for_nvidia_devices_and_serves_the_queue_gpu(make_stack: StackMaker) -> None:
    stack = make_stack("gpu")
    stack.basedir.mkdir(parents=True)
    for base in ("docker-compose.yml", "docker-compose.worker.yml"):
        done = stack.compose("-f", base, "-f", "docker-compose.gpu.yml", "config", "--format", "json")
        assert done.returncode == 0, done.stderr
        worker = json.loads(done.stdout)["services"]["worker-gpu"]
        (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert worker["environment"]["WORKER_QUEUES"] == "gpu"

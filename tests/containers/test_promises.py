"""What docs/containers.md promises of each container: users, capabilities, mounts, secrets, sockets, limits, sizes."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.containers.stack import LOOKS, OWNER, SERVERS, ContainerStack, docker
from tests.dicom import make_study

OURS = (*SERVERS, "worker")
SECRETS = {
    "orthanc": {"orthanc_json", "hook_token"},
    "redis": {"redis_conf", "redis_password"},
    "scheduler": {"redis_password", "orthanc_password", "hook_token", "worker_token", "scheduler_token"},
    "controller": {"redis_password", "orthanc_password"},
    "worker": {"redis_password", "orthanc_password", "worker_token"},
    "dashboard": {"redis_password", "dashboard_password"},
}
BESIDE = {"extra_ca", "postgres_passfile"}  # a public certificate; what opens a database that these have to open
LISTENS = {"orthanc": {4242, 8042}, "redis": {6379}, "scheduler": {5000}, "dashboard": {8080}}
DOCKERS_RESOLVER = "0B00007F:"  # 127.0.0.11, on a port of its choice
WRITABLE = {
    "orthanc": {"/orthanc/storage", "/orthanc/index"},
    "redis": {"/data"},
    "scheduler": {"/basedir/db", "/data"},
    "controller": {"/basedir/db", "/registry", "/modules", "/logs", "/data"},
    "worker": {"/data", "/basedir/envs", "/basedir/cache", "/basedir/run/spool"},
    "dashboard": {"/basedir/db"},
}


@pytest.fixture(scope="module")
def stack(session_stack: ContainerStack) -> ContainerStack:
    """Looked at by every test, changed by none."""
    session_stack.fresh()
    return session_stack


@pytest.mark.parametrize("service", SERVERS)
def test_servers_are_the_user_s_own_and_confined(stack: ContainerStack, service: str) -> None:
    (container,) = stack.containers(service)
    confined(stack, container)


def confined(stack: ContainerStack, container: str) -> None:
    """Every process of a container is its user's, without any right, on a root that nobody can write to."""
    for line in docker("exec", container, "sh", "-c", "cat /proc/[0-9]*/status").splitlines():
        key, _, value = line.partition(":\t")
        if key in ("Uid", "Gid"):
            assert set(value.split()) == {str(OWNER)}
        if key in ("CapEff", "CapBnd", "CapPrm", "CapAmb"):
            assert int(value, 16) == 0
        if key == "NoNewPrivs":
            assert value == "1"
    assert stack.inspect(container)["HostConfig"]["ReadonlyRootfs"] is True


def test_a_worker_and_its_jobs_have_dropped_all_that_its_container_began_with(
    stack: ContainerStack, tmp_path: Path
) -> None:
    stack.install("looks", [{"jobName": "looks"}], LOOKS)
    study = make_study(tmp_path)
    stack.send(study)
    stack.finished(study)
    statuses = [(stack.results(study) / "looks" / "status").read_text()]
    statuses += [docker("exec", container, "cat", "/proc/1/status") for container in stack.containers("worker")]
    for status in statuses:
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {str(OWNER)}
        assert {int(fields[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"
    assert len(statuses) == 5


@pytest.mark.parametrize("service", OURS)
def test_each_container_has_the_secrets_and_folders_it_needs_and_no_others(stack: ContainerStack, service: str) -> None:
    mounts = stack.inspect(stack.containers(service)[0])["Mounts"]
    secrets = {Path(m["Destination"]).name for m in mounts if m["Destination"].startswith("/run/secrets/")}
    assert secrets - BESIDE == SECRETS[service]
    assert {m["Destination"] for m in mounts if m["RW"]} == WRITABLE[service]
    assert not [m for m in mounts if "docker.sock" in m["Source"]]


@pytest.mark.parametrize("service", OURS)
def test_no_secret_stands_in_an_environment_or_a_command_line(stack: ContainerStack, service: str) -> None:
    secrets = [file.read_text().strip() for file in (stack.basedir / "secrets").iterdir() if file.is_file()]
    assert len(secrets) >= 7
    told = json.dumps(stack.inspect(stack.containers(service)[0]))
    assert not [secret for secret in secrets if secret in told]


def test_nothing_is_published_but_dicom_orthanc_and_the_dashboard(stack: ContainerStack) -> None:
    published = {}
    for container in docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={project(stack)}").split():
        found = stack.inspect(container)
        for inside, outside in (found["NetworkSettings"]["Ports"] or {}).items():
            for address in outside or ():
                published[int(address["HostPort"])] = (inside, address["HostIp"])
    assert published == {
        int(stack.settings["DICOM_PORT"]): ("4242/tcp", "127.0.0.1"),
        int(stack.settings["ORTHANC_PORT"]): ("8042/tcp", "127.0.0.1"),
        int(stack.settings["DASHBOARD_PORT"]): ("8080/tcp", "127.0.0.1"),
    }
    dashboard = requests.get(f"http://127.0.0.1:{stack.settings['DASHBOARD_PORT']}/rq", timeout=10)
    assert dashboard.status_code == 401  # scripts get no form


@pytest.mark.parametrize("service", OURS)
def test_each_container_listens_where_it_should_and_nowhere_else(stack: ContainerStack, service: str) -> None:
    for container in stack.containers(service):
        assert listening(container) == LISTENS.get(service, set())


def listening(container: str) -> set[int]:
    """Ports of TCP sockets that wait for connections (proc(5): state 0A), but for that of Docker's own resolver."""
    lines = docker("exec", container, "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6").splitlines()
    sockets = [line.split()[1:4] for line in lines if "local_address" not in line]
    return {
        int(local.rpartition(":")[2], 16)
        for local, _, state in sockets
        if state == "0A" and not local.startswith(DOCKERS_RESOLVER)
    }


def test_redis_has_no_way_out_keeps_an_append_only_file_and_is_called_redis_server_too(stack: ContainerStack) -> None:
    (redis,) = stack.containers("redis")
    networks = stack.inspect(redis)["NetworkSettings"]["Networks"]
    assert set(networks) == {f"{project(stack)}_inside"}
    assert json.loads(docker("network", "inspect", f"{project(stack)}_inside"))[0]["Internal"] is True
    assert "redis_server" in networks[f"{project(stack)}_inside"]["Aliases"]
    assert list((stack.basedir / "redis" / "containers").rglob("*.aof*"))
    refused = docker("exec", redis, "sh", "-c", "$(command -v valkey-cli || command -v redis-cli) ping")
    assert "NOAUTH" in refused


@pytest.mark.parametrize("service", OURS)
def test_each_container_has_limits_a_log_that_rotates_a_check_and_comes_back(
    stack: ContainerStack, service: str
) -> None:
    found = stack.inspect(stack.containers(service)[0])
    host = found["HostConfig"]
    assert host["Memory"] > 0
    assert host["LogConfig"]["Config"] == {"max-file": "5", "max-size": "10m"}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert found["State"]["Health"]["Status"] == "healthy"
    assert found["Config"]["StopTimeout"] >= 20


def test_an_idle_stack_with_four_workers_is_small(stack: ContainerStack) -> None:
    """Under 900 MB without Orthanc; `docker stats` shows the same."""
    assert len(stack.containers("worker")) == 4
    resident = 0
    for service in ("redis", "scheduler", "controller", "dashboard", "worker"):
        for container in stack.containers(service):
            for pid in docker("top", container, "-eo", "pid").split()[1:]:  # a worker's own user may not look at it
                with suppress(FileNotFoundError, ProcessLookupError):  # a health check that has ended meanwhile
                    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                    resident += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert 0 < resident < 900 * 1024, f"{resident / 1024:.0f} MB"


@pytest.mark.parametrize(("image", "limit"), [("dcm-processor-scheduler", 200), ("dcm-processor-worker", 300)])
def test_our_images_add_little_to_their_base(stack: ContainerStack, image: str, limit: int) -> None:
    """Megabytes over the base image."""
    base = stack.settings.get("BASE_IMAGE", "python:3.13-slim-trixie")
    size, base_size = (int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in (image, base))
    assert 0 < size - base_size < limit * 1_000_000


def project(stack: ContainerStack) -> str:
    return stack.settings["COMPOSE_PROJECT_NAME"]

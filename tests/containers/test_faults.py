"""Containers killed, services changed, images exchanged under jobs that run: nothing is lost, nothing runs twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import StackMaker
from tests.containers.stack import SERVERS, ContainerStack, docker
from tests.containers.test_running import SLOW
from tests.dicom import make_study
from tests.waiting import wait_until

ALLOWED = {"finished", "handed_back", "lost"}


@pytest.mark.parametrize("service", [*SERVERS, "worker"])
def test_killing_a_container_in_the_middle_of_a_plan_loses_nothing(
    stack: ContainerStack, tmp_path: Path, service: str
) -> None:
    """`docker kill` counts as stopped by hand, so Docker does not bring it back; a second run.sh does."""
    stack.install("slow", [{"jobName": f"slow-{number}", "timeout": 300} for number in range(8)], SLOW)
    study = make_study(tmp_path)
    stack.send(study)
    wait_until(lambda: stack.started(study) >= 2, 90, "jobs that run", every=0.3)
    docker("kill", stack.containers(service)[0])
    stack.up("--scale", "worker=4")
    once_each(stack.finished(study, 240))


def test_a_process_that_dies_in_its_container_is_started_again_by_docker(stack: ContainerStack, tmp_path: Path) -> None:
    (controller,) = stack.containers("controller")
    before = stack.inspect(controller)["State"]["Pid"]
    docker("exec", controller, "sh", "-c", "kill -9 -1 || true")
    wait_until(lambda: stack.inspect(controller)["State"]["Pid"] not in (0, before), 30, "a new process", every=0.2)
    stack.install("quick", [{"jobName": "quick"}])
    study = make_study(tmp_path)
    stack.send(study)
    stack.finished(study)


def test_installing_updating_and_removing_services_under_load_touches_no_job_that_runs(
    stack: ContainerStack, tmp_path: Path
) -> None:
    stack.install("slow", [{"jobName": f"slow-{number}"} for number in range(8)], SLOW)
    first = make_study(tmp_path / "first")
    stack.send(first)
    wait_until(lambda: stack.started(first) >= 2, 90, "jobs that run", every=0.3)
    stack.install("other", [{"jobName": "other"}])
    stack.install(
        "slow", [{"jobName": f"slow-{number}"} for number in range(2)], SLOW.replace("socket.gethostname()", "'new'")
    )
    found = stack.finished(first)
    assert len(found["plans"][0]["jobs"]) == 8, "the plan keeps the version it was made with"
    assert all(file.read_text() != "new" for file in stack.results(first).glob("slow-*/host.txt"))
    second = make_study(tmp_path / "second", PatientID="TEST-2")
    stack.send(second)
    jobs = stack.finished(second)["plans"][0]["jobs"]
    assert {job["jobName"] for job in jobs} == {"other", "slow-0", "slow-1"}
    assert (stack.results(second) / "slow-0" / "host.txt").read_text() == "new"
    done = stack.bash("service.sh", "remove", "other", "-b", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    assert stack.bash("service.sh", "install", "other", "-p", str(tmp_path / "backup" / "other")).returncode == 0


def test_an_upgrade_from_the_image_before_loses_no_job_that_is_in_flight(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    before = {}
    for key, image in (("SCHEDULER_IMAGE", "dcm-processor-scheduler"), ("WORKER_IMAGE", "dcm-processor-worker")):
        before[key] = f"{image}:before"
        (tmp_path / "Dockerfile").write_text(f"FROM {image}\nLABEL version=before\n")
        docker("build", "--quiet", "--tag", before[key], str(tmp_path))
    stack = make_stack("upgrade", **before)
    stack.up("--scale", "worker=2")
    stack.install("slow", [{"jobName": f"slow-{number}"} for number in range(8)], SLOW)
    study = make_study(tmp_path / "study")
    stack.send(study)
    wait_until(lambda: stack.started(study) >= 2, 90, "jobs that run", every=0.3)
    for key in before:
        del stack.settings[key]
    stack.up()
    assert len(stack.containers("worker")) == 2
    images = {stack.inspect(stack.containers(service)[0])["Config"]["Image"] for service in ("worker", "controller")}
    assert images == {"dcm-processor-scheduler", "dcm-processor-worker"}
    once_each(stack.finished(study, 240))


def test_down_in_the_middle_and_up_again_goes_on(stack: ContainerStack, tmp_path: Path) -> None:
    stack.install("slow", [{"jobName": f"slow-{number}"} for number in range(8)], SLOW)
    study = make_study(tmp_path)
    stack.send(study)
    wait_until(lambda: stack.started(study) >= 2, 90, "jobs that run", every=0.3)
    stack.down()
    assert not docker(
        "ps", "--quiet", "--filter", f"label=com.docker.compose.project={stack.settings['COMPOSE_PROJECT_NAME']}"
    )
    stack.up("--scale", "worker=4")
    once_each(stack.finished(study, 240))


def test_secrets_rotate_while_jobs_run(stack: ContainerStack, tmp_path: Path) -> None:
    stack.install("slow", [{"jobName": f"slow-{number}"} for number in range(8)], SLOW)
    studies = [make_study(tmp_path / str(number), PatientID=f"TEST-{number}") for number in range(2)]
    old = {file.name: file.read_text() for file in (stack.basedir / "secrets").iterdir() if file.is_file()}
    stack.send(studies[0])
    wait_until(lambda: stack.started(studies[0]) >= 2, 90, "jobs that run", every=0.3)
    done = stack.bash("cli.sh", "secret", "rotate")
    assert done.returncode == 0, done.stdout + done.stderr
    stack.send(studies[1])
    for study in studies:
        once_each(stack.finished(study, 240))
    assert {name for name, text in old.items() if (stack.basedir / "secrets" / name).read_text() == text} <= {
        "postgres_password"
    }
    stack.up("--scale", "worker=4")


def once_each(study: dict[str, Any]) -> None:
    """Every job finished in one attempt, and no other attempt ended but by being handed back or lost."""
    for job in study["plans"][0]["jobs"]:
        ends = Counter(attempt["state"] for attempt in job["attempts"])
        assert ends["finished"] == 1, job["attempts"]
        assert set(ends) <= ALLOWED, job["attempts"]

"""SEED.md's own way: build.sh, run.sh --scale worker=4, init.sh, service.sh install, and a study from a scanner."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from dcm_processor.settings import CHECKOUT
from tests.containers.stack import OWNER, ContainerStack
from tests.dicom import make_study
from tests.git_host import WorkTree
from tests.waiting import wait_until

TWO = ({"Modality": "MR", "instances": 3}, {"Modality": "MR", "instances": 4})
SLOW = """
import os, pathlib, socket, time
def work(jobName, output_dir, attempt, **kwargs):
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        time.sleep(0.1)
    pathlib.Path(output_dir, "host.txt").write_text(socket.gethostname())
"""


def test_the_words_of_seed_md_run_every_job_of_a_study(stack: ContainerStack, tmp_path: Path) -> None:
    assert stack.bash("init.sh").returncode == 0
    done = stack.bash("service.sh", "install", "temp", "-p", str(CHECKOUT / "services" / "temp"))
    assert "already installed" in done.stdout
    study = make_study(tmp_path, TWO)
    stack.send(study)
    found = stack.finished(study, 300)
    assert {job["jobName"] for job in found["plans"][0]["jobs"]} == {"temp", "dcm2nii"}
    assert stack.cli("study", "show", study.study_id)["plans"] == found["plans"]
    assert (stack.results(study) / "temp" / "summary.json").is_file()


def test_a_service_comes_from_a_repository_by_the_image_s_own_git(stack: ContainerStack, tmp_path: Path) -> None:
    repository = WorkTree(tmp_path / "host")
    shutil.copytree(CHECKOUT / "services" / "temp", repository.folder / "temp")
    commit = repository.commit("v1")
    for path in (repository.bare, *repository.bare.rglob("*")):
        os.chown(path, OWNER, OWNER)  # git trusts what is its user's own
    done = stack.bash("service.sh", "install", "temp", "-p", repository.url("v1"))
    assert done.returncode == 0, done.stderr
    assert f"commit {commit[:12]}" in done.stdout
    done = stack.bash("service.sh", "update", "temp")
    assert "already current" in done.stdout, done.stderr


def test_four_workers_share_a_plan(stack: ContainerStack, tmp_path: Path) -> None:
    stack.install("slow", [{"jobName": f"slow-{number}"} for number in range(8)], SLOW)
    study = make_study(tmp_path)
    stack.send(study)
    stack.finished(study)
    hosts = {file.read_text() for file in stack.results(study).glob("*/host.txt")}
    assert len(hosts) == 4


def test_whatever_is_written_belongs_to_the_user_who_started_it_with_sudo_too(
    stack: ContainerStack, tmp_path: Path
) -> None:
    stack.install("writes", [{"jobName": "writes"}])
    study = make_study(tmp_path)
    stack.send(study)
    stack.finished(study)
    assert stack.basedir.lstat().st_uid == OWNER
    for folder, folders, files in os.walk(stack.basedir):
        for path in (Path(folder, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # the attempt's folder goes once its outcome was taken
                assert path.lstat().st_uid == OWNER, path


def test_scaling_under_load_loses_nothing(stack: ContainerStack, tmp_path: Path) -> None:
    stack.install("slow", [{"jobName": f"slow-{number}"} for number in range(12)], SLOW)
    study = make_study(tmp_path)
    stack.send(study)
    wait_until(lambda: stack.started(study) >= 3, 60, "jobs that run", every=0.3)
    for workers in (1, 3):
        stack.up("--scale", f"worker={workers}")
        assert len(stack.containers("worker")) == workers
    found = stack.finished(study)
    for job in found["plans"][0]["jobs"]:
        ends = [attempt["state"] for attempt in job["attempts"]]
        assert ends.count("finished") == 1
        assert set(ends) <= {"finished", "handed_back"}, job["attempts"]


def test_a_second_start_is_harmless_and_quick(stack: ContainerStack) -> None:
    before = {service: stack.containers(service) for service in ("worker", "controller", "redis")}
    began = time.monotonic()
    done = stack.up()
    assert time.monotonic() - began < 60
    assert before == {service: stack.containers(service) for service in before}
    assert "4 workers" in done.stdout


def test_the_demo_runs_in_containers(stack: ContainerStack) -> None:
    done = stack.bash("run.sh", "--demo", "--force")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished") >= 6
    assert str(stack.basedir / "secrets" / "dashboard_password") in done.stdout

"""A service's script.sh in a worker's container: as root with apt-get, before the first job, and no job before it."""

from pathlib import Path

from tests.containers.stack import ContainerStack
from tests.dicom import make_study
from tests.waiting import wait_until

INSTALLS = """#!/bin/bash
set -e
id -u >/var/tmp/installed-as
apt-get update -qq
apt-get install -y -qq --no-install-recommends hello
"""
USES = """
import os, pathlib, subprocess
def work(output_dir, **kwargs):
    said = subprocess.run(["hello"], capture_output=True, text=True, check=True).stdout
    caps = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")]
    pathlib.Path(output_dir, "said").write_text(said)
    pathlib.Path(output_dir, "as").write_text(pathlib.Path("/var/tmp/installed-as").read_text())
    pathlib.Path(output_dir, "caps").write_text(chr(10).join(caps))
"""


def test_a_script_installs_a_package_as_root_and_jobs_use_it_without_any_right(
    stack: ContainerStack, tmp_path: Path
) -> None:
    """The stack runs already: its workers end between two jobs, come back, and run the script first."""
    stack.install("uses", [{"jobName": "uses"}], USES, INSTALLS)
    study = make_study(tmp_path)
    stack.send(study)
    found = stack.finished(study, 240)
    results = stack.results(study) / "uses"
    assert "Hello, world!" in (results / "said").read_text()
    assert (results / "as").read_text().strip() == "0"
    assert {int(line.split()[1], 16) for line in (results / "caps").read_text().splitlines()} == {0}
    (job,) = found["plans"][0]["jobs"]
    ends = [attempt["state"] for attempt in job["attempts"]]
    assert ends.count("finished") == 1
    assert set(ends) <= {"finished", "handed_back"}, "what is handed back is not spent"


def test_jobs_of_a_service_whose_script_failed_fail_saying_so_and_others_run(
    stack: ContainerStack, tmp_path: Path
) -> None:
    stack.install("broken", [{"jobName": "broken"}], script="echo no such luck\nexit 3\n")
    stack.install("other", [{"jobName": "other"}])
    study = make_study(tmp_path)
    stack.send(study)
    jobs = {job["jobName"]: job for job in stack.ended(study, 240)["plans"][0]["jobs"]}
    assert jobs["other"]["state"] == "finished"
    assert jobs["broken"]["state"] == "failed"
    assert "script.sh of service broken failed with exit status 3" in jobs["broken"]["reason"]
    log = wait_until(lambda: logs(stack, study.study_id, "broken"), 20, "the job's log")
    assert "no such luck" in log


def logs(stack: ContainerStack, study_id: str, job: str) -> str:
    folder = stack.basedir / "logs" / "jobs" / study_id
    return "".join(file.read_text() for file in folder.rglob("*.log") if f"-{job}-" in file.parent.name)

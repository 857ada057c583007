"""The whole way of a study: from a real C-STORE to the file a job wrote, on the stack that run.sh --local starts."""

import json
import os
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.dicom import StudyFiles, make_study
from tests.e2e.test_local_mode import Installation
from tests.waiting import wait_until

SECRET_NAME, SECRET_ID = "Marker^Zaphod", "MARKER-4711"
YES = "def applies(**kwargs):\n    return True\n"
WRITES = """
    import pathlib
    def work(jobName, output_dir, **kwargs):
        print("at work on", jobName)
        pathlib.Path(output_dir, "result.txt").write_text(jobName)
"""


class Stack(Installation):
    """A running stack, as its user sees it: the scripts, DICOM and the scheduler's API."""

    def api(self, path: str, **body: Any) -> Any:
        method = requests.post if body else requests.get
        url = f"http://127.0.0.1:{self.settings['SCHEDULER_PORT']}/api/v1/{path}"
        headers = {"Authorization": f"Bearer {self.secret('scheduler_token')}"}
        answer = method(url, headers=headers, timeout=60, **({"json": body} if body else {}))
        assert answer.ok, answer.text
        return answer.json() if "json" in answer.headers["Content-Type"] else answer.text

    def install(
        self, folder: Path, name: str, jobs: list[dict[str, Any]], callback: str = YES, work: str = WRITES
    ) -> None:
        source = folder / name
        (source / "registry").mkdir(parents=True, exist_ok=True)
        (source / "module").mkdir(exist_ok=True)
        entries = [{"worker": f"{name}.work", "callback": f"{name}.applies", **job} for job in jobs]
        (source / "registry" / "settings.json").write_text(json.dumps(entries))
        (source / "registry" / "__init__.py").write_text(textwrap.dedent(callback))
        (source / "module" / "__init__.py").write_text(textwrap.dedent(work))
        done = self.bash("service.sh", "install", name, "-p", str(source))
        assert done.returncode == 0, done.stderr

    def send(self, study: StudyFiles) -> None:
        done = self.bash_cli("send", str(study.files[0].parent))
        assert done.returncode == 0, done.stdout + done.stderr

    def study(self, study_id: str) -> dict[str, Any] | None:
        found = requests.get(
            f"http://127.0.0.1:{self.settings['SCHEDULER_PORT']}/api/v1/studies/{study_id}",
            headers={"Authorization": f"Bearer {self.secret('scheduler_token')}"},
            timeout=30,
        )
        return found.json() if found.ok else None

    def jobs(self, study_id: str) -> dict[str, dict[str, Any]]:
        plans = (self.study(study_id) or {"plans": []})["plans"]
        return {job["jobName"]: job for plan in plans[:1] for job in plan["jobs"]}

    def states(self, study_id: str) -> dict[str, str]:
        return {name: job["state"] or job["verdict"] for name, job in self.jobs(study_id).items()}

    def ended(self, study_id: str, seconds: float = 90) -> dict[str, str]:
        """Wait until the study's plan has ended; its jobs' states."""

        def over() -> bool:
            study = self.study(study_id)
            return study is not None and bool(study["plans"]) and study["state"] in ("finished", "failed")

        wait_until(over, seconds, f"{study_id} ended")
        return self.states(study_id)

    def results(self, study_id: str) -> Path:
        return self.basedir / "data" / "results" / study_id

    def log(self, job: dict[str, Any], ending: str) -> str:
        """The job's log once it holds `ending`."""

        def text() -> str:
            found = str(self.api(f"jobs/{job['jobId']}/log"))
            return found if ending in found else ""

        return wait_until(text, 20, f"{ending!r} in the log")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("study") / "base")
    running.settings |= {"STABLE_AGE": "2", "CALLBACK_TIMEOUT": "2"}
    running.up("--scale", "worker=2")
    yield running
    running.down()


@pytest.fixture
def services(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Install services that go with the test."""
    names: list[str] = []

    def install(name: str, jobs: list[dict[str, Any]], **sources: str) -> None:
        stack.install(tmp_path / "services", name, jobs, **sources)
        names.append(name)

    yield install
    for name in dict.fromkeys(names):
        stack.bash("service.sh", "remove", name)


def test_a_study_sent_by_c_store_runs_its_jobs_in_order_and_leaves_their_files(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    services(
        "chain",
        [
            {"jobName": "measure", "dependsOn": "convert"},
            {"jobName": "convert", "level": "series", "params": {"suffix": "txt"}},
            {"jobName": "report", "stage": "post", "priority": "low"},
            {"jobName": "other"},
        ],
        callback="""
            def applies(jobName, headers, params, added_params):
                if jobName == "other":
                    return headers["Modality"] == "US"
                return True, {"slices": headers.get("NumberOfInstances"), "date": headers["StudyDate"]}
        """,
        work="""
            import json, os, pathlib
            def work(jobName, headers, params, added_params, dicom_dir, output_dir, inputs, outcomes):
                out = pathlib.Path(output_dir)
                print("log of", jobName)
                if jobName == "convert":
                    files = sorted(os.listdir(dicom_dir))
                    assert len(files) == headers["NumberOfInstances"] == added_params["convert"]["slices"]
                    (out / ("list." + params["suffix"])).write_text("\\n".join(files))
                elif jobName == "measure":
                    lists = {series: pathlib.Path(at, "list.txt") for series, at in inputs["convert"].items()}
                    counts = {series: len(at.read_text().splitlines()) for series, at in lists.items()}
                    (out / "count.json").write_text(json.dumps(counts))
                else:
                    (out / "report.json").write_text(json.dumps([outcomes, sorted(added_params)]))
        """,
    )
    study = make_study(
        tmp_path / "dicom",
        [{"Modality": "CT", "instances": 4}, {"Modality": "CT", "instances": 3}],
        PatientName=SECRET_NAME,
        PatientID=SECRET_ID,
    )
    stack.send(study)
    assert stack.ended(study.study_id, 180) == {
        "convert": "finished", "measure": "finished", "report": "finished", "other": "declined",
    }  # fmt: skip
    counts = json.loads((stack.results(study.study_id) / "measure" / "count.json").read_text())
    assert sorted(counts.values()) == [3, 4]
    for series_id, number in counts.items():
        listed = (stack.results(study.study_id) / "convert" / series_id / "list.txt").read_text().splitlines()
        assert len(listed) == number
        fetched = stack.basedir / "data" / "dicom" / study.study_id / series_id
        assert sorted(path.name for path in fetched.iterdir()) == listed
    assert "log of report" in stack.log(stack.jobs(study.study_id)["report"], "log of report")
    explained = stack.api(f"studies/{study.study_id}/explain")
    assert {job["jobName"]: job["verdict"] for job in explained["jobs"]}["other"] == "declined"


def test_no_log_of_a_program_names_the_patient(stack: Stack) -> None:
    logs = [path for path in (stack.basedir / "logs").glob("*.log*") if path.is_file()]
    assert {"controller.log", "scheduler.log", "worker_00.log", "orthanc.log"} <= {path.name for path in logs}
    for path in logs:
        text = path.read_text(errors="replace")
        assert SECRET_ID not in text, path.name
        assert "Zaphod" not in text, path.name


def test_what_goes_wrong_is_recorded_and_the_rest_goes_on(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    services(
        "trouble",
        [
            {"jobName": "raises"},
            {"jobName": "after", "dependsOn": "raises"},
            {"jobName": "exits"},
            {"jobName": "slow", "timeout": 1},
            {"jobName": "greedy", "memory": "200M"},
            {"jobName": "hanging"},
            {"jobName": "fine"},
        ],
        callback="""
            import time
            def applies(jobName, **kwargs):
                if jobName == "hanging":
                    time.sleep(100)
                return True
        """,
        work="""
            import os, time
            def work(jobName, **kwargs):
                if jobName == "raises":
                    raise ValueError("no such contrast")
                if jobName == "exits":
                    os._exit(3)
                if jobName == "slow":
                    if os.fork() == 0:
                        os.setsid()
                        if os.fork() == 0:
                            os.execvp("sleep", ["sleep", "98765"])
                        os._exit(0)
                    time.sleep(100)
                if jobName == "greedy":
                    hoard = [bytearray(10_000_000) for _ in range(200)]
        """,
    )
    study = make_study(tmp_path / "dicom")
    stack.send(study)
    assert stack.ended(study.study_id) == {
        "raises": "failed", "after": "skipped", "exits": "failed", "slow": "failed", "greedy": "failed",
        "hanging": "errored", "fine": "finished",
    }  # fmt: skip
    jobs = stack.jobs(study.study_id)
    reasons = {name: job["attempts"][0]["exitReason"] for name, job in jobs.items() if job["attempts"]}
    assert reasons == {
        "raises": "exception", "exits": "exit", "slow": "timeout", "greedy": "out_of_memory", "fine": "done",
    }  # fmt: skip
    assert "ValueError: no such contrast" in jobs["raises"]["attempts"][0]["traceback"]
    assert "raises" in jobs["after"]["reason"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "98765"]]
    assert (stack.study(study.study_id) or {})["state"] == "failed"


def test_a_service_broken_by_hand_is_told_and_the_others_go_on(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    services("sound", [{"jobName": "sound-job"}])
    services("broken", [{"jobName": "broken-job"}])
    settings = stack.basedir / "registry" / "broken" / "settings.json"
    settings.chmod(0o644)
    for text in ('[{"jobName": "broken-j', "[]", "{}"):
        settings.write_text(text)
        faults = next(s for s in stack.api("services")["items"] if s["name"] == "broken")["faults"]
        assert any("settings.json" in json.dumps(fault) for fault in faults), (text, faults)
    study = make_study(tmp_path / "dicom")
    stack.send(study)
    assert stack.ended(study.study_id) == {"sound-job": "finished"}
    assert "broken" in json.dumps((stack.study(study.study_id) or {})["plans"][0]["faults"])


def test_installing_and_removing_interrupts_no_job_and_cancels_what_waits(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    waits = f"""
        import os, pathlib, time
        def work(jobName, output_dir, **kwargs):
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.05)
            import svc_version
            pathlib.Path(output_dir, "version").write_text(svc_version.VERSION)
    """
    source = tmp_path / "services" / "waiter" / "module"
    source.mkdir(parents=True)
    (source / "svc_version.py").write_text("VERSION = 'one'\n")
    jobs = [{"jobName": "now"}, {"jobName": "later", "dependsOn": "now"}]
    services("waiter", jobs, work=waits)
    study = make_study(tmp_path / "dicom")
    stack.send(study)
    wait_until(lambda: stack.states(study.study_id).get("now") == "started", 60, "the job runs")
    (source / "svc_version.py").write_text("VERSION = 'two'\n")
    services("waiter", jobs, work=waits)
    removed = stack.bash("service.sh", "remove", "waiter", "-b", str(tmp_path / "backup"))
    assert removed.returncode == 0, removed.stderr
    assert "jobs that have not started, and will be cancelled: 1 (1 waiting)\n" in removed.stdout
    assert (tmp_path / "backup" / "waiter" / "module" / "svc_version.py").read_text() == "VERSION = 'two'\n"
    assert not (stack.basedir / "registry" / "waiter").exists()
    assert stack.states(study.study_id) == {"now": "started", "later": "cancelled"}
    gate.touch()
    assert stack.ended(study.study_id) == {"now": "finished", "later": "cancelled"}
    assert (stack.results(study.study_id) / "now" / "version").read_text() == "one"
    again = stack.bash("service.sh", "install", "waiter", "-p", str(tmp_path / "backup" / "waiter"))
    assert again.returncode == 0, again.stderr


def test_redis_killed_under_a_running_job_costs_nothing(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    services(
        "patient",
        [{"jobName": "first"}, {"jobName": "second", "dependsOn": "first"}],
        work=f"""
            import os, pathlib, time
            def work(jobName, output_dir, **kwargs):
                while not os.path.exists({str(gate)!r}):
                    time.sleep(0.05)
                pathlib.Path(output_dir, "result.txt").write_text(jobName)
        """,
    )
    study = make_study(tmp_path / "dicom")
    stack.send(study)
    wait_until(lambda: stack.states(study.study_id).get("first") == "started", 60, "the job runs")
    os.kill(stack.programs()["redis"], signal.SIGKILL)
    gate.touch()
    assert stack.ended(study.study_id, 120) == {"first": "finished", "second": "finished"}
    assert [len(job["attempts"]) for job in stack.jobs(study.study_id).values()] == [1, 1]


def test_a_killed_worker_takes_its_job_along_and_another_runs_it_again(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    services(
        "mortal",
        [{"jobName": "long"}],
        work=f"""
            import os, time
            def work(attempt, **kwargs):
                with open({str(marks)!r}, "a") as file:
                    file.write(f"{{attempt}} {{os.getpid()}}\\n")
                if attempt == 1:
                    time.sleep(1000)
        """,
    )
    study = make_study(tmp_path / "dicom", [{"Modality": "CT", "instances": 1}])  # never stable with a part of it
    stack.send(study)
    wait_until(lambda: marks.exists() and marks.read_text().endswith("\n"), 60, "the job runs")
    worker = stack.jobs(study.study_id)["long"]["attempts"][0]["worker"]
    victims = [pid for name, pid in stack.programs().items() if name.startswith("worker") and str(pid) in worker]
    assert len(victims) == 1, worker
    os.kill(victims[0], signal.SIGKILL)
    killed = datetime.now(UTC)
    job = int(marks.read_text().split()[1])
    wait_until(lambda: not psutil.pid_exists(job), 10, "the job died with its worker")
    assert stack.ended(study.study_id, 150) == {"long": "finished"}
    attempts = stack.jobs(study.study_id)["long"]["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["lost", "finished"]
    assert datetime.fromisoformat(attempts[0]["endedAt"]) - killed < timedelta(seconds=90)


def test_a_study_that_two_senders_send_at_once_is_one_and_is_processed_once(
    stack: Stack, services: Callable[..., None], tmp_path: Path
) -> None:
    record = tmp_path / "record"
    services(
        "once",
        [{"jobName": "whole"}, {"jobName": "part", "level": "series"}],
        work=f"""
            import os
            def work(jobName, dicom_dir, planId):
                files = sum(len(names) for _, _, names in os.walk(dicom_dir))
                with open({str(record)!r}, "a") as record:
                    print(planId, jobName, files, file=record)
        """,
    )
    study = make_study(tmp_path / "dicom", [{"Modality": "CT", "instances": 60}, {"Modality": "CT", "instances": 40}])
    copies = tmp_path / "copies"
    copies.mkdir()
    for number, file in enumerate(reversed(study.files)):  # the other one begins at the other end
        (copies / f"{number:03d}.dcm").write_bytes(file.read_bytes())
    with ThreadPoolExecutor(2) as senders:
        done = list(senders.map(lambda folder: stack.bash_cli("send", str(folder)), (tmp_path / "dicom", copies)))
    assert [each.returncode for each in done] == [0, 0], done
    stack.ended(study.study_id, 120)
    wait_until(lambda: (stack.study(study.study_id) or {})["plans"][0]["numberOfInstances"] == 100, 60, "all of it")
    assert set(stack.ended(study.study_id, 120).values()) == {"finished"}
    plans = (stack.study(study.study_id) or {})["plans"]
    assert len({plan["revision"] for plan in plans}) == len(plans)  # no content was planned twice
    newest = [line.split()[1:] for line in record.read_text().splitlines() if line.startswith(plans[0]["planId"])]
    assert sorted(newest) == [["part", "40"], ["part", "60"], ["whole", "100"]]


def test_a_study_that_is_gone_before_it_is_planned_is_told_so(stack: Stack, tmp_path: Path) -> None:
    unknown = "00000000-00000000-00000000-00000000-00000001"
    answer = requests.post(
        f"http://127.0.0.1:{stack.settings['SCHEDULER_PORT']}/stable-study",
        json={"studyId": unknown},
        headers={"Authorization": f"Bearer {stack.secret('hook_token')}"},
        timeout=10,
    )
    assert answer.status_code == 202
    wait_until(lambda: (stack.study(unknown) or {}).get("state") == "unplanned", 30)
    assert "Orthanc" in (stack.study(unknown) or {})["reason"]


def test_what_is_no_dicom_is_listed_and_the_rest_is_sent(stack: Stack, tmp_path: Path) -> None:
    study = make_study(tmp_path / "dicom")
    (tmp_path / "dicom" / "notes.dcm").write_text("not DICOM at all")
    done = subprocess.run(
        [".venv/bin/dcm-processor", "send", str(tmp_path / "dicom")],
        env={**os.environ, **stack.settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "notes.dcm" in done.stdout + done.stderr
    wait_until(lambda: stack.study(study.study_id), 30, "the study is known")

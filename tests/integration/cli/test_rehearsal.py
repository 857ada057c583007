"""`service test` and `run`: services on a folder of DICOM, with nothing running."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.dicom import StudyFiles, make_study
from tests.waiting import wait_until

YES = "def callback(**kwargs):\n    return True\n"
WRITES = """
    from pathlib import Path
    def worker(jobName, output_dir, **kwargs):
        print("at work on", jobName, end="")  # what follows has a line of its own all the same
        Path(output_dir, "result.txt").write_text(jobName)
"""
SERVER_PACKAGES = "sqlalchemy alembic flask gunicorn prometheus_client psycopg redis rq rq_dashboard"
_BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVER_PACKAGES.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def _can_be_interrupted() -> None:
    """As on a terminal: what a shell starts in the background, or nohup, ignores signals, and so does all it starts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Author:
    """Somebody with a terminal, and nothing but `pip install dcm-processor`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        blocked = folder / "blocked"
        blocked.mkdir()
        (blocked / "sitecustomize.py").write_text(_BLOCK)
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "HOME") if key in os.environ}
        self.env = {
            **kept,
            "PYTHONPATH": str(blocked),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "DCM_PROCESSOR_HOME": str(folder),
            "TMPDIR": str(self.tmp),
        }

    def start(self, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dcm_processor.cli", *map(str, arguments)]
        return subprocess.Popen(
            command,
            env=self.env | env,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_can_be_interrupted,  # noqa: PLW1509 - nothing else runs here
        )

    def __call__(self, *arguments: str | Path, status: int = 0, **env: str) -> tuple[str, str]:
        """What the command says, on stdout and stderr; nothing of it may be left."""
        with self.start(*arguments, **env) as running:
            out, err = running.communicate(timeout=240)
        assert running.returncode == status, out + err
        assert not list(self.tmp.iterdir())
        return out, err

    def jobs(self, *arguments: str | Path, status: int = 0, **env: str) -> list[dict[str, Any]]:
        """The jobs of all studies, in their order."""
        out, _ = self(*arguments, "--json", status=status, **env)
        return [job for study in json.loads(out)["studies"] for job in study["jobs"]]

    def service(self, name: str, *jobs: dict[str, Any], callback: str = YES, worker: str = WRITES) -> Path:
        source = self.folder / name
        for part in ("registry", "module"):
            (source / part).mkdir(parents=True, exist_ok=True)
        entries = [
            {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.callback", **job}
            for job in jobs or ({},)
        ]
        (source / "registry" / "settings.json").write_text(json.dumps(entries))
        (source / "registry" / "callback.py").write_text(textwrap.dedent(callback))
        (source / "module" / "worker.py").write_text(textwrap.dedent(worker))
        (source / "module" / "requirements.txt").write_text("")
        return source


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path)


@pytest.fixture
def study(tmp_path: Path) -> StudyFiles:
    return make_study(tmp_path / "dicom", [{"Modality": "MR", "instances": 2}, {"Modality": "MR", "instances": 1}])


def test_a_new_service_passes_its_own_test(author: Author) -> None:
    author("service", "new", "volume-2")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", "pytest", "volume-2"]
    done = subprocess.run(
        command, env=author.env, cwd=author.folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    out, _ = author("service", "test", "volume-2", "-o", "out")
    assert "volume-2: the callback counted 6 instances" in out
    assert len(list((author.folder / "out").glob("*/volume-2/summary.json"))) == 2


@pytest.mark.usefixtures("study")
def test_paths_of_a_test_of_ones_own_may_be_texts(author: Author) -> None:
    author.service("demo")
    code = "from dcm_processor.testing import rehearse; rehearse('demo', dicom=['dicom'], results='out')"
    subprocess.run([sys.executable, "-c", code], env=author.env, cwd=author.folder, check=True, timeout=240)
    assert len(list((author.folder / "out").glob("*/demo/result.txt"))) == 1


def test_the_template_itself_passes(author: Author) -> None:
    temp = Path(__file__).parents[3] / "services" / "temp"
    assert {job["state"] for job in author.jobs("service", "test", temp)} == {"finished"}


def test_log_outputs_time_and_memory_are_shown_and_told_to_programs(author: Author, study: StudyFiles) -> None:
    folder = author.service("demo", callback="def callback(headers): return True, {'seen': headers['Modality']}\n")
    out, _ = author("service", "test", folder, "--dicom", "dicom", "-o", "out")
    lines = out.splitlines()
    assert lines[0] == f"study {study.study_id}: 2 series, 3 instances"
    assert lines[1] == 'callback of demo: True, {"seen": "MR"}'
    assert "at work on demo" in lines
    assert any(line.startswith("demo: finished, ") and "peak memory" in line for line in lines)
    assert "  result.txt  4 bytes" in lines
    [job] = author.jobs("service", "test", folder, "--dicom", "dicom")
    assert (job["state"], job["exitReason"], job["injected"]) == ("finished", "done", {"seen": "MR"})
    assert job["files"] == [{"path": "result.txt", "size": 4}]
    assert job["peakMemory"] > 1_000_000
    assert 0 < job["seconds"] < 60
    kept = author.folder / "out" / study.study_id / "demo" / "result.txt"
    assert kept.read_text() == "demo"
    assert "at work on demo" in (author.folder / "out" / "logs" / study.study_id / "demo.log").read_text()


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        ("def callback(): raise ValueError('x')\n", "the callback raised ValueError"),
        ("def callback(): return 3\n", "the callback returned an int; expected True, False or (bool, dict)"),
        ("import time\ndef callback():\n    time.sleep(99)\n", "the callback gave no answer within 1 s"),
        ("import os\ndef callback(): os._exit(3)\n", "exit status 3"),
    ],
)
@pytest.mark.usefixtures("study")
def test_a_callback_that_fails_is_an_error_with_its_reason(author: Author, callback: str, says: str) -> None:
    folder = author.service("demo", callback=callback)
    [job] = author.jobs("service", "test", folder, "--dicom", "dicom", status=1, CALLBACK_TIMEOUT="1")
    assert job["state"] == "errored"
    assert says in job["reason"]


@pytest.mark.usefixtures("study")
def test_a_callback_that_declines_is_no_pass_of_a_test_but_one_of_a_run(author: Author) -> None:
    folder = author.service("demo", callback="def callback(): return False\n")
    _, err = author("service", "test", folder, "--dicom", "dicom", status=1)
    assert "no job ran" in err
    assert [job["state"] for job in author.jobs("run", "dicom", "-s", folder, "-o", "out")] == ["declined"]


@pytest.mark.parametrize(
    ("worker", "fields", "exit_reason", "says"),
    [
        ("def worker(): raise ValueError('too thin')\n", {}, "exception", "ValueError: too thin"),
        ("import time\ndef worker(): time.sleep(99)\n", {"timeout": 1}, "timeout", "longer than the 1 s"),
        ("def worker(): raise SystemExit(3)\n", {}, "exit", "exit status 3"),
        ("import nothing_of_the_kind\ndef worker(): pass\n", {}, "exception", "No module named 'nothing_of_the_kind'"),
        (
            "def worker():\n    import time\n    x = bytearray(200_000_000)\n    time.sleep(99)\n",
            {"memory": "64M"}, "out_of_memory", "more than the 64 MB",
        ),
        (
            "class TransientServiceError(Exception): pass\ndef worker(): raise TransientServiceError('busy')\n",
            {}, "transient", "TransientServiceError: busy",
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("study")
def test_a_function_ends_as_it_would_on_a_worker(
    author: Author, worker: str, fields: dict[str, Any], exit_reason: str, says: str
) -> None:
    folder = author.service("demo", fields, worker=worker)
    [job] = author.jobs("service", "test", folder, "--dicom", "dicom", status=1)
    assert (job["state"], job["exitReason"]) == ("failed", exit_reason)
    assert says in job["reason"]


@pytest.mark.usefixtures("study")
def test_a_traceback_names_the_authors_own_files(author: Author) -> None:
    folder = author.service("demo", worker="def worker():\n    raise ValueError('x')\n")
    out, _ = author("service", "test", folder, "--dicom", "dicom", status=1)
    assert f'File "{folder / "module" / "worker.py"}", line 2, in worker' in out


@pytest.mark.usefixtures("study")
def test_requirements_that_cannot_be_installed_are_said_with_the_end_of_the_build(author: Author) -> None:
    (author.folder / "wheels").mkdir()
    folder = author.service("demo")
    (folder / "module" / "requirements.txt").write_text("nothing-of-the-kind==1.0\n")
    env = {"WHEEL_DIR": "wheels", "PIP_INDEX_URL": "http://127.0.0.1:1/simple"}
    [job] = author.jobs("service", "test", folder, "--dicom", "dicom", status=1, **env, UV_HTTP_RETRIES="0")
    assert job["state"] == "failed"
    assert job["exitReason"] in ("environment", "outage")
    assert "nothing-of-the-kind" in job["buildLog"]


def test_each_study_of_a_folder_is_run_and_what_cannot_be_used_is_said(author: Author, study: StudyFiles) -> None:
    other = make_study(author.folder / "dicom" / "more", [{"Modality": "CT", "instances": 1}], PatientID="TEST-2")
    (author.folder / "dicom" / "damaged.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))
    (author.folder / "dicom" / "notes.txt").write_text("no DICOM\n")
    out, err = author("service", "test", author.service("demo"), "--dicom", "dicom")
    assert {line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("study ")} == {
        study.study_id,
        other.study_id,
    }
    assert "damaged.dcm: damaged" in err


def test_a_folder_without_dicom_is_one_clear_line(author: Author) -> None:
    (author.folder / "empty").mkdir()
    _, err = author("service", "test", author.service("demo"), "--dicom", "empty", status=1)
    assert err == "dcm-processor: there is no DICOM instance in what you named\n"
    _, err = author("run", "nowhere", "-s", "demo", "-o", "out", status=2)
    assert "nowhere does not exist" in err


@pytest.mark.usefixtures("study")
def test_a_folder_that_holds_something_is_not_written_to(author: Author) -> None:
    (author.folder / "out").mkdir()
    (author.folder / "out" / "precious").touch()
    _, err = author("run", "dicom", "-s", author.service("demo"), "-o", "out", status=2)
    assert "out is there and not empty" in err


@pytest.mark.usefixtures("study")
def test_results_that_have_no_place_are_said_before_anything_runs(author: Author) -> None:
    (author.folder / "file").touch()
    folder = author.service("demo", worker="def worker(): print('at work')\n")
    out, err = author("service", "test", folder, "--dicom", "dicom", "-o", "file/out", status=1)
    assert "at work" not in out
    assert err.startswith(f"dcm-processor: {author.folder / 'file/out'}")
    assert err.endswith(": Not a directory\n")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("study")
def test_whatever_a_job_left_is_kept_also_on_another_disk(author: Author) -> None:
    leaves = """
        import os, shutil
        def worker(dicom_dir, output_dir):
            shutil.copytree(dicom_dir, os.path.join(output_dir, "dicom"))  # its folders are read-only
            os.mkfifo(os.path.join(output_dir, "pipe"))
            os.chmod(output_dir, 0o500)
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        jobs = author.jobs("run", "dicom", "-s", author.service("demo", worker=leaves), "-o", "out", TMPDIR=other)
        assert not list(Path(other).iterdir())
    assert [job["state"] for job in jobs] == ["finished"]
    assert len(list((author.folder / "out").glob("*/demo/dicom/*/*.dcm"))) == 3
    assert {path.name for path in (author.folder / "out").iterdir()} == {"logs", jobs[0]["folder"].split("/")[-2]}


def test_studies_that_have_ended_take_no_room(author: Author, study: StudyFiles) -> None:
    make_study(author.folder / "dicom" / "more", [{"Modality": "CT", "instances": 1}], PatientID="TEST-2")
    counts = "import os\ndef worker(dicom_dir): print(len(os.listdir(os.path.dirname(dicom_dir))), 'here')\n"
    out, _ = author("service", "test", author.service("demo", worker=counts), "--dicom", "dicom")
    assert [line for line in out.splitlines() if line.endswith(" here")] == ["1 here", "1 here"], study.study_id


@pytest.mark.usefixtures("study")
def test_what_a_function_raised_reaches_no_terminal_with_its_control_characters(author: Author) -> None:
    raises = "def worker(): raise ValueError('\\u202e\\x9b2J')\n"
    out, _ = author("service", "test", author.service("demo", worker=raises), "--dicom", "dicom", status=1)
    assert not {"\u202e", "\x9b"} & set(out)


@pytest.mark.usefixtures("study")
def test_faults_of_a_service_are_said_and_nothing_runs(author: Author) -> None:
    _, err = author("service", "test", author.service("demo", {"timeout": "soon"}), "--dicom", "dicom", status=1)
    assert "registry/settings.json: [0].timeout: must be seconds" in err


def test_a_chain_runs_by_stage_dependency_and_level(author: Author, study: StudyFiles) -> None:
    chain = author.service(
        "chain",
        {"jobName": "clean", "stage": "pre"},
        {"jobName": "convert", "level": "series", "dependsOn": "clean"},
        {"jobName": "report", "stage": "post", "dependsOn": "*"},
        {"jobName": "fails"},
        {"jobName": "skipped", "dependsOn": "fails"},
        worker="""
            import json
            from pathlib import Path
            def worker(jobName, headers, added_params, inputs, outcomes, dicom_dir, output_dir, **kwargs):
                if jobName == "fails":
                    raise ValueError("x")
                seen = {"inputs": sorted(inputs), "outcomes": {k: v["state"] for k, v in outcomes.items()},
                        "files": len(list(Path(dicom_dir).rglob("*.dcm")))}
                Path(output_dir, "seen.json").write_text(json.dumps(seen))
        """,
    )
    jobs = author.jobs("run", "dicom", "--services", chain, "-o", "out", status=1)
    states = [(job["jobName"], job["state"]) for job in jobs]
    assert states == [
        ("clean", "finished"), ("fails", "failed"), ("convert", "finished"), ("convert", "finished"),
        ("skipped", "skipped"), ("report", "finished"),
    ]  # fmt: skip
    results = author.folder / "out" / study.study_id
    seen = json.loads((results / "report" / "seen.json").read_text())
    assert seen["inputs"] == ["clean", "convert"]
    assert seen["outcomes"] == {"clean": "finished", "convert": "finished", "fails": "failed", "skipped": "skipped"}
    counts = [json.loads(path.read_text())["files"] for path in results.glob("convert/*/seen.json")]
    assert sorted(counts) == [1, 2]


@pytest.mark.usefixtures("study")
def test_services_may_follow_one_option_and_results_have_a_usual_place(author: Author) -> None:
    first, second = author.service("first"), author.service("second", {"dependsOn": "first"})
    jobs = author.jobs("run", "dicom", "--services", first, second)
    assert [(job["jobName"], job["state"]) for job in jobs] == [("first", "finished"), ("second", "finished")]
    assert len(list((author.folder / "dcm-processor-results").glob("*/second"))) == 1
    _, err = author("run", second, "--services", first, status=2)
    assert "no DICOM is named" in err


@pytest.mark.usefixtures("study")
def test_services_may_import_each_other_and_files_of_their_names_lie_in_nobodys_way(author: Author) -> None:
    base = author.service("base", worker="def worker(): pass\ndef helped(): return 'helped'\n")
    demo = author.service("demo", worker="from base.worker import helped\ndef worker(): print(helped())\n")
    shutil.copy(demo / "module" / "worker.py", author.folder / "worker.py")  # where the command is given
    out, _ = author("service", "test", demo, "--with", base, "--dicom", "dicom")
    assert "helped" in out.splitlines()


DAEMON = """
    import os, subprocess, sys, time
    from pathlib import Path
    def worker(params, **kwargs):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        Path(params["pids"]).write_text(f"{os.getpid()} {child.pid}\\n")
        time.sleep(600)
"""


@pytest.fixture
def sleeping(author: Author, study: StudyFiles) -> Iterator[tuple[subprocess.Popen[str], Sequence[int]]]:
    """A `service test` whose job sleeps, and so does a daemon that it started."""
    pids = author.folder / "pids"
    folder = author.service("demo", {"params": {"pids": str(pids)}}, worker=DAEMON)
    with author.start("service", "test", folder, "--dicom", study.files[0].parent) as running:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"), 60, "the job runs")
        yield running, [int(pid) for pid in pids.read_text().split()]
        running.kill()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_when_it_is_interrupted_or_killed_no_process_is_left(
    author: Author, sleeping: tuple[subprocess.Popen[str], Sequence[int]], end: signal.Signals
) -> None:
    running, pids = sleeping
    assert all(map(psutil.pid_exists, pids))
    running.send_signal(end)
    _, err = running.communicate(timeout=60)
    wait_until(lambda: not any(map(_lives, pids)), 30, "the job and its daemon are gone")
    if end is not signal.SIGKILL:
        assert running.returncode == 128 + end
        assert err == ("interrupted\n" if end is signal.SIGINT else "")
        assert not list(author.tmp.iterdir())


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.usefixtures("study")
def test_a_callback_that_hangs_is_gone_when_it_is_interrupted(author: Author) -> None:
    pid = author.folder / "pid"
    callback = f"""
        import os, time
        def callback():
            with open({str(pid)!r}, "w") as file:
                file.write(f"{{os.getpid()}}\\n")
            time.sleep(600)
    """
    folder = author.service("demo", callback=callback)
    with author.start("service", "test", folder, "--dicom", "dicom", CALLBACK_TIMEOUT="600") as running:
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), 60, "the callback runs")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    wait_until(lambda: not _lives(int(pid.read_text())), 30, "the callback's process is gone")


def test_files_that_only_an_archive_holds_or_that_are_bare_datasets_are_run_too(
    author: Author, study: StudyFiles, make_zip: Callable[[Path, Sequence[Path]], Path]
) -> None:
    archive = make_zip(author.folder / "study.zip", study.files)
    folder = author.service("demo")
    [zipped] = author.jobs("service", "test", folder, "--dicom", archive)
    assert zipped["state"] == "finished"
    bare = author.folder / "bare"
    bare.mkdir()
    for path in study.files:
        (bare / path.name).write_bytes(_without_file_format(path))
    out, _ = author("service", "test", folder, "--dicom", bare)
    assert out.splitlines()[0] == f"study {study.study_id}: 2 series, 3 instances"


@pytest.fixture
def make_zip() -> Callable[[Path, Sequence[Path]], Path]:
    import zipfile

    def make(target: Path, files: Sequence[Path]) -> Path:
        with zipfile.ZipFile(target, "w") as archive:
            for path in files:
                archive.write(path, path.name)
        return target

    return make


def _without_file_format(path: Path) -> bytes:
    """The dataset alone (PS3.10 7.1 without preamble, prefix and file meta information)."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[140:144], "little")
    return whole[144 + length :]

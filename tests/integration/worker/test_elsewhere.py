"""A worker on another host, which has Redis, Orthanc and the scheduler's HTTP and shares no folder with anybody.

Both hosts are this machine; each has its own BASEDIR. `here` is the scheduler's host and serves the queue `high`,
`elsewhere` the other and serves `low`.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dcm_processor import data_id, service_tree
from dcm_processor.errors import SchedulerUnavailableError, ServiceError, TransientError
from dcm_processor.ledger import schema
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from dcm_processor.vocabulary import ExitReason
from tests.dicom import StudyFiles, make_study, upload
from tests.integration.scheduler.api.stand import TOKENS, GunicornServer
from tests.integration.scheduler.platform import Platform
from tests.integration.worker.conftest import Stand
from tests.servers import OrthancServer, ValkeyServer, free_port
from tests.unit.dcm_processor.cli.conftest import Cli
from tests.waiting import wait_until
from worker.exchange import Exchange
from worker.modules import module_folder
from worker.spool import attempts as spooled

YES = "def applies(**kwargs):\n    return True\n"


class Site:
    """A scheduler with its HTTP side, its Orthanc and Valkey, and a worker host elsewhere."""

    def __init__(self, folder: Path, valkey: ValkeyServer, orthanc: OrthancServer, envs: Path, tmpdir: str) -> None:
        self.folder = folder
        self.orthanc = orthanc
        self.here = Stand(folder / "here", valkey, envs)
        self.elsewhere = Stand(folder / "elsewhere", valkey, envs)
        self.platform = Platform(self.here.base, valkey, orthanc, STABLE_AGE=1)
        (self.here.base / "secrets").mkdir()
        (self.elsewhere.base / "secrets").mkdir()
        for name, text in TOKENS.items():
            (self.here.base / "secrets" / name).write_text(text)
        (self.elsewhere.base / "secrets" / "worker_token").write_text(TOKENS["worker_token"])
        self.server = GunicornServer(folder / "server", self.platform)
        for host in (self.here, self.elsewhere):
            host.environ |= {
                "ORTHANC_REST_URL": orthanc.url, "ORTHANC_REST_PASSWORD": orthanc.password, "TMPDIR": tmpdir,
                "SCHEDULER_PORT": str(self.server.port),
            }  # fmt: skip
        self.settings = Settings(MODE="local", BASEDIR=self.elsewhere.base, SCHEDULER_PORT=self.server.port)
        self.study: StudyFiles | None = None

    def __enter__(self) -> "Site":
        self.server.start()
        self.platform.start()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as ends:  # whatever fails, all of it ends; last comes first
            ends.callback(self.here.close)
            ends.callback(self.elsewhere.close)
            ends.callback(self.platform.stop)
            ends.callback(self.server.stop)

    def install(self, work: str, *jobs: dict[str, Any]) -> str:
        """Install a service; its jobs run elsewhere unless they say otherwise. Returns its digest."""
        module = self.folder / "sources" / "svc" / "module"
        module.mkdir(parents=True, exist_ok=True)
        (module / "requirements.txt").write_text("")
        self.platform.install("svc", [{"priority": "low", **job} for job in jobs], YES, self.folder / "sources", work)
        return self.platform.store.installed_digest("svc")

    def send(self) -> str:
        """A study of two series comes and is stable; returns its id."""
        self.study = make_study(self.folder / "study", [{"Modality": "CT"}, {"Modality": "CT", "instances": 2}])
        upload(self.orthanc.url, self.orthanc.auth, self.study.files)
        self.platform.announce(self.study.study_id)
        return self.study.study_id

    def run(self, work: str, **job: Any) -> dict[str, Any]:
        """Install one job `job`, send a study and have the job run elsewhere; returns the job."""
        self.install(work, {"jobName": "job", **job})
        self.elsewhere.start(WORKER_QUEUES="low")
        self.send()
        return self.ended()

    def job(self) -> dict[str, Any]:
        assert self.study is not None
        return dict(self.platform.jobs(self.study.study_id).get("job", {}))

    def ended(self, seconds: float = 60) -> dict[str, Any]:
        assert self.study is not None
        study_id = self.study.study_id
        wait_until(lambda: self.platform.study(study_id)["state"] in ("finished", "failed"), seconds, "it ends")
        return self.job()

    def results(self, place: str = "job") -> Path:
        assert self.study is not None
        return self.platform.settings.data / "results" / self.study.study_id / place

    def attempts(self) -> list[str]:
        """What lies under DATA/attempts of the scheduler's host."""
        folder = self.platform.settings.data / "attempts"
        names = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
        return sorted(names - {".publishing"})

    def asked(self, method: str, part: str) -> list[dict[str, Any]]:
        """Requests in the scheduler's log."""
        lines = [json.loads(line) for line in self.server.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("method") == method and part in str(line.get("path"))]


@pytest.fixture
def site(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, shared_envs: Path, short_tmp: str
) -> Iterator[Site]:
    with Site(tmp_path, valkey, orthanc, shared_envs, short_tmp) as running:
        yield running


def test_a_plan_runs_on_hosts_that_share_nothing(site: Site) -> None:
    """Code, files, inputs and results are where each job needs them, and the results at the scheduler."""
    site.install(
        """
        import json, os, pathlib

        def work(jobName, headers, dicom_dir, output_dir, inputs, **kwargs):
            print("log of", jobName)
            out = pathlib.Path(output_dir)
            assert list(out.iterdir()) == []
            (out / "environ.json").write_text(json.dumps(dict(os.environ)))
            if jobName == "each":
                (out / "deep" / "empty").mkdir(parents=True)
                (out / "deep" / "count").write_text(str(len(os.listdir(dicom_dir))))
                (out / "link").symlink_to("deep/count")
                (out / "deep" / "count").chmod(0o755)
            elif jobName == "collect":
                (out / "counts").write_text(" ".join(sorted(
                    pathlib.Path(folder, "link").read_text() for folder in inputs["each"].values())))
            elif jobName == "report":
                found = {name: sorted(os.listdir(at)) if isinstance(at, str) else sorted(at)
                         for name, at in inputs.items()}
                (out / "report.json").write_text(json.dumps(found))
                for at in (inputs["collect"], *inputs["each"].values()):
                    pathlib.Path(at, "mine").write_text("an input is a job's own copy")
        """,
        {"jobName": "each", "level": "series"},
        {"jobName": "collect", "priority": "high", "dependsOn": "each"},
        {"jobName": "report", "dependsOn": ["collect", "each"]},
        {"jobName": "nothing", "dependsOn": "report"},
    )
    site.here.start(WORKER_QUEUES="high")
    site.elsewhere.start(WORKER_QUEUES="low")
    study_id = site.send()
    site.platform.wait_for(study_id, "finished", 60)
    series = sorted(path.name for path in site.results("each").iterdir())
    assert site.results("collect").joinpath("counts").read_text() == "2 3"
    assert json.loads(site.results("report").joinpath("report.json").read_text()) == {
        "collect": ["counts", "environ.json"], "each": series,
    }  # fmt: skip
    for name in series:
        folder = site.results("each") / name
        assert sorted(path.name for path in folder.iterdir()) == ["deep", "environ.json", "link"]
        assert os.access(folder / "deep" / "count", os.X_OK)
        assert (folder / "deep" / "empty").is_dir()
        assert str(folder.joinpath("link").readlink()) == "deep/count"
    assert site.results("nothing").is_dir()

    attempts = {name: job["attempts"][0] for name, job in site.platform.jobs(study_id).items()}
    assert list(attempts["report"]["phases"]) == ["module", "environment", "fetch", "inputs", "run", "output"]
    assert list(attempts["collect"]["phases"]) == ["module", "environment", "fetch", "run"]
    assert site.attempts() == []
    assert site.asked("GET", f"/results/{study_id}/collect")
    wait_until(lambda: not spooled(site.elsewhere.base / "run" / "spool"), 10, "nothing is left elsewhere")
    assert sorted(path.name for path in (site.elsewhere.base / "data").iterdir()) == ["dicom"]
    environ = json.loads((site.results("each") / series[0] / "environ.json").read_text())
    assert not any(token in str(environ) for token in TOKENS.values())
    assert not any("SECRET" in key or "TOKEN" in key for key in environ)


def test_where_data_is_shared_the_scheduler_is_not_asked(site: Site) -> None:
    site.install(
        "def work(output_dir, **kwargs):\n    open(output_dir + '/a', 'w')\n",
        {"jobName": "job"},
        {"jobName": "next", "dependsOn": "job"},
    )
    site.server.stop()
    site.here.start(WORKER_QUEUES="low")
    site.platform.wait_for(site.send(), "finished", 60)
    assert (site.results("next") / "a").exists()


def test_another_host_that_mounts_data_is_known_by_its_id(site: Site) -> None:
    """MODULES is its own, DATA is shared: the code travels, and nothing else."""
    site.install("def work(output_dir, **kwargs):\n    open(output_dir + '/a', 'w')\n", {"jobName": "job"})
    site.elsewhere.start(WORKER_QUEUES="low", DATA=str(site.platform.settings.data))
    site.send()
    assert list(site.ended()["attempts"][0]["phases"]) == ["module", "environment", "fetch", "run"]
    assert (site.results() / "a").exists()
    assert len(site.asked("GET", "/versions/")) == 1
    assert site.asked("PUT", "/output") == []


SLOW = """
    import pathlib, time
    def work(output_dir, **kwargs):
        pathlib.Path(output_dir, "runs").write_text("once")
        pathlib.Path({flag!r} + ".at").touch()
        while not pathlib.Path({flag!r}).exists():
            time.sleep(0.02)
"""


def at_work(site: Site) -> Path:
    """Have the job run elsewhere until the file is made that this returns."""
    flag = site.folder / "flag"
    site.install(SLOW.format(flag=str(flag)), {"jobName": "job"})
    site.elsewhere.start(WORKER_QUEUES="low")
    site.send()
    wait_until(lambda: flag.with_name("flag.at").exists(), 30, "the function runs")
    return flag


def test_output_waits_for_a_scheduler_that_is_away(site: Site) -> None:
    flag = at_work(site)
    site.server.stop()
    flag.touch()
    line = site.elsewhere.logged("trying again until the scheduler answers")
    assert "SCHEDULER_PORT" in line["error"]
    assert site.job()["state"] == "started"
    site.server.start()
    job = site.ended()
    assert (job["state"], len(job["attempts"])) == ("finished", 1)
    assert (site.results() / "runs").read_text() == "once"


def test_a_scheduler_that_is_killed_while_output_comes_has_all_of_it_in_the_end(site: Site) -> None:
    flag = site.folder / "flag"
    site.install(
        SLOW.format(flag=str(flag)) + "        open(output_dir + '/big', 'wb').truncate(300_000_000)\n",
        {"jobName": "job"},
    )
    site.elsewhere.start(WORKER_QUEUES="low")
    site.send()
    flag.touch()
    wait_until(lambda: any(name.endswith(".part") for name in site.attempts()), 60, "it comes", every=0.002)
    assert site.server.process is not None
    for child in _family(site.server.process.pid):
        os.kill(child, signal.SIGKILL)
    site.server.process.wait(10)
    assert [name.endswith(".part") for name in site.attempts()] == [True]
    site.server.process = None
    site.server.start()
    job = site.ended()
    assert (job["state"], len(job["attempts"])) == ("finished", 1)
    assert (site.results() / "big").stat().st_size == 300_000_000
    assert site.attempts() == []


def _family(pid: int) -> list[int]:
    import psutil

    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def test_cancelling_ends_the_wait_for_the_scheduler(site: Site) -> None:
    flag = at_work(site)
    site.server.stop()
    flag.touch()
    site.elsewhere.logged("trying again until the scheduler answers")
    site.platform.transport.request_cancel([site.job()["attempts"][0]["attemptId"]])
    assert site.ended()["state"] == "cancelled"


def test_a_worker_told_to_stop_hands_back_what_it_cannot_send(site: Site) -> None:
    flag = at_work(site)
    site.server.stop()
    flag.touch()
    site.elsewhere.logged("trying again until the scheduler answers")
    (worker,) = site.elsewhere.workers
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    site.server.start()
    site.elsewhere.start(WORKER_QUEUES="low")
    job = site.ended()
    assert [attempt["state"] for attempt in job["attempts"]] == ["handed_back", "finished"]


def test_what_a_failed_attempt_left_stands_at_the_scheduler_for_a_look(site: Site) -> None:
    job = site.run("def work(output_dir, **kwargs):\n    open(output_dir + '/half', 'w')\n    raise ValueError('no')\n")
    assert (job["state"], job["attempts"][0]["exitReason"]) == ("failed", "exception")
    assert site.attempts() == [job["attempts"][0]["attemptId"]]
    assert (site.platform.settings.data / "attempts" / site.attempts()[0] / "half").exists()


def test_a_failed_attempt_does_not_wait_for_the_scheduler(site: Site) -> None:
    flag = site.folder / "flag"
    site.install(SLOW.format(flag=str(flag)) + "        raise ValueError('no')\n", {"jobName": "job"})
    site.elsewhere.start(WORKER_QUEUES="low")
    site.send()
    wait_until(lambda: flag.with_name("flag.at").exists(), 30, "the function runs")
    site.server.stop()
    flag.touch()
    assert site.ended(20)["attempts"][0]["error"] == "ValueError: no"
    site.elsewhere.logged("what the attempt left was not sent")


def test_what_cannot_travel_is_named_in_the_jobs_log(site: Site) -> None:
    job = site.run(
        """
        import os
        def work(output_dir, **kwargs):
            os.mkfifo(output_dir + "/pipe")
            os.symlink("/etc/passwd", output_dir + "/out")
            open(output_dir + "/kept", "w").write("kept")
            os.mkdir(output_dir + "/closed")
            open(output_dir + "/closed/file", "w").write("closed")
            os.chmod(output_dir + "/closed/file", 0)
            os.chmod(output_dir + "/closed", 0)
        """
    )
    assert job["state"] == "finished"
    assert sorted(path.name for path in site.results().iterdir()) == ["closed", "kept"]
    assert (site.results() / "closed" / "file").read_text() == "closed"
    log = site.platform.settings.logs / "jobs" / str(site.study and site.study.study_id) / job["jobId"] / "1.log"
    wait_until(lambda: log.exists() and "not among the results" in log.read_text(), 10, "the log has come")
    assert log.read_text().rstrip("]\n").endswith(": out, pipe")
    assert log.stat().st_size == job["attempts"][0]["details"]["logSize"]


def test_output_that_is_too_deep_to_travel_fails_the_job_and_says_so(site: Site) -> None:
    job = site.run("import os\ndef work(output_dir, **kwargs):\n    os.makedirs(output_dir + '/d' * 80)\n")
    assert (job["state"], job["attempts"][0]["exitReason"]) == ("failed", "output")
    assert "deep" in job["reason"]


def test_an_input_that_is_gone_fails_the_job_after_some_tries(site: Site) -> None:
    site.install(
        "def work(**kwargs):\n    pass\n",
        {"jobName": "first", "priority": "high"},
        {"jobName": "job", "dependsOn": "first"},
    )
    site.here.start(WORKER_QUEUES="high")
    study_id = site.send()
    wait_until(lambda: site.platform.states(study_id).get("first") == "finished", 30, "the first job has ended")
    site.results("first").rmdir()
    site.elsewhere.start(WORKER_QUEUES="low")
    wait_until(lambda: site.job()["attempts"][0]["endedAt"], 30, "the attempt has ended")
    attempt = site.job()["attempts"][0]
    assert (attempt["exitReason"], list(attempt["phases"])[-1]) == ("fetch", "inputs")
    assert "no such results" in attempt["error"]


def test_a_scheduler_whose_disk_takes_nothing_is_waited_for(site: Site) -> None:
    flag = at_work(site)
    in_the_way = site.platform.settings.data / "attempts"
    in_the_way.write_text("no folder")
    flag.touch()
    assert "answers 500" in site.elsewhere.logged("trying again until the scheduler answers")["error"]
    in_the_way.unlink()
    assert site.ended()["state"] == "finished"
    assert (site.results() / "runs").read_text() == "once"


def test_an_attempt_that_nobody_waits_for_ends_all_the_same(site: Site) -> None:
    """It was lost, say, and another one runs."""
    flag = at_work(site)
    attempt_id = site.job()["attempts"][0]["attemptId"]
    with site.platform.ledger.write() as db:
        db.execute(update(schema.attempts).values(state="lost", ended_at=time.time()))
    flag.touch()
    site.elsewhere.logged("nobody waits for what the attempt left")
    wait_until(lambda: site.platform.transport.acknowledged(attempt_id), 10, "its outcome was heard, and dropped")
    assert site.attempts() == []
    assert not site.results().exists()


# -- module code


def digest_of(site: Site) -> str:
    return site.install("def work(**kwargs):\n    pass\n", {"jobName": "job"})


def test_a_version_is_fetched_once_however_many_want_it(site: Site) -> None:
    digest = digest_of(site)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: module_folder(site.settings, "svc", digest), range(8)))
    assert folders == {site.elsewhere.base / "modules" / ".versions" / "svc" / digest}
    assert folders.pop().joinpath("__init__.py").read_text() == "def work(**kwargs):\n    pass\n"
    wait_until(lambda: site.asked("GET", "/versions/"), 5, "the scheduler's log has it")
    assert len(site.asked("GET", "/versions/")) == 1
    assert not (site.elsewhere.base / "modules" / ".versions" / ".fetched").exists()
    assert Store.of(site.settings).services() == []


def test_code_that_was_changed_at_the_scheduler_is_refused(site: Site) -> None:
    """Its digest says what it is to be."""
    digest = digest_of(site)
    file = site.platform.store.module_folder("svc", digest) / "__init__.py"
    file.chmod(0o644)
    file.write_text("def work(**kwargs):\n    print('something else')\n")
    with pytest.raises(ServiceError, match="has another content"):
        module_folder(site.settings, "svc", digest)
    assert not Store.of(site.settings).module_folder("svc", digest).exists()
    assert [path.name for path in (site.elsewhere.base / "modules" / ".versions").iterdir()] == [".fetch.lock"]


def test_compiled_files_do_not_come_along(site: Site) -> None:
    """The digest does not cover them, and Python would run them instead of what it covers."""
    digest = digest_of(site)
    cached = site.platform.store.module_folder("svc", digest) / "__pycache__"
    cached.mkdir()
    (cached / "__init__.cpython-311.pyc").write_bytes(b"evil")
    assert not (module_folder(site.settings, "svc", digest) / "__pycache__").exists()


def test_code_of_other_services_comes_too_where_it_is_imported(site: Site) -> None:
    """And what that imports; nothing else travels."""
    never = [{"jobName": "never", "disabled": True}]
    for name, code in (("base", "from deeper import VALUE\n"), ("deeper", "VALUE = 7\n"), ("unasked", "")):
        jobs = [{**job, "jobName": f"{name}-never"} for job in never]
        site.platform.install(name, jobs, YES, site.folder / "sources", code)
    job = site.run(
        """
        import pathlib

        def work(output_dir, **kwargs):
            from base import VALUE
            pathlib.Path(output_dir, "value").write_text(str(VALUE))
        """
    )
    assert job["state"] == "finished", job
    assert (site.results() / "value").read_text() == "7"
    fetched = {path.name for path in (site.elsewhere.base / "modules" / ".versions").iterdir() if path.is_dir()}
    assert fetched == {"svc", "base", "deeper"}


def test_code_of_another_service_that_nobody_has_is_told_in_the_jobs_log(site: Site) -> None:
    site.platform.install("base", [{"jobName": "x", "disabled": True}], YES, site.folder / "sources", "VALUE = 7\n")
    for folder in (site.platform.settings.modules, site.platform.settings.registry):
        for version in (folder / ".versions" / "base").iterdir():
            if folder == site.platform.settings.modules:
                service_tree.remove(version)
    job = site.run("def work(**kwargs):\n    import base\n    print(base.VALUE)\n")
    assert job["state"] == "failed"
    log = site.platform.settings.logs / "jobs" / job["studyId"] / job["jobId"] / "1.log"
    said = "the code of service base cannot be imported: version "
    wait_until(lambda: log.exists() and said in log.read_text(), 10, "the log has come, and says it")


def test_what_a_killed_fetch_left_is_cleared(site: Site) -> None:
    digest = digest_of(site)
    (site.elsewhere.base / "modules" / ".versions" / ".fetched" / "half").mkdir(parents=True)
    assert module_folder(site.settings, "svc", digest).is_dir()


def test_a_version_that_nobody_has(site: Site) -> None:
    digest = digest_of(site)
    for folder in (
        site.platform.store.module_folder("svc", digest),
        site.platform.store.registry_folder("svc", digest),
    ):
        service_tree.remove(folder)
    with pytest.raises(ServiceError, match=r"neither in .* nor at the scheduler; install it again"):
        module_folder(site.settings, "svc", digest)


def test_a_job_whose_version_nobody_has_any_more_fails_and_says_so(site: Site) -> None:
    digest = digest_of(site)
    site.send()
    wait_until(lambda: site.job().get("attempts"), 20, "it is queued")
    service_tree.remove(site.platform.store.module_folder("svc", digest))
    site.elsewhere.start(WORKER_QUEUES="low")
    attempt = site.ended()["attempts"][0]
    assert (attempt["exitReason"], list(attempt["phases"])) == ("module", ["module"])
    assert f"version {digest} of service svc" in attempt["error"]


def test_a_scheduler_that_does_not_answer(site: Site) -> None:
    settings = site.settings.model_copy(update={"SCHEDULER_PORT": free_port()})
    with pytest.raises(SchedulerUnavailableError, match=r"no scheduler answers at http://127\.0\.0\.1:\d+"):
        module_folder(settings, "svc", "0" * 32)


def test_something_else_that_answers(site: Site) -> None:
    settings = site.settings.model_copy(update={"SCHEDULER_PORT": site.orthanc.http_port})
    with pytest.raises(SchedulerUnavailableError, match="is no scheduler of this version"):
        module_folder(settings, "svc", "0" * 32)


@pytest.mark.parametrize("place", ["modules", "registry"])
def test_a_host_that_cannot_keep_code(site: Site, place: str) -> None:
    digest = digest_of(site)
    (site.elsewhere.base / place).write_text("no folder")
    with pytest.raises(TransientError, match=f"{place}.*a worker needs to write to MODULES and REGISTRY"):
        module_folder(site.settings, "svc", digest)


def test_a_rotated_token_holds_from_the_next_request_on(site: Site, tmp_path: Path) -> None:
    digest, secret = digest_of(site), site.elsewhere.base / "secrets" / "worker_token"
    with Exchange(site.settings) as exchange:
        secret.write_text("an-old-token")
        with pytest.raises(SchedulerUnavailableError, match="refuses our token") as caught:
            exchange.version("svc", digest, tmp_path / "came")
        assert "an-old-token" not in str(caught.value)
        secret.unlink()
        with pytest.raises(SchedulerUnavailableError, match="worker_token does not exist"):
            exchange.version("svc", digest, tmp_path / "came")
        secret.write_text(TOKENS["worker_token"])
        exchange.version("svc", digest, tmp_path / "came")
    assert (tmp_path / "came" / "module").is_dir()


def test_a_service_that_is_no_more_current_travels_all_the_same(site: Site) -> None:
    """A plan pins its versions."""
    digest = digest_of(site)
    site.platform.store.remove("svc")
    assert module_folder(site.settings, "svc", digest).is_dir()


def test_the_id_of_data_is_made_by_the_controller_alone(site: Site) -> None:
    site.run("def work(**kwargs):\n    pass\n")
    assert len(data_id.read(site.platform.settings.data)) == 32
    assert data_id.read(site.settings.data) == ""
    assert site.job()["attempts"][0]["exitReason"] == ExitReason.DONE


def test_what_a_job_elsewhere_named_is_listed_and_what_it_left_is_got_anywhere(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named results by the outcome, files by the scheduler; a failed attempt's are its own."""
    work = """
        from dcm_processor_job import progress, result

        def work(attempt, output_dir, headers, **kwargs):
            progress(0.5, "half")
            result("attempt", attempt)
            if attempt == 1:
                raise ValueError("not yet")
            result("modality", headers["Modality"])
            open(output_dir + "/mask.txt", "w").write("mask")
    """
    job = site.run(work, retry={"max": 1, "interval": [0]})
    assert [attempt["state"] for attempt in job["attempts"]] == ["failed", "finished"]
    named = [[(each["name"], each["value"]) for each in attempt["results"]] for attempt in job["attempts"]]
    assert named == [[("attempt", 1)], [("attempt", 2), ("modality", "CT")]]

    desk = tmp_path / "desk"  # a third machine, with the token and nothing else
    (desk / "secrets").mkdir(parents=True)
    (desk / "secrets" / "scheduler_token").write_text(TOKENS["scheduler_token"])
    for key, value in (("BASEDIR", desk), ("DCM_PROCESSOR_HOME", desk), ("SCHEDULER_PORT", site.server.port)):
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("MODE", "local")
    site.platform.stop()  # the controller runs in this process: its log would stand among what the commands print
    cli = Cli(desk)
    (listed,) = json.loads(cli.done("result", "list", "--service", "svc", "--json"))
    assert [each["value"] for each in listed["results"]] == [2, "CT"]
    patient = listed["PatientID"]
    assert patient
    cli.done("result", "get", "--query", f"PatientID={patient}", "Modality=CT", "-o", desk / "out")
    (mask,) = (desk / "out").rglob("mask.txt")
    assert mask.read_text() == "mask"
    assert mask.parent.parent.name.startswith(patient.replace("^", "_"))
    assert "nothing matches" in cli.done("result", "get", "--query", "Modality=MR", "-o", desk / "other")

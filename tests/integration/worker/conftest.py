"""A worker as `python -m worker` starts it, with a real Valkey, and a test in the place of the controller."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import Worker

from dcm_processor.identity import split_attempt_id
from dcm_processor.outcome import Outcome
from dcm_processor.settings import CHECKOUT, Settings
from dcm_processor.store import Store
from dcm_processor.transport import LOGS, REPORTS, Order, PlanOrder, Report, Transport, parse_report
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from worker.reaper import family

DIGEST = "0" * 32
STUDY = "aaaaaaaa-bbbbbbbb-cccccccc-dddddddd-00000001"
SERIES = "aaaaaaaa-bbbbbbbb-cccccccc-dddddddd-00000002"


class Stand:
    """One host's folders, its workers, and what the controller would do."""

    def __init__(self, base: Path, valkey: ValkeyServer, envs: Path) -> None:
        self.base = base
        self.valkey = valkey
        base.mkdir(parents=True)
        (base / "envs").symlink_to(envs)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "MODE": "local",
            "BASEDIR": str(base),
            "REDIS_URL": valkey.url,
            "DATABASE_URL": "postgresql+psycopg://worker-must-not-know",
            "ORTHANC_REST_URL": "http://127.0.0.1:9",
            "ORTHANC_REST_PASSWORD": "orthanc-secret",
            "SCHEDULER_PORT": "9",
            "WORKER_STOP_GRACE": "0.5",
            **{key: value for key, value in os.environ.items() if key.startswith(("UV_", "SSL_CERT_"))},
        }
        self.settings = Settings(
            BASEDIR=base, REDIS_URL=valkey.url, ORTHANC_REST_URL="http://127.0.0.1:9", ORTHANC_REST_PASSWORD="x"
        )
        (base / "data").mkdir()
        self.transport = Transport(valkey.url)
        self.workers: list[subprocess.Popen[bytes]] = []

    # -- what is installed

    def service(self, code: str, name: str = "svc", digest: str = DIGEST, **files: str) -> None:
        """Install module code; its environment is empty unless `requirements` says otherwise."""
        folder = Store.of(self.settings).module_folder(name, digest)
        folder.mkdir(parents=True)
        (folder / "job.py").write_text(textwrap.dedent(code))
        (folder / "requirements.txt").write_text(files.pop("requirements", ""))
        for stem, text in files.items():
            (folder / f"{stem}.py").write_text(textwrap.dedent(text))

    # -- what the controller does

    def order(self, attempt_id: str = "job-1", worker: str = "svc.job.work", **values: Any) -> Order:
        fields: dict[str, Any] = {
            "attemptId": attempt_id, "jobId": split_attempt_id(attempt_id)[0], "attempt": 1, "planId": "plan-1",
            "studyId": STUDY, "seriesId": None, "jobName": "job", "worker": worker,
            "service": worker.split(".", maxsplit=1)[0], "digest": DIGEST, "timeout": 60.0, "memory": None,
            "params": {}, "inputs": {}, "outcomes": {},
        }  # fmt: skip
        return Order(**(fields | values))

    def plan(self, **values: Any) -> PlanOrder:
        headers = {"patientId": "p", "studyId": STUDY, "seriesIds": [], "series": []}
        fields: dict[str, Any] = {
            "planId": "plan-1", "studyId": STUDY, "headers": headers, "selected": ["Modality"],
            "instances": {SERIES: []},  # none: no Orthanc is needed
        }  # fmt: skip
        return PlanOrder(**(fields | values))

    def enqueue(
        self, attempt_id: str = "job-1", *, queue: str = "default", plan: PlanOrder | None = None, **values: Any
    ) -> str:
        """Lay down an order and put its attempt on a queue, as the controller does."""
        self.transport.ask(self.transport.laying_down(plan or self.plan(), [self.order(attempt_id, **values)]))
        self.push(attempt_id, queue=queue)
        return attempt_id

    def push(self, attempt_id: str, queue: str = "default", function: str = "worker.run.run_attempt") -> None:
        Queue(queue, connection=self.transport.redis, serializer=JSONSerializer).enqueue_call(
            function, args=(attempt_id,), job_id=attempt_id, timeout=-1, result_ttl=500, failure_ttl=86400
        )

    def reports(self, attempt_id: str, kind: str) -> list[Report]:
        entries = self.transport.read({REPORTS: "0"}, block_ms=1).get(REPORTS, [])
        found = [parse_report(entry) for _, entry in entries]
        return [report for report in found if report.attemptId == attempt_id and report.kind == kind]

    def shipped(self, attempt_id: str = "job-1") -> bytes:
        """The attempt's log as far as it is in the stream; told to the worker as received."""
        entries = [entry for _, entry in self.transport.read({LOGS: "0"}, block_ms=1).get(LOGS, [])]
        log = b""
        for entry in entries:
            if entry["attemptId"].decode() == attempt_id and int(entry["offset"]) == len(log):
                log += entry["chunk"]
        self.transport.log_taken(attempt_id, len(log))
        return log

    def started(self, attempt_id: str = "job-1", seconds: float = 15) -> Report:
        return wait_until(lambda: self.reports(attempt_id, "started"), seconds, f"{attempt_id} started")[0]

    def outcome(self, attempt_id: str = "job-1", seconds: float = 20) -> Outcome:
        """The attempt's outcome, waited for."""
        found = wait_until(lambda: self.reports(attempt_id, "outcome"), seconds, f"outcome of {attempt_id}")
        return Outcome.from_json(found[0].outcome)

    def acknowledge(self, attempt_id: str = "job-1") -> None:
        self.transport.forget_attempts([attempt_id], acknowledge=True)

    def rq_failure(self, attempt_id: str = "job-1") -> str:
        """All that RQ keeps of a failure, waited for."""
        result = wait_until(lambda: self.rq_job(attempt_id).latest_result(), 10, "RQ's result")
        return str(result.exc_string) if result is not None else ""

    def rq_job(self, attempt_id: str = "job-1") -> Job:
        return Job.fetch(attempt_id, connection=self.transport.redis, serializer=JSONSerializer)

    def rq_states(self) -> list[str]:
        """The states of all workers that RQ's tools show."""
        return [worker.get_state() for worker in Worker.all(connection=self.transport.redis)]

    # -- what the host shows

    def output(self, attempt_id: str = "job-1") -> Path:
        return self.base / "data" / "attempts" / attempt_id

    def spooled(self, attempt_id: str = "job-1") -> Path:
        return self.base / "run" / "spool" / attempt_id

    def log(self, attempt_id: str = "job-1") -> str:
        return (self.spooled(attempt_id) / "log").read_text(errors="replace")

    def written(self, name: str, attempt_id: str = "job-1", seconds: float = 15) -> str:
        """What the job wrote into a file of its output folder, waited for."""
        path = self.output(attempt_id) / name
        return wait_until(lambda: path.read_text() if path.exists() else "", seconds, f"{path} is written")

    def processes(self) -> dict[int, str]:
        """Processes that a job of this stand started, or that run it."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = str(self.base).encode() in (entry / "environ").read_bytes() + command.encode()
                if ours and "valkey" not in command and int(entry.name) != os.getpid():
                    found[int(entry.name)] = command
            except OSError:
                continue
        return found

    def of_jobs(self, worker: "subprocess.Popen[bytes]") -> set[int]:
        """Those of them that belong to no idle worker: neither it nor the horse to come."""
        return set(self.processes()) - {worker.pid, horse_of(worker)}

    # -- workers

    def start(self, changed: str = "", **environ: str) -> subprocess.Popen[bytes]:
        """Start a worker; `changed` is Python that it runs first."""
        program = f"{changed}\nimport worker.__main__\nraise SystemExit(worker.__main__.main())"
        with (self.base / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, *(("-c", program) if changed else ("-m", "worker"))],
                cwd=CHECKOUT, env=self.environ | environ, stdout=log, stderr=log,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def worker_log(self) -> list[dict[str, Any]]:
        lines = (self.base / "worker.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, message: str, seconds: float = 15) -> dict[str, Any]:
        """A line of the worker's log, waited for."""
        return wait_until(
            lambda: next((line for line in self.worker_log() if message in line.get("message", "")), None) or {},
            seconds,
            message,
        )

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait(10)
        wait_until(lambda: not self.processes(), 10, "nothing of the stand's jobs lives on")
        self.transport.close()


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[str]:
    """A TMPDIR for workers that is as short as a system's own."""
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        yield folder


@pytest.fixture
def stand(tmp_path: Path, valkey: ValkeyServer, shared_envs: Path, short_tmp: str) -> Iterator[Stand]:
    stand = Stand(tmp_path / "base", valkey, shared_envs)
    stand.environ["TMPDIR"] = short_tmp
    try:
        yield stand
    finally:
        stand.close()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey to stop, restart and empty."""
    server = ValkeyServer(tmp_path / "own-valkey")
    try:
        yield server
    finally:
        server.stop()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def command_of(pid: int) -> bytes:
    """A process's command line; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def horse_of(worker: subprocess.Popen[bytes]) -> int:
    """The work-horse of a worker, or what waits to be the next one; waited for."""
    command = command_of(worker.pid)

    def found() -> list[int]:
        children = [pid for pid, each in family(worker.pid).items() if each.parent == worker.pid and not each.ended]
        return [pid for pid in children if command_of(pid) == command]

    return wait_until(found, 10, "a horse")[0]

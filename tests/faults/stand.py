"""The platform under test: a BASEDIR, its programs under supervisord as in local mode, and the links between them."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import redis
import requests
from prometheus_client.parser import text_string_to_metric_families

from dcm_processor import basedir, server_files
from dcm_processor.ledger import Ledger
from dcm_processor.local import configuration
from dcm_processor.local.processes import Process, end_marked, marked
from dcm_processor.local.programs import Program, programs
from dcm_processor.local.supervisor import Supervisor, place_for_socket
from dcm_processor.redis_connection import connect
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from tests.faults import services
from tests.faults.links import Network
from tests.servers import free_port
from tests.waiting import wait_until

LOST_AFTER = 25.0
"""Seconds without announcement after which an attempt is lost here: more than those until outcomes are sent again."""
DATA_SIZE = 64 * 1024 * 1024
"""Bytes of the disk that DATA is on, where this user may mount one."""
STABLE_AGE = 1
_START_SECONDS = 90.0
_WORKERS_FIRST = ("worker", "controller", "scheduler", "orthanc", "redis")


class Stand:
    """Everything that runs."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.record = folder / "record.jsonl"
        self.network = Network()
        ports = {key: free_port() for key in ("DICOM_PORT", "ORTHANC_PORT", "REDIS_PORT", "SCHEDULER_PORT")}
        self.data = folder / "data"
        self.disk = _mount(self.data)
        self.settings = Settings(
            MODE="local", BASEDIR=folder / "base", DATA=self.data, STABLE_AGE=STABLE_AGE, CALLBACK_TIMEOUT=5,
            WORKER_STOP_GRACE=1, LOST_AFTER=LOST_AFTER, **ports,
        )  # fmt: skip
        self._workers = workers
        self._without = folder / "without"
        self._supervisor = Supervisor(self.settings.run / "supervisord.sock")
        self._http = requests.Session()

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- up and down

    def _prepare(self) -> None:
        basedir.prepare(self.settings)
        with closing(Ledger(self.settings.database_url)) as ledger:
            ledger.migrate()
        server_files.write(self.settings)
        ports = self.settings
        for name, target in {
            "scheduler-redis": ports.REDIS_PORT,
            "controller-redis": ports.REDIS_PORT,
            "worker-redis": ports.REDIS_PORT,
            "controller-orthanc": ports.ORTHANC_PORT,
            "worker-orthanc": ports.ORTHANC_PORT,
            "orthanc-scheduler": ports.SCHEDULER_PORT,
            "scanner-orthanc": ports.DICOM_PORT,
        }.items():
            self.network.add(name, target)

    def install(self, jobs: Sequence[services.Job]) -> None:
        """Install the services."""
        store = Store.of(self.settings)
        for name, source in services.write(tuple(jobs), self.folder / "services", self.record).items():
            store.install(name, source)

    def start(self) -> None:
        """Start everything and return when all of it answers."""
        socket = place_for_socket(self.settings.run)
        self._supervisor = Supervisor(socket)
        environment = configuration.environment(self.settings, os.environ, socket)
        wanted = [self._linked(program) for program in self._programs()]
        conf = self.settings.run / "supervisord.conf"
        basedir.write_private(conf, configuration.supervisord_conf(wanted, 0o022))
        self._supervisor.start(conf, environment)
        self.wait_for_health()

    def stop(self) -> list[Process]:
        """Stop everything, workers first, as `run.sh --down` does; returns what had to be killed."""
        if self._supervisor.alive():
            for kind in _WORKERS_FIRST:
                self._supervisor.stop(name for name in self.pids() if name.startswith(kind))
            self._supervisor.shut_down(patience=40)
        return end_marked(self.settings.BASEDIR, patience=40)

    def close(self) -> None:
        """Have nothing left of it but its files."""
        for process in marked(self.settings.BASEDIR):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        end_marked(self.settings.BASEDIR, patience=5)
        self.network.close()
        self._http.close()
        if self.disk:
            subprocess.run(["umount", "--lazy", self.data], check=True)

    def heal(self) -> None:
        """Have every link pass, every process go on, every program run, and room on the disk."""
        self.network.heal()
        self.fill(full=False)
        for process in marked(self.settings.BASEDIR):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        if not self._supervisor.alive():
            self.start()
        self._supervisor.start_stopped()
        self.wait_for_health()

    def wait_for_health(self) -> None:
        """Return when scheduler, ledger, Redis, Orthanc and workers answer."""
        wait_until(self._healthy, _START_SECONDS, "everything answers", every=0.2)

    def _healthy(self) -> bool:
        try:
            auth = ("admin", self.settings.secret("orthanc_admin_password"))
            return (
                self._http.get(f"{self.settings.scheduler_url}/health/ready", timeout=5).ok
                and self._http.get(f"{self.settings.orthanc_url}/system", auth=auth, timeout=5).ok
                and self._met()
            )
        except (requests.RequestException, redis.RedisError, OSError):
            return False

    def _met(self) -> bool:
        """Whether the controller has met Orthanc: what comes from now on is planned."""
        return bool(self.ask("SELECT 1 FROM facts WHERE name = 'orthanc' AND value IS NOT NULL"))

    # -- the programs

    def _programs(self) -> list[Program]:
        found = [program for program in programs(self.settings, self._workers) if program.name != "dashboard"]
        controller = (sys.executable, "-m", "tests.faults.controller", str(self._without))
        return [replace(each, command=controller) if each.name == "controller" else each for each in found]

    def _linked(self, program: Program) -> Program:
        """The program, with the addresses of its links in its environment."""
        kind = program.name.partition("_")[0]
        given: dict[str, str] = {}
        if (link := self.network.links.get(f"{kind}-redis")) is not None:
            password = self.settings.secrets / "redis_password"
            given["REDIS_URL"] = f"redis://127.0.0.1:{link.port}/0?password_file={password}"
        if (link := self.network.links.get(f"{kind}-orthanc")) is not None:
            given["ORTHANC_REST_URL"] = f"http://127.0.0.1:{link.port}"
        if kind == "orthanc":
            hook = self.network.links["orthanc-scheduler"].port
            given["HOOK_URL"] = f"http://127.0.0.1:{hook}/stable-study"
        return replace(program, command=("env", *(f"{key}={value}" for key, value in given.items()), *program.command))

    def pids(self) -> dict[str, int]:
        """The process number of each program, 0 where it does not run."""
        return {status.name: status.pid for status in self._supervisor.status()}

    def restart(self, name: str, *, emptied: bool = False) -> None:
        """Stop a program and start it; `emptied`: Redis without what it had on its disk."""
        self._supervisor.stop([name])
        if emptied:
            shutil.rmtree(self.settings.BASEDIR / "redis" / "appendonlydir", ignore_errors=True)
        self._supervisor.start_stopped()

    def stop_program(self, name: str) -> None:
        """Stop a program until it is restarted."""
        self._supervisor.stop([name])

    def switch_off(self, repair: str) -> None:
        """Have the controller do without a repair (`controller.WITHOUT`); "": it has all of them again."""
        self._without.write_text(repair)
        self.restart("controller")

    def clear_changes(self) -> None:
        """Have Orthanc forget its changes, as whoever reads them may."""
        auth = ("admin", self.settings.secret("orthanc_admin_password"))
        self._http.delete(f"{self.settings.orthanc_url}/changes", auth=auth, timeout=5).raise_for_status()

    # -- the disk

    def fill(self, *, full: bool) -> None:
        """Leave no room on DATA's disk, or give it back; only on one of its own."""
        if not self.disk:
            return
        filler = self.data / ".filler"
        if not full:
            filler.unlink(missing_ok=True)
            return
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    # -- what it says of itself

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.secret('scheduler_token')}"}

    def api(self, path: str) -> Any:
        """The scheduler's answer, or None where it does not know that."""
        answer = self._http.get(f"{self.settings.scheduler_url}/api/v1/{path}", headers=self._headers, timeout=60)
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        return answer.json()

    def repairs(self) -> dict[str, int]:
        """How many differences of each kind the platform says it has closed (GET /metrics)."""
        answer = self._http.get(f"{self.settings.scheduler_url}/metrics", headers=self._headers, timeout=60)
        answer.raise_for_status()
        samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
        name = "dcm_processor_repairs_total"
        return {sample.labels["kind"]: int(sample.value) for sample in samples if sample.name == name}

    def studies(self) -> Iterator[dict[str, Any]]:
        """Every study the scheduler knows, with its plans, jobs and attempts."""
        cursor = ""
        while True:
            page = self.api(f"studies?limit=100{cursor}")
            for item in page["items"]:
                yield self.api(f"studies/{item['studyId']}")
            if not page["nextCursor"]:
                return
            cursor = f"&cursor={page['nextCursor']}"

    @property
    def ledger(self) -> Path:
        return self.settings.BASEDIR / "db" / "ledger.sqlite"

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """Look into the ledger; nothing where it is locked."""
        try:
            with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=2)) as db:
                return db.execute(question).fetchall()
        except sqlite3.Error:
            return []

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """A connection of the harness's own, past the links."""
        with closing(connect(self.settings.redis_url, socket_timeout=2, socket_connect_timeout=2)) as client:
            yield client


def _mount(place: Path) -> bool:
    """Have a small disk of its own at `place`; False where this user may not."""
    place.mkdir(parents=True)
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        return False
    options = ["-t", "tmpfs", "-o", f"size={DATA_SIZE}", "tmpfs", str(place)]
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0

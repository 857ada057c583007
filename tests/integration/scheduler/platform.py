"""A platform for tests: a real ledger, Valkey and Orthanc, a real controller, and a worker that does as it is told."""

import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from dcm_processor.ledger import repairs
from dcm_processor.outcome import Outcome
from dcm_processor.settings import CHECKOUT, Settings
from dcm_processor.store import Store
from dcm_processor.transport import Order, PlanOrder, Report, Transport
from dcm_processor.vocabulary import EventKind, ExitReason, RepairKind
from scheduler import controller, repair
from scheduler.controller import Controller
from tests.dicom import StudyFiles, make_study, upload
from tests.ledgers import new_ledger
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until

YES = "def applies(**kwargs):\n    return True\n"


def hangs_once(marker: Path) -> str:
    """A callback that hangs the first time, which it notes in `marker`."""
    return f"""
        import os, time
        def applies(**kwargs):
            first = not os.path.exists({str(marker)!r})
            open({str(marker)!r}, "a").close()
            if first:
                time.sleep(1000)
            return True
    """


class Platform:
    """BASEDIR and its controller; `with` runs the controller in a thread."""

    def __init__(self, basedir: Path, valkey: ValkeyServer, orthanc: OrthancServer, **settings: Any) -> None:
        self.settings = Settings(
            MODE="local",
            BASEDIR=basedir,
            REDIS_URL=valkey.url,
            ORTHANC_REST_URL=orthanc.url,
            ORTHANC_REST_PASSWORD=orthanc.password,
            **{"CALLBACK_TIMEOUT": 2, **settings},
        )
        basedir.mkdir(parents=True, exist_ok=True)
        self.ledger = new_ledger(self.settings.database_url)
        self.transport = Transport(valkey.url)
        self.store = Store.of(self.settings)
        self._controller: Controller | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._controller is not None:
            self._controller._ledger.close()
        self.ledger.close()
        self.transport.close()
        gc.unfreeze()  # what the controller froze would stay as long as this process, which has many of them

    def start(self) -> None:
        self._controller = Controller(self.settings)
        self._thread = threading.Thread(target=self._controller.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._controller is not None and self._thread is not None:
            self._controller.stop()
            self._thread.join(20)
            assert not self._thread.is_alive(), "the controller did not stop"

    def install(
        self,
        name: str,
        jobs: list[dict[str, Any]],
        callback: str,
        folder: Path,
        work: str = "def work(**kwargs):\n    pass\n",
    ) -> None:
        """Install a service whose registry holds `callback` and whose module holds `work`, as source texts."""
        source = folder / name
        (source / "registry").mkdir(parents=True, exist_ok=True)
        (source / "module").mkdir(exist_ok=True)
        entries = [{"worker": f"{name}.work", "callback": f"{name}.applies", **job} for job in jobs]
        (source / "registry" / "settings.json").write_text(json.dumps(entries))
        (source / "registry" / "__init__.py").write_text(textwrap.dedent(callback))
        (source / "module" / "__init__.py").write_text(textwrap.dedent(work))
        (source / "module" / "requirements.txt").write_text("")
        self.store.install(name, source)

    def announce(self, study_id: str) -> None:
        """What the hook's handler does."""
        self.ledger.record_event(EventKind.STABLE, study_id)
        self.transport.wake("test")

    def study(self, study_id: str) -> dict[str, Any]:
        return self.ledger.study(study_id) or {"state": None, "plans": []}

    def wait_for(self, study_id: str, state: str, seconds: float = 20) -> dict[str, Any]:
        wait_until(lambda: self.study(study_id)["state"] == state, seconds, f"{study_id} is {state}")
        return self.study(study_id)

    def jobs(self, study_id: str) -> dict[str, Mapping[str, Any]]:
        """The active plan's jobs by name (and series)."""
        study = self.study(study_id)
        plan = next((plan for plan in study["plans"] if plan["active"]), {"jobs": []})
        return {job["jobName"] + (f"/{job['seriesId']}" if job["seriesId"] else ""): job for job in plan["jobs"]}

    def attempts(self, study_id: str) -> dict[str, list[str]]:
        """Job name -> states of its attempts."""
        return {name: [each["state"] for each in job["attempts"]] for name, job in self.jobs(study_id).items()}

    def counted(self) -> dict[RepairKind, int]:
        """Repairs that there were, by kind."""
        with self.ledger.read() as db:
            return {kind: number for kind, number in repairs.counted(db).items() if number}

    def states(self, study_id: str) -> dict[str, str]:
        return {name: job["state"] or job["verdict"] for name, job in self.jobs(study_id).items()}


class HandWorker:
    """Takes attempts off a queue and says how they ended."""

    def __init__(self, platform: Platform) -> None:
        self.transport = platform.transport
        self.data = platform.settings.data

    def pop(self, queue: str = "default", seconds: float = 20) -> str:
        """The next attempt's id, as a worker's BLPOP gets it."""
        with redis.Redis.from_url(self.transport.url) as client:
            key = Queue(queue, connection=client, serializer=JSONSerializer).key
            return str(wait_until(lambda: client.lpop(key), seconds, f"an attempt on {queue}").decode())

    def report(self, attempt_id: str, kind: str = "started", outcome: Outcome | None = None) -> Report:
        return Report(kind, attempt_id, f"hand/{attempt_id}", "hand", "here", outcome.to_json() if outcome else {})

    def start(self, queue: str = "default") -> Order:
        attempt_id = self.pop(queue)
        found = self.transport.order(attempt_id)
        assert found is not None
        assert self.transport.claim(self.report(attempt_id))
        return found[0]

    def end(self, attempt_id: str, reason: ExitReason = ExitReason.DONE, **values: Any) -> None:
        self.transport.report(self.report(attempt_id, "outcome", Outcome(reason, **values)))

    def run(self, queue: str = "default", text: str = "done") -> Order:
        """Start the next attempt, write a file and finish."""
        order = self.start(queue)
        output = self.data / "attempts" / order.attemptId
        output.mkdir(parents=True)
        (output / "result.txt").write_text(text)
        self.end(order.attemptId)
        return order


def hasten(monkeypatch: pytest.MonkeyPatch, *, lost_after: float = 1.0) -> None:
    """Have repair look often and wait little; less than LOST_AFTER may say."""
    monkeypatch.setattr(repair, "BLIND_AFTER", 1.0)
    monkeypatch.setattr(repair, "QUEUED_GRACE", 0.5)
    for step in ("attempts", "plans", "results"):
        monkeypatch.setitem(controller.EVERY, step, 0.2)

    def hasty(*parts: Any, **more: Any) -> repair.Repair:
        return repair.Repair(*parts, **{**more, "lost_after": lost_after})

    monkeypatch.setattr(controller, "Repair", hasty)


def send(orthanc: OrthancServer, folder: Path, **keywords: object) -> StudyFiles:
    """Store a study of two series."""
    study = make_study(folder, series=[{"Modality": "CT"}, {"Modality": "CT", "instances": 2}], **keywords)
    upload(orthanc.url, orthanc.auth, study.files)
    return study


def ended(platform: Platform, orthanc: OrthancServer, folder: Path) -> tuple[Report, Order, PlanOrder]:
    """What Redis had of the one attempt of a study that has finished: nothing of it is there any more."""
    platform.install("svc", [{"jobName": "a"}], YES, folder / "source")
    study = send(orthanc, folder / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    report = worker.report(worker.pop())
    order, plan = platform.transport.order(report.attemptId) or pytest.fail("no order")
    assert platform.transport.claim(report)
    worker.end(report.attemptId)
    platform.wait_for(study.study_id, "finished")
    wait_until(lambda: not held(platform, "plan", "order", "claim", "announced"), 10)
    return report, order, plan


def held(platform: Platform, *kinds: str) -> list[str]:
    """Redis's keys of ours, of these kinds."""
    names = (str(key.decode()) for key in platform.transport.redis.keys("dcmproc:*"))  # type: ignore[union-attr]
    return sorted(name for name in names if name.startswith(tuple(f"dcmproc:{kind}" for kind in kinds)))


def gated(record: Path, gate: Path) -> str:
    """A worker function that notes each beginning, and goes on when `gate` is there."""
    return f"""
        import os, time
        def work(jobName, studyId, attempt, **kwargs):
            with open({str(record)!r}, "a") as file:
                file.write(f"{{studyId}} {{jobName}} {{attempt}}\\n")
            print("a line", flush=True)
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.02)
    """


class RealWorker:
    """`python -m worker` beside a platform, whose DATA it shares; `with` runs it."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._settings = platform.settings
        self._log = folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        settings = self._settings
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "MODE": "local",
            "BASEDIR": str(settings.BASEDIR),
            "REDIS_URL": settings.redis_url,
            "ORTHANC_REST_URL": settings.orthanc_url,
            "ORTHANC_REST_PASSWORD": settings.orthanc_password,
            "SCHEDULER_PORT": "9",
            "WORKER_STOP_GRACE": "0.5",
            **{key: value for key, value in os.environ.items() if key.startswith(("UV_", "SSL_CERT_"))},
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker"], cwd=CHECKOUT, env=environ, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait(10)

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The lines of its log that hold a message."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if message in line["message"]]

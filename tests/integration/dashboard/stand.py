"""What the dashboard's tests look at: a ledger with studies in many states, and RQ jobs of every kind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import requests
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import insert, update

from dcm_processor import identity
from dcm_processor.ledger import events, plans, results, studies
from dcm_processor.ledger.schema import attempts
from dcm_processor.ledger.schema import studies as studies_table
from dcm_processor.notes import NamedResult
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import JobState, StudyState, Verdict
from tests.ledgers import new_ledger
from tests.servers import Server, free_port
from tests.waiting import wait_until

PASSWORD = "a-password-of-the-test"
JOBS = "tests.integration.dashboard.rq_jobs"
CHECKOUT = Path(__file__).resolve().parents[3]


def settings_in(directory: Path, redis_url: str, **more: Any) -> Settings:
    """Settings of an installation in `directory`, its password in place."""
    (directory / "secrets").mkdir(parents=True, exist_ok=True)
    (directory / "secrets" / "dashboard_password").write_text(PASSWORD + "\n")
    return Settings(BASEDIR=directory, REDIS_URL=redis_url, **more)


def study_id(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


def attempt_id(job_name: str) -> str:
    """The first attempt of a job of the study numbered 5."""
    return identity.attempt_id(identity.job_id(identity.plan_id(study_id(5), "0123456789ab", 1), job_name, None), 1)


class DashboardServer(Server):
    """The dashboard as it runs in an installation: gunicorn with our configuration, settings from the environment."""

    name = "the dashboard"

    def __init__(self, directory: Path, redis_url: str) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.settings = settings_in(directory / "basedir", redis_url, DASHBOARD_PORT=self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "python:dashboard.gunicorn_conf"]

    def environment(self) -> dict[str, str]:
        chosen = {"MODE": "local", "BASEDIR": str(self.settings.BASEDIR), "DASHBOARD_PORT": str(self.port)}
        return {**os.environ, **chosen, "REDIS_URL": str(self.settings.REDIS_URL), "PYTHONPATH": str(CHECKOUT)}

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False


class LedgerOfStudies:
    """A ledger to fill."""

    def __init__(self, url: str) -> None:
        self.ledger = new_ledger(url)
        self._now = time.time() - 600

    def study(self, number: int, state: StudyState, reason: str | None = None, **labels: Any) -> str:
        """A study without a plan."""
        headers = {"StudyDate": "20240131", "StudyDescription": "Head without contrast", "series": [{"Modality": "MR"}]}
        self._now += 1
        with self.ledger.write() as db:
            events.meet(db, study_id(number), StudyState.RECEIVED, now=self._now)
            values = {"headers": {**headers, **labels}, "state": state, "reason": reason, "now": self._now}
            studies.set_plan(db, study_id(number), None, **values)
        return study_id(number)

    def plan(self, study: str, *jobs: dict[str, Any], faults: list[Any] | None = None) -> str:
        """The study's active plan; each job as the columns that matter, `tries` its attempts."""
        self._now += 1
        plan_id = identity.plan_id(study, "0123456789ab", 1)
        rows = [_job_row(plan_id, study, position, job, self._now) for position, job in enumerate(jobs)]
        with self.ledger.write() as db:
            instances = {"series-1": ["instance-1", "instance-2"]}
            values = {"plan_id": plan_id, "study_id": study, "revision": "0123456789ab", "run": 1, "reason": "stable"}
            headers = {"series": [{"seriesId": "series-1", "NumberOfInstances": 2}]}
            values |= {"headers": headers, "selected": [], "instances": instances, "faults": faults}
            plans.add(db, values, rows, now=self._now)
            db.execute(update(studies_table).where(studies_table.c.study_id == study).values(active_plan_id=plan_id))
            for row, job in zip(rows, jobs, strict=True):
                for number, attempt in enumerate(job.get("tries", []), start=1):
                    made = {"attempt_id": identity.attempt_id(row["job_id"], number), "job_id": row["job_id"]}
                    named = attempt.get("results", ())
                    ran = {key: value for key, value in attempt.items() if key != "results"}
                    made |= {"attempt": number, "queued_at": self._now, "state": "finished", **ran}
                    db.execute(insert(attempts).values(made))
                    results.add(db, made["attempt_id"], named)
        return plan_id


def _job_row(plan_id: str, study: str, position: int, job: dict[str, Any], now: float) -> dict[str, Any]:
    row = {
        "verdict": Verdict.SCHEDULED,
        "state": JobState.FINISHED if job.get("verdict", "scheduled") == "scheduled" else None,
        "service": "temp",
        "digest": "0123456789abcdef0123456789abcdef",
        "settings": {"stage": "main", "level": "study"},
        "queue": "default",
        "dependencies": [],
        "reason": None,
        "series_id": None,
        "traceback": None,
        "output": None,
        **{key: value for key, value in job.items() if key != "tries"},
    }
    job_id = identity.job_id(plan_id, row["job_name"], row["series_id"])
    moments = {"created_at": now, "attempt": len(job.get("tries", []))}
    return {**row, **moments, "job_id": job_id, "plan_id": plan_id, "study_id": study, "position": position}


def many_states(ledger: LedgerOfStudies) -> dict[str, str]:
    """Six studies, each in another situation; name -> studyId."""
    at = time.time() - 120
    ran = {"started_at": at, "ended_at": at + 5.3, "worker": "worker_00", "host": "here", "exit_reason": "done"}
    ran["phases"] = {"environment": [at, at + 1.2], "fetch": [at + 1.2, at + 1.5], "run": [at + 1.5, at + 5.3]}
    broke = {**ran, "state": "failed", "exit_reason": "exception", "error": "ValueError: no slice is axial"}
    broke["traceback"] = 'Traceback (most recent call last):\n  File "…"\nValueError: no slice is axial'
    found = [
        ("lung volume", 4810.5, "ml"),
        ("nodules", 3, None),
        ("largest nodule", 11.25, "mm"),
        ("contrast", True, None),
    ]
    found += [("quality", "good, slight motion at the diaphragm", None), ("voxels", 9_830_400, None)]
    named = [NamedResult(*each) for each in found]
    many = [NamedResult(f"lobe {number:02} volume", 1000 / number, "ml") for number in range(1, 41)]
    made = {"known": ledger.study(1, StudyState.KNOWN)}
    made["unplanned"] = ledger.study(2, StudyState.UNPLANNED, "Orthanc did not answer, five times", series=[])
    made["finished"] = ledger.study(3, StudyState.FINISHED, series=[{"Modality": "CT"}, {"Modality": "PT"}])
    ledger.plan(
        made["finished"],
        {"job_name": "temp", "tries": [{**ran, "results": named}]},
        {"job_name": "lobes", "tries": [{**broke, "results": named[:2]}, {**ran, "results": many}]},
        {"job_name": "dcm2nii", "series_id": "aaaa", "settings": {"stage": "main", "level": "series"}, "tries": [ran]},
        {"job_name": "dcm2nii", "series_id": "bbbb", "settings": {"stage": "main", "level": "series"}, "tries": [ran]},
    )
    made["failed"] = ledger.study(4, StudyState.FAILED, "segment failed")
    ledger.plan(
        made["failed"],
        {"job_name": "temp", "tries": [ran]},
        {"job_name": "segment", "state": "failed", "reason": "ValueError: no slice is axial", "tries": [broke, broke]},
        {"job_name": "volumes", "state": "skipped", "reason": "segment failed"},
        {"job_name": "report", "state": "skipped", "reason": "segment failed"},
        {"job_name": "broken", "verdict": "errored", "reason": "KeyError: 'Modality'", "traceback": "Traceback …",
         "output": "asked about it"},
        {"job_name": "ct-only", "verdict": "declined", "reason": "the callback said no"},
        {"job_name": "pet-only", "verdict": "declined", "reason": "the callback said no"},
        {"job_name": "old", "verdict": "disabled"},
    )  # fmt: skip
    made["running"] = ledger.study(5, StudyState.RUNNING)
    ledger.plan(
        made["running"],
        {"job_name": "temp", "tries": [ran]},
        {"job_name": "segment", "state": "started", "tries": [{**ran, "state": "started", "ended_at": None}]},
        {
            "job_name": "fetch-priors",
            "state": "retrying",
            "reason": "exit status 75; again in 50 s",
            "due_at": at + 200,
        },
        {"job_name": "volumes", "state": "waiting", "reason": "waits for segment"},
        {"job_name": "report", "state": "queued"},
    )
    made["hostile"] = ledger.study(
        6, StudyState.FAILED, "<script>alert(1)</script>", StudyDescription="<b>Dent & Söhne</b>"
    )
    hostile = {"job_name": "temp", "state": "failed", "reason": '"><img src=x onerror=alert(1)>'}
    ledger.plan(made["hostile"], {**hostile, "tries": [{**broke, "error": "</pre><script>alert(2)</script>"}]})
    return made


class RqJobs:
    """Jobs as the controller enqueues them: JSON, one argument, an id and a description without a patient."""

    def __init__(self, redis_url: str) -> None:
        self.redis = redis.Redis.from_url(redis_url)
        self.url = redis_url

    def enqueue(self, function: str, attempt: str, queue: str = "default") -> Job:
        target = Queue(queue, connection=self.redis, serializer=JSONSerializer)
        description = f"{function} of {study_id(5)}"
        return target.enqueue_call(
            f"{JOBS}.{function}", args=(attempt,), job_id=attempt, description=description, timeout=-1, result_ttl=500,
            failure_ttl=86_400,
        )  # fmt: skip

    def status(self, attempt: str) -> str:
        return str(Job.fetch(attempt, connection=self.redis, serializer=JSONSerializer).get_status().value)

    @contextmanager
    def worker(self, *queues: str) -> Iterator[None]:
        """A real RQ worker, forking a work-horse for each job."""
        process = subprocess.Popen([sys.executable, "-m", JOBS, self.url, *queues], cwd=CHECKOUT)
        try:
            wait_until(lambda: Worker.all(connection=self.redis, serializer=JSONSerializer), 20, "the worker registers")
            yield
        finally:
            self.redis.set("released", 1)
            process.terminate()
            process.wait(20)

    @contextmanager
    def every_kind(self) -> Iterator[None]:
        """A finished job, a failed one, one that runs at this moment, and two that wait in another queue."""
        with self.worker("default"):
            for function in ("finish", "fail", "busy"):
                self.enqueue(function, attempt_id(function))
            self.enqueue("finish", attempt_id("waits"), queue="low")
            self.enqueue("finish", attempt_id("waits-too"), queue="low")
            wait_until(lambda: self.status(attempt_id("busy")) == "started", 20, "a job runs")
            yield

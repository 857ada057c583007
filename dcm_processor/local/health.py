"""Whether each part of the stack answers: one question a part, asked until all do."""

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
import requests
from sqlalchemy import select

from dcm_processor.errors import DcmProcessorError
from dcm_processor.ledger import Ledger, studies
from dcm_processor.ledger.schema import leases
from dcm_processor.orthanc import Orthanc
from dcm_processor.redis_connection import connect
from dcm_processor.settings import Settings

WORKERS = "workers"
_PATIENCE = 2.0  # seconds for one answer
_HTTP_OK = 200

Question = Callable[[], str | None]
"""None: it answers. Else what is not there yet, in a few words."""


def part_of(program: str) -> str:
    """The part of the stack that a program is, or is one of."""
    return WORKERS if program.startswith("worker_") else program


def controller_lack(ledger: Ledger) -> str | None:
    """None where one leads (none that died on this machine), and has met Orthanc: what comes from now on is planned."""
    try:
        with ledger.read() as db:
            held = db.execute(select(leases.c.holder, leases.c.expires_at)).all()
            met = studies.fact(db, "orthanc")
    except DcmProcessorError as error:
        return str(error)
    if not any(expires_at > time.time() and _may_live(holder) for holder, expires_at in held):
        return "does not lead yet"
    return None if met else "has not met Orthanc yet"


class Health:
    """The questions for a stack; `pids` gives the current process number of each program by name."""

    def __init__(self, settings: Settings, pids: Callable[[], Mapping[str, int]]) -> None:
        self._settings = settings
        self._pids = pids
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy stands before our own hosts
        self._redis: redis.Redis = connect(
            settings.redis_url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE
        )
        self._orthanc = Orthanc.of(settings, timeout=_PATIENCE)
        self._ledger = Ledger(settings.database_url, busy_timeout=_PATIENCE)

    def foreign(self) -> dict[str, Question]:
        """Those for servers that are not ours to start."""
        started = {"redis": self._settings.starts_redis, "orthanc": self._settings.starts_orthanc}
        return {name: question for name, question in self.questions().items() if not started.get(name, True)}

    def questions(self) -> dict[str, Question]:
        """By the part's name, in the order of dependence."""
        settings = self._settings
        asked: dict[str, Question] = {
            "redis": self._redis_answers,
            "orthanc": self._orthanc_answers,
            "scheduler": lambda: self._answers(f"{settings.scheduler_url}/health/ready"),
            "controller": lambda: controller_lack(self._ledger),
            "dashboard": lambda: self._answers(f"{settings.dashboard_page}/health"),
        }
        if any(part_of(program) == WORKERS for program in self._pids()):
            asked[WORKERS] = self._workers_registered
        return asked

    def close(self) -> None:
        """Leave no connection behind."""
        self._http.close()
        self._redis.close()
        self._orthanc.close()
        self._ledger.close()

    def _answers(self, url: str) -> str | None:
        try:
            answer = self._http.get(url, timeout=_PATIENCE)
        except requests.RequestException as error:
            return f"{url} does not answer ({type(error).__name__})"
        if answer.status_code == _HTTP_OK:
            return None
        return f"{url} answers {answer.status_code}"

    def _redis_answers(self) -> str | None:
        try:
            self._redis.ping()
        except (redis.RedisError, OSError) as error:
            return f"does not answer ({error})"
        return None

    def _orthanc_answers(self) -> str | None:
        try:
            self._orthanc.system()
        except DcmProcessorError as error:
            return str(error)
        return None

    def _workers_registered(self) -> str | None:
        pids = [str(pid) for name, pid in self._pids().items() if part_of(name) == WORKERS]
        try:
            keys = list(self._redis.smembers("rq:workers"))
            with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, "hostname", "pid")
                known = pipe.execute()
        except (redis.RedisError, OSError) as error:
            return f"Redis does not answer ({error})"
        here = {str(pid, "ascii") for host, pid in known if host == socket.gethostname().encode()}
        missing = [pid for pid in pids if pid not in here]
        return f"{len(missing)} of {len(pids)} have not registered yet" if missing else None


def _may_live(holder: str) -> bool:
    host, pid, _ = holder.rsplit(":", 2)
    return host != socket.gethostname() or Path(f"/proc/{pid}").exists()

"""An installation whose scheduler is asked by the command line."""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import update
from werkzeug.serving import make_server

from dcm_processor.errors import TransientError
from dcm_processor.ledger import schema
from dcm_processor.vocabulary import AttemptState, JobState
from tests.integration.scheduler.api.stand import Installation, study_id
from tests.servers import free_port
from tests.unit.dcm_processor.cli.conftest import Cli


def explained(study: str, *, reads: bool = False) -> Mapping[str, Any]:
    """What a planner would say."""
    if study == study_id(3):
        raise TransientError("Orthanc does not answer")
    empty: dict[str, Any] = {"revision": "", "seriesIds": [], "numberOfInstances": 0, "jobs": [], "faults": []}
    if study == study_id(4):
        return {"studyId": study, "ending": "ours", "reason": "it holds only what the platform stored", **empty}
    if study == study_id(5):
        return {"studyId": study, "ending": "failed", "reason": "planning raised KeyError (plan.py, line 7)", **empty}
    job = {"service": "temp", "version": "0" * 32, "stage": "main", "level": "study", "queue": "default", "position": 0}
    job |= {
        "seriesId": None,
        "dependsOn": [],
        "dependencies": [],
        "applies": True,
        "injected": {"side": "L"},
        "traceback": None,
        "callbackOutput": "",
    }
    looked = [
        {"keyword": "Modality", "place": "top", "found": "differs"},
        {"keyword": "KVP", "place": "series", "found": "notSelected"},
    ]
    job |= {"reads": looked if reads else None}
    held = study == study_id(6)
    return {
        "studyId": study,
        "ending": "held" if held else "planned",
        "reason": 'held: 1 of 3 series (rule "CT"); planned as it is at 14:05 at the latest' if held else "",
        "revision": "0123456789ab",
        "seriesIds": ["a"],
        "numberOfInstances": 3,
        "jobs": [
            {**job, "jobName": "temp", "verdict": "scheduled", "reason": "its callback accepted"},
            {
                **job,
                "jobName": "bad",
                "verdict": "errored",
                "applies": None,
                "injected": {},
                "reason": "its callback failed",
                "traceback": "Boom\x1b[2J",
            },
        ],
        "faults": ["service odd: is odd"],
    }


class Here(Installation):
    """An installation whose scheduler listens."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, SCHEDULER_PORT=free_port())
        self.port = self.settings.SCHEDULER_PORT
        self.asked: list[str] = []  # paths
        app = self.app(explained)

        def noting(environ: dict[str, Any], start_response: Any) -> Any:
            self.asked.append(environ["PATH_INFO"])
            return app(environ, start_response)

        self._server = make_server("127.0.0.1", self.port, noting, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def end(self, job: str, size: int) -> None:
        """Have the job end, having written so much."""
        with self.ledger.write() as db:
            db.execute(update(schema.jobs).where(schema.jobs.c.job_id == job).values(state=JobState.FINISHED))
            ended = {"state": AttemptState.FINISHED, "ended_at": time.time(), "details": {"logSize": size}}
            db.execute(update(schema.attempts).where(schema.attempts.c.job_id == job).values(ended))

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        super().__exit__()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with structlog.testing.capture_logs(), Here(tmp_path) as made:  # or its log would be the commands' output
        yield made


@pytest.fixture
def cli(here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setenv("BASEDIR", str(here.base))
    monkeypatch.setenv("DCM_PROCESSOR_HOME", str(tmp_path))
    monkeypatch.setenv("SCHEDULER_PORT", str(here.port))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # our own hosts are never asked through it
    return Cli(here.base)

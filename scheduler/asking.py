"""Asks callbacks for somebody who must not import this package (dcm_processor/rehearsal): `python -m scheduler.asking`.

stdin, a line a study: `{"jobs": [{"service", "digest", "settings"}], "headers", "selected", "folders", "timeout"}`,
jobs in plan order; stdout, a line each: `{"outcomes": [{"jobName", "seriesId", "applies", "injected", "error",
"traceback", "output"}]}`. SIGTERM ends it, and whatever the callbacks started.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcm_processor import process
from dcm_processor.manifest import JobSettings
from dcm_processor.registry import Job
from scheduler.callbacks import run_callbacks


def outcomes(question: dict[str, Any]) -> list[dict[str, Any]]:
    """What the callbacks say; raises TransientError where no process for them can be started."""
    jobs = [Job(each["service"], each["digest"], JobSettings.from_json(each["settings"])) for each in question["jobs"]]
    folders = {service: Path(folder) for service, folder in question["folders"].items()}
    found = run_callbacks(jobs, question["headers"], question["selected"], folders, question["timeout"])
    return [{"jobName": key.job_name, "seriesId": key.series_id, **asdict(said)} for key, said in found.items()]


def main() -> None:
    """Be the child."""
    process.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing of a callback is left
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed is no answer
        for line in sys.stdin:
            answers.write(json.dumps({"outcomes": outcomes(json.loads(line))}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()

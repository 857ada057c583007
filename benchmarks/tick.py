"""The controller's turn with 10,000 unfinished jobs: every repair due at once, and nothing to repair.

    .venv/bin/python benchmarks/tick.py [--studies 2000]

Real ledger (SQLite) and Valkey; each study has three jobs that are queued and two that wait for them. The median of the
turns is what counts (at most 200 ms), the slowest stands beside it. Exit status 1 above it.
"""

import argparse
import gc
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import structlog

from benchmarks.parts import Parts, registry_of
from dcm_processor import identity
from dcm_processor.ledger import leases
from dcm_processor.plan import CallbackOutcome, JobKey, make_plan
from dcm_processor.settings import Settings
from scheduler.adoption import adopt
from scheduler.controller import Controller
from scheduler.effects import Effects
from scheduler.planning import Ending, Planned
from tests.servers import ValkeyServer

LIMIT_MS = 200.0
TURNS = 15
JOBS = [
    *({"jobName": f"first-{n}"} for n in range(3)),
    *({"jobName": f"second-{n}", "dependsOn": [f"first-{n}", "first-2"]} for n in range(2)),
]


def fill(parts: Parts, studies: int) -> None:
    """So many studies, each with its plan, whose first jobs lie in their queue."""
    registry = registry_of(JOBS)
    outcomes = {JobKey(job.name, None): CallbackOutcome(applies=True) for job in registry.jobs}
    for _ in range(studies):
        study_id, effects = parts.study(), Effects()
        plan = make_plan(registry, ["series"], outcomes)
        revision = identity.revision([study_id])
        planned = Planned(Ending.PLANNED, study_id, "", revision, {"series": []}, {"series": ["i" * 44]}, {}, plan)
        with parts.ledger.write() as db:
            adopt(db, planned, why="", selected=["*"], faults=[], wanted=(), effects=effects, now=time.time() - 60)
        parts.carry_out(effects)
        with parts.ledger.write() as db:
            db.exec_driver_sql("UPDATE events SET handled_at = 0")


def turns(controller: Controller, parts: Parts) -> list[float]:
    """Milliseconds of each turn."""
    with parts.ledger.write() as db:
        lease = leases.acquire(db, leases.LEADER, "benchmark", leases.Watch(), now=time.time(), seconds=3600)
    assert lease is not None
    gc.collect()
    gc.freeze()  # as the controller does
    times = []
    for _ in range(TURNS):
        controller._due.clear()
        controller._stream.ring()
        began = time.perf_counter()
        controller._turn(lease)
        times.append((time.perf_counter() - began) * 1000)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as name, ValkeyServer(Path(name) / "valkey") as valkey:
        folder = Path(name)
        parts = Parts(folder, valkey.url)
        fill(parts, studies)
        os.environ |= {
            "BASEDIR": name, "REDIS_URL": valkey.url, "MODE": "local", "ORTHANC_REST_PASSWORD": "unused",
            "DATABASE_URL": f"sqlite:///{folder}/ledger.sqlite",
        }  # fmt: skip
        times = turns(Controller(Settings.load()), parts)
    median = statistics.median(times)
    print(f"{studies * len(JOBS)} unfinished jobs: median {median:.0f} ms, slowest {max(times):.0f} ms")
    print(f"limit {LIMIT_MS:.0f} ms")
    return 0 if median <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())

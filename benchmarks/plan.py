"""From a plan of 100 applicable jobs to the last enqueue, against one transaction of 100 rows plus `enqueue_many`.

    .venv/bin/python benchmarks/plan.py [--rounds 30]

Both ways run in turn, on the same SQLite (WAL, synchronous=FULL) and the same Valkey; the medians' ratio is what counts
(at most 1.5). Exit status 1 above it.
"""

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import insert

from dcm_processor import identity
from dcm_processor.ledger import Ledger
from dcm_processor.ledger.schema import facts
from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.plan import CallbackOutcome, JobKey, make_plan
from dcm_processor.registry import combine
from dcm_processor.transport import Transport
from dcm_processor.vocabulary import EventKind, Level
from scheduler.adoption import adopt
from scheduler.effects import Effects
from scheduler.planning import Ending, Planned
from scheduler.results import Results
from tests.servers import ValkeyServer

JOBS = 100
LIMIT = 1.5


def registry_of(jobs: int):  # type: ignore[no-untyped-def]
    import json

    entries = [{"jobName": f"job-{n:03d}", "worker": "svc.work", "callback": "svc.applies"} for n in range(jobs)]
    defaults = Defaults(Level.STUDY, "default", ("high", "default", "low"))
    return combine([("svc", "0" * 32, parse_manifest(json.dumps(entries), "svc", defaults))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder) / "valkey") as valkey:
        ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
        ledger.migrate()
        transport, results = Transport(valkey.url), Results(Path(folder) / "data")
        registry = registry_of(JOBS)
        outcomes = {JobKey(job.name, None): CallbackOutcome(applies=True) for job in registry.jobs}
        queue = Queue("baseline", connection=transport.redis, serializer=JSONSerializer)
        headers = {"StudyDate": "20260101", "seriesIds": ["s"], "series": [{"seriesId": "s", "Modality": "MR"}]}
        ours, theirs = [], []
        for _ in range(rounds + 3):
            study_id = str(uuid.uuid4())
            ledger.record_event(EventKind.STABLE, study_id)
            began = time.perf_counter()
            planned = Planned(
                Ending.PLANNED, study_id, "", identity.revision([study_id]), headers, {"s": ["i"]}, {},
                make_plan(registry, ["s"], outcomes),
            )  # fmt: skip
            effects = Effects()
            with ledger.write() as db:
                adopt(
                    db,
                    planned,
                    why="benchmark",
                    selected=["*"],
                    faults=[],
                    wanted=None,
                    effects=effects,
                    now=time.time(),
                )
            effects.carry_out(ledger, transport, results)
            ours.append(time.perf_counter() - began)

            began = time.perf_counter()
            with ledger.write() as db:
                db.execute(insert(facts), [{"name": f"{study_id}-{n}", "value": {"n": n}} for n in range(JOBS)])
            queue.enqueue_many(
                [
                    Queue.prepare_data(
                        "worker.run.run_attempt", args=(f"{study_id}-{n}",), job_id=f"b-{study_id}-{n}", timeout=-1
                    )
                    for n in range(JOBS)
                ]
            )
            theirs.append(time.perf_counter() - began)
        ours, theirs = ours[3:], theirs[3:]
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"plan of {JOBS} jobs to the last enqueue: median {statistics.median(ours) * 1000:.1f} ms")
        print(f"one transaction of {JOBS} rows + enqueue_many: median {statistics.median(theirs) * 1000:.1f} ms")
        print(f"ratio {ratio:.2f} (limit {LIMIT})")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

"""From 100 applicable jobs to the last enqueue, against one transaction of 100 rows plus RQ's `enqueue_many` of 100.

    .venv/bin/python benchmarks/plan.py [--rounds 40]

Both ways run in turn, on the same SQLite (WAL, synchronous=FULL) and the same Valkey. Ours begins with the callbacks'
outcomes (the plan is made within the time) and ends with the last attempt in its queue. The bare way writes 100 rows of
two columns. The medians' ratio is what counts (at most 1.5); beside it, for orientation, stands the ratio to 100 rows
like the jobs' own. Exit status 1 above the limit.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import Table, insert

from benchmarks.parts import Parts, registry_of
from dcm_processor import identity
from dcm_processor.ledger import plans
from dcm_processor.ledger.schema import facts, jobs
from dcm_processor.plan import CallbackOutcome, JobKey, make_plan
from scheduler.adoption import adopt
from scheduler.effects import Effects
from scheduler.enqueue import FUNCTION
from scheduler.planning import Ending, Planned
from tests.servers import ValkeyServer

JOBS = 100
LIMIT = 1.5


class Bench(Parts):
    """Both ways, each timed by itself; every call uses a study of its own."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, redis_url)
        self.registry = registry_of([{"jobName": f"job-{n:03d}"} for n in range(JOBS)])
        self.queue = Queue("bare", connection=self.transport.redis, serializer=JSONSerializer)

    def ours(self) -> float:
        study_id, effects = self.study(), Effects()
        began = time.perf_counter()
        planned = self._planned(study_id)
        with self.ledger.write() as db:
            adopt(db, planned, why="", selected=["*"], faults=[], wanted=(), effects=effects, now=time.time())
        self.carry_out(effects)
        return time.perf_counter() - began

    def bare(self, table: Table) -> float:
        """One transaction of 100 rows of the table, and `enqueue_many`."""
        planned, rows = self._planned(self.study()), []
        if table is jobs:
            with self.ledger.write() as db:
                plan_id = adopt(
                    db, planned, why="", selected=[], faults=[], wanted=(), effects=Effects(), now=time.time()
                )
                rows = [{**row, "job_id": f"bare-{row['job_id']}"} for row in plans.jobs_of(db, plan_id)]
        else:
            rows = [{"name": f"{planned.study_id}-{n}", "value": {"n": n}} for n in range(JOBS)]
        began = time.perf_counter()
        with self.ledger.write() as db:
            db.execute(insert(table), rows)
        ids = [f"{planned.study_id}-{n}" for n in range(JOBS)]
        self.queue.enqueue_many([Queue.prepare_data(FUNCTION, args=(i,), job_id=i, timeout=-1) for i in ids])
        return time.perf_counter() - began

    def _planned(self, study_id: str) -> Planned:
        outcomes = {JobKey(job.name, None): CallbackOutcome(applies=True) for job in self.registry.jobs}
        headers = {"StudyDate": "20260101", "seriesIds": ["s"], "series": [{"seriesId": "s", "Modality": "MR"}]}
        plan = make_plan(self.registry, ["s"], outcomes)
        revision = identity.revision([study_id])
        return Planned(Ending.PLANNED, study_id, "", revision, headers, {"s": ["i"]}, {}, plan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder) / "valkey") as valkey:
        bench = Bench(Path(folder), valkey.url)
        gc.collect()
        gc.freeze()  # as the controller does
        times = [(bench.ours(), bench.bare(jobs), bench.bare(facts)) for _ in range(rounds + 3)][3:]
    ours, bare, barest = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"plan of {JOBS} jobs to the last enqueue:                        median {ours * 1000:.1f} ms")
    print(f"one transaction of {JOBS} such rows + enqueue_many:             median {bare * 1000:.1f} ms")
    print(f"one transaction of {JOBS} rows of two columns + enqueue_many:   median {barest * 1000:.1f} ms")
    print(f"ratio {ours / barest:.2f} (limit {LIMIT}); to rows like the jobs' own {ours / bare:.2f}")
    return 0 if ours / barest <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

"""What one outcome costs in a plan of 5,000 series jobs, against one of 50: SQLite, Valkey, the controller's own steps.

    .venv/bin/python benchmarks/outcome.py [--rounds 40]

The same step in both plans: an outcome taken in, its plan taken on, what follows carried out. The medians' ratio is
what counts (at most 3). Beside it, for orientation, stands the ratio where each job has a dependent, whose turn it then
is. Exit status 1 above the limit.
"""

import argparse
import gc
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import structlog

from benchmarks.parts import Parts, registry_of
from dcm_processor import identity
from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS
from dcm_processor.plan import CallbackOutcome, JobKey, make_plan
from dcm_processor.transport import Report
from scheduler.adoption import adopt
from scheduler.effects import Effects
from scheduler.outcomes import take
from scheduler.planning import Ending, Planned
from scheduler.progress import deciding
from tests.servers import ValkeyServer

FEW, MANY = 50, 5_000
LIMIT = 3.0


class Bench(Parts):
    """Outcomes of series' jobs, taken in as the controller does."""

    def outcome(self, number: int, *, dependents: bool, rounds: int) -> float:
        """Milliseconds (median) for an outcome in a plan of so many series jobs."""
        plan_id, series = self._planned(number, dependents=dependents)
        gc.collect()
        gc.freeze()  # as the controller does
        times = []
        for each in series[:rounds]:
            attempt_id, effects = identity.attempt_id(identity.job_id(plan_id, "first", each), 1), Effects()
            report = Report("outcome", attempt_id, "claim", "worker", "host", {"exitReason": "done"})
            began = time.perf_counter()
            with deciding(self.ledger, None, effects) as (db, own):  # type: ignore[arg-type]  # no other leader here
                take(db, report, own, now=time.time())
            self.carry_out(effects)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1000

    def _planned(self, number: int, *, dependents: bool) -> tuple[str, list[str]]:
        names = {"first": None, "second": "first"} if dependents else {"first": None}
        registry = registry_of(
            [{"jobName": name, "level": "series", "dependsOn": other} for name, other in names.items()]
        )
        study_id, series = self.study(), [f"{n:08x}" for n in range(number)]
        elements = dict.fromkeys(DEFAULT_HEADER_FIELDS, "a value of some length")
        headers = {"seriesIds": series, "series": [{"seriesId": each, **elements} for each in series]}
        outcomes = {JobKey(job.name, each): CallbackOutcome(applies=True) for job in registry.jobs for each in series}
        plan = make_plan(registry, series, outcomes)
        revision, instances = identity.revision([study_id]), {each: ["i" * 44] for each in series}
        planned, effects = Planned(Ending.PLANNED, study_id, "", revision, headers, instances, {}, plan), Effects()
        with self.ledger.write() as db:
            plan_id = adopt(db, planned, why="", selected=["*"], faults=[], wanted=(), effects=effects, now=time.time())
        self.carry_out(effects)
        return plan_id, series


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    ratios = {}
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder) / "valkey") as valkey:
        bench = Bench(Path(folder), valkey.url)
        for dependents in (False, True):
            few, many = (bench.outcome(number, dependents=dependents, rounds=rounds) for number in (FEW, MANY))
            ratios[dependents] = many / few
            what = "each with a dependent" if dependents else "jobs by themselves"
            print(f"{what:22} {FEW}: {few:.1f} ms, {MANY}: {many:.1f} ms")
    print(f"ratio {ratios[False]:.2f} (limit {LIMIT}); with dependents {ratios[True]:.2f}")
    return 0 if ratios[False] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

"""What the platform adds to a job: from its enqueue to its outcome in the stream, for a function that does nothing.

    .venv/bin/python benchmarks/attempt.py [--jobs 40]

A real worker and a real Valkey, an environment that is in the cache, nothing to fetch. Also: attempts a second, and
what an idle worker costs. There is no limit to hold; the figures are for comparing.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dcm_processor.settings import Settings
from dcm_processor.transport import REPORTS, parse_report
from tests.integration.worker.conftest import DIGEST, Stand
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from worker.environments import Environments


def outcome(stand: Stand, attempt_id: str) -> dict:  # type: ignore[type-arg]
    """The outcome, read as the controller reads it: blocked on the stream."""
    last = "0"
    while True:
        for entry_id, entry in stand.transport.read({REPORTS: last}, block_ms=1000).get(REPORTS, []):
            last, report = entry_id, parse_report(entry)
            if report.kind == "outcome" and report.attemptId == attempt_id:
                return report.outcome


def milliseconds(values: list[float]) -> str:
    return f"median {1000 * statistics.median(values):6.1f} ms, fastest {1000 * min(values):6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=40)
    jobs = parser.parse_args().jobs
    folder = Path(tempfile.mkdtemp(prefix="attempt"))
    requirements = folder / "shared" / "requirements.txt"
    requirements.parent.mkdir()
    requirements.write_text("")
    Environments(Settings(BASEDIR=folder / "shared"), os.environ).provide(requirements, DIGEST)
    with ValkeyServer(folder / "valkey") as valkey:
        stand = Stand(folder / "base", valkey, folder / "shared" / "envs")
        try:
            stand.service("def work(**kwargs):\n    pass\n")
            worker = psutil.Process(stand.start().pid)
            stand.logged("serving")
            measure(stand, jobs)
            before, began = worker.cpu_times(), time.monotonic()
            time.sleep(10)
            after, seconds = worker.cpu_times(), time.monotonic() - began
            busy = after.user + after.system - before.user - before.system
            print(
                f"an idle worker         {100 * busy / seconds:6.2f} % of a core, {worker.memory_info().rss >> 20} MB"
            )
        finally:
            stand.close()


def measure(stand: Stand, jobs: int) -> None:
    whole, before, after = [], [], []
    for number in range(jobs):
        enqueued = time.time()
        stand.enqueue(f"job-{number}")
        found = outcome(stand, f"job-{number}")
        arrived = time.time()
        whole.append(arrived - enqueued)
        before.append(found["details"]["functionBegan"] - enqueued)
        after.append(arrived - found["details"]["functionBegan"])
        stand.acknowledge(f"job-{number}")
        stand.transport.redis.delete(REPORTS)
        time.sleep(0.1)
    print(f"enqueue to outcome     {milliseconds(whole)}")
    print(f"enqueue to function    {milliseconds(before)}")
    print(f"function to outcome    {milliseconds(after)}")
    began = time.monotonic()
    for number in range(jobs):
        stand.enqueue(f"bulk-{number}")
    for number in range(jobs):
        outcome(stand, f"bulk-{number}")
    print(f"one worker             {jobs / (time.monotonic() - began):6.1f} attempts a second")
    stand.transport.forget_attempts([f"bulk-{number}" for number in range(jobs)], acknowledge=True)
    wait_until(lambda: not list(stand.settings.spool.iterdir()), 30, "the spool is empty")


if __name__ == "__main__":
    main()

"""A warm start against a cold one: a job that imports numpy, pydicom and SimpleITK, from its dequeue to its first line.

    .venv/bin/python -m benchmarks.warm [--jobs 40]

A real worker and a real Valkey, the environment in its cache, nothing to fetch. Warm and cold jobs (`"warm": false`)
take turns, so both meet the same machine; each comes to an idle worker, and each third one is a warm one that was
queued behind another. Exit status 1 where the warm median is above 20 ms or above a tenth of the cold one, or that of
those which were queued behind another above three times the warm one.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from dcm_processor.environments.environment_key import DEFAULT_REQUIREMENTS
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from dcm_processor.transport import REPORTS
from tests.integration.worker.conftest import DIGEST, Stand
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from worker.environments import Environments
from worker.reaper import family
from worker.spool import BLANK

LIMIT_MS = 20.0
SHARE = 0.1
BUSY = 3.0
WORK = """
import time, pathlib
import numpy, pydicom, SimpleITK
def work(output_dir):
    began = time.time()
    pathlib.Path(output_dir, "began").write_text(repr(began))
"""


NOTES_DEQUEUE = """
import os, pathlib, time
from rq import Queue
pop = Queue.lpop.__func__
def lpop(cls, *arguments, **named):
    found = pop(cls, *arguments, **named)
    if found is not None:
        pathlib.Path(os.environ["BASEDIR"], "dequeued").write_text(repr(time.time()))
    return found
Queue.lpop = classmethod(lpop)
"""


def start(stand: Stand, *attempt_ids: str, warm: bool) -> float:
    """Milliseconds from the dequeue of the last of these jobs to its function's first line; all are queued at once."""
    rest(stand)
    for attempt_id in attempt_ids:
        stand.enqueue(attempt_id, warm=warm)
    for attempt_id in attempt_ids:
        outcome = stand.outcome(attempt_id)
        assert outcome.details["warm"] is warm, stand.log(attempt_id)
    began = float((stand.output(attempt_ids[-1]) / "began").read_text())
    dequeued = float((stand.base / "dequeued").read_text())
    for attempt_id in attempt_ids:
        stand.acknowledge(attempt_id)
    stand.transport.redis.delete(REPORTS)
    for attempt_id in attempt_ids:
        wait_until(lambda name=attempt_id: not stand.spooled(name).exists(), 10, "the worker is done with the attempt")
    return (began - dequeued) * 1000


def rest(stand: Stand) -> None:
    """Wait until the next horse is there, and no process of the worker does anything."""
    blank = stand.base / "run" / "spool" / BLANK
    wait_until(lambda: list(blank.glob("*/outcome.json")), 10, "the next horse waits")
    used: dict[int, int] = {}

    def still() -> bool:
        before = dict(used)
        used.update({pid: cpu_time(pid) for pid in family(stand.workers[-1].pid)})
        return used == before

    wait_until(still, 10, "the worker rests", every=0.2)


def cpu_time(pid: int) -> int:
    """Nanoseconds that a process has run (proc_pid_schedstat); 0 of one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except OSError:
        return 0


def shown(milliseconds: list[float]) -> str:
    return f"median {statistics.median(milliseconds):6.1f} ms, fastest {min(milliseconds):6.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=40)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shared").mkdir()
        Environments(Settings(BASEDIR=folder / "shared"), os.environ).provide(folder / "none", DIGEST)
        with ValkeyServer(folder / "valkey") as valkey:
            stand = Stand(folder / "base", valkey, folder / "shared" / "envs")
            try:
                stand.service(WORK)
                module = Store.of(stand.settings).module_folder("svc", DIGEST)
                (module / "requirements.txt").unlink()  # what has none gets DEFAULT_REQUIREMENTS
                stand.start(NOTES_DEQUEUE)
                stand.logged("serving")
                stand.outcome(stand.enqueue("first-1"), 120)
                stand.acknowledge("first-1")
                warm, cold, busy = [], [], []
                for number in range(jobs):
                    warm.append(start(stand, f"warm-{number}", warm=True))
                    cold.append(start(stand, f"cold-{number}", warm=False))
                    busy.append(start(stand, f"before-{number}", f"behind-{number}", warm=True))
            finally:
                stand.close()
    ratio = statistics.median(warm) / statistics.median(cold)
    print(f"{DEFAULT_REQUIREMENTS.name}: a job that imports numpy, pydicom and SimpleITK")
    print(f"cold {shown(cold)}")
    print(f"warm {shown(warm)}; {ratio:.3f} of the cold median")
    behind = statistics.median(busy) / statistics.median(warm)
    print(f"busy {shown(busy)}; {behind:.1f} of the warm median")
    print(f"limits {LIMIT_MS:.0f} ms, {SHARE}, {BUSY}")
    return 0 if statistics.median(warm) <= LIMIT_MS and ratio <= SHARE and behind <= BUSY else 1


if __name__ == "__main__":
    sys.exit(main())

"""A job's end to its dependent's enqueue, on an idle system: real Orthanc, Valkey, controller and worker.

    .venv/bin/python benchmarks/hop.py [--jobs 40] [--seconds 0.1] [--memory 0]

A chain of jobs; each writes down the time of its last line, and Redis tells (MONITOR) when the next one was pushed to
its queue, where a worker has it. The median of the differences is what counts (at most 10 ms). Exit status 1 above it.
Each lasts so many --seconds, after which nothing is at work any more on what belongs to its start; with --memory their
module holds so many MB, which the system has to take apart at each job's end. Beside it, for orientation, stands what
the same steps take by bare means on this machine, before and after (benchmarks/bare_hop.py), and the ratio to that.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import redis
from redis.client import Monitor

from benchmarks import bare_hop
from tests.dicom import make_study, upload
from tests.integration.scheduler.platform import Platform
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until

LIMIT_MS = 10.0
BARE = 20  # hops, before and after
WORK = """
import pathlib, time
HELD = bytearray(b"x" * {memory} * 1_000_000)
def work(output_dir):
    time.sleep({seconds})
    with pathlib.Path(output_dir, "end").open("w") as end:
        end.write(repr(time.time()))
"""


def chain(platform: Platform, folder: Path, length: int, work: str) -> None:
    jobs = [{"jobName": f"job-{n:03d}"} | ({"dependsOn": f"job-{n - 1:03d}"} if n else {}) for n in range(length)]
    platform.install("chain", jobs, "def applies(**kwargs):\n    return True\n", folder, work=work)


def ended(platform: Platform) -> bool:
    """Asked seldom and cheaply: the system is to be idle but for the chain."""
    return any(study["state"] in ("finished", "failed") for study in platform.ledger.studies().items)


def bare(valkey: ValkeyServer, folder: Path, seconds: float) -> list[float]:
    """Milliseconds of hops by bare means (benchmarks/bare_hop.py)."""
    folder.mkdir()
    with redis.Redis.from_url(valkey.url) as client, client.monitor() as monitor:
        programs = [
            subprocess.Popen(
                [sys.executable, bare_hop.__file__, role, str(valkey.port), str(folder), str(BARE), str(seconds)]
            )
            for role in ("controller", "worker")
        ]
        if any(program.wait(60 + 2 * BARE * seconds) for program in programs):
            raise SystemExit("the bare hops failed")
        pushed = pushes(monitor, bare_hop.QUEUE, BARE)
        client.delete(bare_hop.REPORTS, bare_hop.QUEUE)
    return [(pushed[str(n)] - float((folder / f"job-{n}" / "end").read_text())) * 1000 for n in range(1, BARE)]


def hops_of(platform: Platform, study_id: str, pushed: Mapping[str, float]) -> list[float]:
    """Milliseconds from each job's last line to the moment at which the next one was `pushed`, by attempt id."""
    results, jobs, hops = platform.settings.data / "results" / study_id, platform.jobs(study_id), []
    for n in range(1, len(jobs)):
        end = float((results / f"job-{n - 1:03d}" / "end").read_text())
        hops.append((pushed[jobs[f"job-{n:03d}"]["attempts"][0]["attemptId"]] - end) * 1000)
    return hops


def pushes(monitor: Monitor, queue: str, number: int) -> dict[str, float]:
    """What was pushed to queues of that name, and when by Redis's clock, so much of it."""
    found: dict[str, float] = {}
    for command in monitor.listen():
        verb, *arguments = command["command"].split(" ")
        if verb == "RPUSH" and arguments[0].startswith(queue):
            found[arguments[1]] = command["time"]
        if len(found) == number:
            break
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--memory", type=int, default=0)
    arguments = parser.parse_args()
    length = arguments.jobs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            ValkeyServer(folder / "valkey") as valkey,
            OrthancServer(folder / "orthanc") as orthanc,
            ExitStack() as stack,
        ):
            floor = bare(valkey, folder / "before", arguments.seconds)
            platform = Platform(folder / "base", valkey, orthanc)
            work = WORK.format(seconds=arguments.seconds, memory=arguments.memory)
            chain(platform, folder / "source", length, work)
            environ = os.environ | {
                "BASEDIR": str(folder / "base"), "REDIS_URL": valkey.url, "ORTHANC_REST_URL": orthanc.url,
                "ORTHANC_REST_PASSWORD": orthanc.password, "MODE": "local",
            }  # fmt: skip
            monitor = stack.enter_context(platform.transport.redis.monitor())  # read at the end: nobody is woken
            programs = [
                subprocess.Popen([sys.executable, "-m", module], env=environ, stderr=subprocess.DEVNULL)
                for module in ("scheduler.controller", "worker")
            ]
            try:
                study = make_study(folder / "study")
                upload(orthanc.url, orthanc.auth, study.files)
                platform.announce(study.study_id)
                wait_until(lambda: ended(platform), 120 + length * (1 + arguments.seconds), every=0.5)
                hops = hops_of(platform, study.study_id, pushes(monitor, "rq:queue:", length))
            finally:
                for program in programs:
                    program.terminate()
                for program in programs:
                    program.wait(30)
            floor = statistics.median(floor + bare(valkey, folder / "after", arguments.seconds))
    hops.sort()
    median = statistics.median(hops)
    print(
        f"{len(hops)} hops: median {median:.1f} ms, fastest {hops[0]:.1f}, 95 % below {hops[int(len(hops) * 0.95)]:.1f}"
    )
    print(f"the same steps by bare means: median {floor:.1f} ms; {median / floor:.2f} times that")
    print(f"limit {LIMIT_MS:.0f} ms")
    return 0 if median <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())

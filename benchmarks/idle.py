"""What an idle platform costs: the controller, and beside it whatever else `run.sh --local --scale worker=2` starts.

    .venv/bin/python benchmarks/idle.py [--seconds 60]

CPU time of each program and all it started, as a share of one core, over a minute in which nothing is sent. The
controller's is what counts (at most 1 %); exit status 1 above it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.demo import CHECKOUT, PORTS
from dcm_processor.local.supervisor import Supervisor, place_for_socket
from dcm_processor.settings import Settings
from tests.servers import free_port

LIMIT = 1.0
SETTLED = 20.0
"""Seconds for what is done once after the start."""


def cpu_seconds(pid: int) -> float:
    """Of a process and its descendants, those that have ended and were waited for included."""
    family = [program := psutil.Process(pid), *program.children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in family)


def shares(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """Program -> % of one core."""
    before, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {name: 100 * (cpu_seconds(pid) - before[name]) / took for name, pid in pids.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "BASEDIR": f"{folder}/base", **{port: str(free_port()) for port in PORTS}}
        run = ["bash", str(CHECKOUT / "run.sh"), "--local"]
        try:
            subprocess.run([*run, "--scale", "worker=2"], env=environ, check=True, stdout=subprocess.DEVNULL)
            time.sleep(SETTLED)
            supervisor = Supervisor(place_for_socket(Settings(BASEDIR=Path(folder) / "base").run))
            measured = shares({status.name: status.pid for status in supervisor.status()}, seconds)
        finally:
            subprocess.run([*run, "--down"], env=environ, check=True, stdout=subprocess.DEVNULL)
    for name, share in sorted(measured.items()):
        print(f"{name:12} {share:5.2f} % of a core")
    print(f"limit of the controller {LIMIT:.0f} %")
    return 0 if measured["controller"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

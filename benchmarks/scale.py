"""One study of a million instances, in one series and in a thousand; and one of 5,000 series.

    .venv/bin/python benchmarks/scale.py [--only 1x1000000 | 1000x1000 | 5000x4]

From the event to the last attempt in its queue, with a job for the study and one for each series: a real controller,
SQLite and Valkey, against an Orthanc that makes its answers up. What counts is the planning child's peak memory, beside
what a study of one instance takes (at most 600 bytes an instance; 60,000 a series where each has a few), and the
longest turn of the controller, in which everybody else waits (at most 3 s: its lease is 15 s). Time and sizes stand
beside it, for orientation. Exit status 1 above a limit.
"""

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import structlog
from sqlalchemy import text

from dcm_processor.transport import PREFIX
from scheduler import controller
from tests.integration.scheduler.platform import YES, Platform
from tests.large_study import LargeStudy
from tests.servers import ValkeyServer
from tests.waiting import wait_until

SHAPES = ((1, 1_000_000), (1000, 1000), (5000, 4))
JOBS = [{"jobName": "whole"}, {"jobName": "each", "level": "series"}]
LIMIT_INSTANCE, LIMIT_SERIES, LIMIT_TURN = 600, 60_000, 3.0
PATIENCE = 900.0


class Turns:
    """How long the controller's turns take, without what it waits for something to do."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.number = 0
        self._woke = 0.0

    def wait(self, *sources: Any, **keywords: Any) -> list[Any]:
        """In the place of `multiprocessing.connection.wait`."""
        if self._woke:
            self.number += 1
            self.longest = max(self.longest, time.perf_counter() - self._woke)
        found = wait(*sources, **keywords)
        self._woke = time.perf_counter()
        return found


class Children(threading.Thread):
    """Watches the memory of what this process has started."""

    def __init__(self, but: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._but = set(but)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                if child.pid not in self._but:
                    self.peak = max(self.peak, _peak(child.pid))

    def close(self) -> None:
        self._over.set()
        self.join()


def _peak(pid: int) -> int:
    """Bytes that were resident at most; 0 where there is no such process any more."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class Found:
    """What planning one study took."""

    seconds: float
    peak: int  # bytes
    turn: float  # seconds
    row: int  # bytes
    order: int  # bytes
    calls: int
    load: float  # seconds
    page: float  # seconds
    queued: int


def measure(series: int, instances: int) -> Found:
    """Plan a study of so many series of so many instances."""
    turns = Turns()
    controller.wait = turns.wait  # type: ignore[assignment]
    with (
        tempfile.TemporaryDirectory() as name,
        ValkeyServer(Path(name) / "valkey") as valkey,
        LargeStudy(series, instances) as orthanc,
    ):
        assert valkey.process is not None
        stand: Any = orthanc
        platform = Platform(Path(name) / "base", valkey, stand)
        platform.install("svc", JOBS, YES, Path(name) / "source")
        children = Children([valkey.process.pid, *(child.pid for child in psutil.Process().children())])
        with platform:
            children.start()
            began = time.perf_counter()
            platform.announce(orthanc.study_id)
            queue = "rq:queue:default"
            wait_until(lambda: platform.transport.redis.llen(queue) == series + 1, PATIENCE, "all jobs are queued")
            seconds, last = time.perf_counter() - began, turns.number
            wait_until(lambda: turns.number > last, PATIENCE, "the turn ends")
        children.close()
        with platform.ledger.read() as db:
            columns = db.execute(text("SELECT length(CAST(instances AS BLOB)) + length(headers) FROM plans"))
            row = int(columns.scalar_one())
        began = time.perf_counter()
        platform.ledger.study(orthanc.study_id)
        page = time.perf_counter() - began
        attempt_id = platform.transport.redis.lindex(queue, 0).decode()  # type: ignore[union-attr]
        began = time.perf_counter()
        found = platform.transport.order(attempt_id)
        assert found is not None
        load = time.perf_counter() - began
        order = platform.transport.redis.strlen(f"{PREFIX}plan:{found[0].planId}")
        return Found(
            seconds, children.peak, turns.longest, row, int(order), sum(orthanc.asked().values()), load, page,  # type: ignore[arg-type]
            series + 1,
        )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[f"{series}x{instances}" for series, instances in SHAPES])
    only = parser.parse_args().only
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    smallest = measure(1, 1)
    print(f"1 instance: {smallest.seconds:.1f} s, planning child {smallest.peak / 1e6:.0f} MB")
    over = False
    for series, instances in SHAPES:
        if only not in (None, f"{series}x{instances}"):
            continue
        found = measure(series, instances)
        number, limit, what = (series, LIMIT_SERIES, "series") if instances < 100 else (
            series * instances, LIMIT_INSTANCE, "instance"
        )  # fmt: skip
        each = (found.peak - smallest.peak) / number
        print(
            f"{series} series of {instances}: {found.seconds:.1f} s to the last of {found.queued} jobs queued, "
            f"{found.calls} calls to Orthanc\n"
            f"  planning child {found.peak / 1e6:.0f} MB, {each:.0f} bytes a further {what} (limit {limit})\n"
            f"  longest turn {found.turn:.2f} s (limit {LIMIT_TURN:g} s)\n"
            f"  ledger's row {found.row / 1e6:.1f} MB, read in {found.page:.2f} s for the API; "
            f"in Redis {found.order / 1e6:.1f} MB, read in {found.load:.2f} s by a worker",
            flush=True,
        )
        over |= each > limit or found.turn > LIMIT_TURN
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())

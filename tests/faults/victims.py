"""Whom a fault hits, and what it was doing at that moment: seen in /proc, the ledger, Redis and the links."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from tests.faults.scanner import Scanner
from tests.faults.stand import Stand
from worker.spool import BLANK

IDLE = "nothing"
_PATIENCE = 20.0  # seconds in which the victim should come into the middle of something
_POLL = 0.002


@dataclass(frozen=True)
class Victim:
    """A process, and what it is doing."""

    process: psutil.Process
    doing: str

    def signal(self, number: signal.Signals) -> bool:
        """Whether it was there to be hit."""
        with suppress(psutil.NoSuchProcess):  # also where its number went to another process
            self.process.send_signal(number)
            return True
        return False


class Victims:
    """Finds them."""

    def __init__(self, stand: Stand, scanner: Scanner, chance: random.Random) -> None:
        self._stand = stand
        self._scanner = scanner
        self._chance = chance

    def catch(self, kind: str) -> Victim | None:
        """One of this kind in the middle of something; where none is in time, one that is idle; None: there is none."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            pids = self._pids()
            until = time.monotonic() + 0.5  # programs do not change so fast, and asking for them takes time
            found: list[Victim] = []
            while time.monotonic() < until:
                found = list(self._find(kind, pids))
                if busy := [victim for victim in found if victim.doing != IDLE]:
                    return self._chance.choice(busy)
                time.sleep(_POLL)
            if time.monotonic() > deadline:
                return self._chance.choice(found) if found else None

    def _pids(self) -> dict[str, int]:
        pids = self._stand.pids()
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(pids["scheduler"]).children() if pids["scheduler"] else []
        return pids | {"scheduler's child": children[0].pid if children else 0}

    def _find(self, kind: str, pids: dict[str, int]) -> Iterator[Victim]:
        with suppress(psutil.NoSuchProcess):
            if kind in ("worker", "horse", "reaper", "runner"):
                for name, pid in pids.items():
                    if name.startswith("worker") and pid:
                        yield from self._in_worker(kind, pid)
            elif kind == "planning":
                for child in _planning(pids["controller"]):
                    yield Victim(child, "planning a study")
            elif pids[kind]:
                yield Victim(psutil.Process(pids[kind]), self._doing(kind, pids))

    def _doing(self, program: str, pids: dict[str, int]) -> str:
        match program:
            case "controller":
                return self._controller(pids["controller"])
            case "redis":
                return self._redis(pids)
            case "orthanc":
                return "receiving instances" if self._scanner.sending else IDLE
            case _:
                return "answering the hook" if self._stand.network.links["orthanc-scheduler"].open else IDLE

    def _in_worker(self, kind: str, pid: int) -> Iterator[Victim]:
        worker = psutil.Process(pid)
        parts = self._parts(worker)
        doing = "running a function" if {"horse", "runner"} <= parts.keys() else "starting or ending an attempt"
        if "horse" not in parts:  # what else is there is kept warm for the next job
            doing = IDLE
        if kind == "worker":
            yield Victim(worker, doing)
        elif kind in parts:
            yield Victim(parts[kind], doing)

    @staticmethod
    def _parts(worker: psutil.Process) -> dict[str, psutil.Process]:
        found: dict[str, psutil.Process] = {}
        for child in worker.children(recursive=True):
            with suppress(psutil.NoSuchProcess, OSError):
                line = " ".join(child.cmdline())
                part = "runner" if "runner.py" in line else ""
                part = part or ("reaper" if "reaper.py" in line or "keeper.main" in line else "")
                part = part or ("horse" if line.endswith("-m worker") and not _waits(child) else "")
                found.setdefault(part, child)
        return found

    def _controller(self, pid: int) -> str:
        if _planning(pid):
            return "planning studies"
        with suppress(redis.RedisError, OSError), self._stand.redis() as client:
            if client.xlen("dcmproc:reports"):
                return "taking outcomes"
        if self._stand.ask("SELECT 1 FROM events WHERE handled_at IS NULL LIMIT 1"):
            return "having events to plan"
        return IDLE

    def _redis(self, pids: dict[str, int]) -> str:
        workers = [pid for name, pid in pids.items() if name.startswith("worker") and pid]
        running = any("horse" in self._parts(psutil.Process(pid)) for pid in workers)
        return "carrying running attempts" if running else IDLE


def _waits(horse: psutil.Process) -> bool:
    """Whether a horse's attempt is still to come."""
    links = [str(link.readlink()) for link in Path(f"/proc/{horse.pid}/fd").iterdir()]
    return any(f"/{BLANK}/" in link for link in links)


def _planning(controller: int) -> list[psutil.Process]:
    """The children of the controller's fork server, and theirs."""
    if not controller:
        return []
    found: list[psutil.Process] = []
    for child in psutil.Process(controller).children():
        with suppress(psutil.NoSuchProcess):
            if any("forkserver" in word for word in child.cmdline()):
                found += child.children(recursive=True)
    return found

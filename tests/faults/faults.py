"""The faults: which, of whom and for how long come from a seed; when exactly depends on what the victim is doing."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import redis

from tests.faults.links import Mode
from tests.faults.stand import LOST_AFTER, Stand
from tests.faults.victims import IDLE, Victims
from tests.waiting import wait_until

PROCESSES = (
    "orthanc",
    "redis",
    "scheduler",
    "scheduler's child",
    "controller",
    "planning",
    "worker",
    "horse",
    "reaper",
    "runner",
)
LINKS = (
    "scheduler-redis",
    "controller-redis",
    "worker-redis",
    "controller-orthanc",
    "worker-orthanc",
    "orthanc-scheduler",
    "scanner-orthanc",
)
_WORKERS_LINKS = ("worker-redis", "worker-orthanc")
_TARGETS: dict[str, Sequence[str]] = {
    "kill": PROCESSES,
    "stop": PROCESSES,
    "end": ("orthanc", "redis", "scheduler", "controller", "worker"),
    "cut": LINKS,
    "unplug": ("workers",),
    "empty": ("redis",),
    "forget": ("redis",),
    "fill": ("data",),
    "down": ("everything",),
}
_WEIGHTS = {"kill": 40, "stop": 15, "end": 12, "cut": 15, "unplug": 3, "empty": 8, "forget": 3, "fill": 4, "down": 3}
_STOPPED = (0.5, 3.0, 8.0)


@dataclass(frozen=True)
class Fault:
    """One fault.

    kill: SIGKILL; stop: SIGSTOP for `seconds`, then SIGCONT, or SIGKILL where `fatal`; end: SIGTERM, and it is
    started again; cut: a link in a `mode` for `seconds`; unplug: the workers reach nothing for `seconds`, and are taken
    for lost; empty: FLUSHALL; forget: Redis restarted without its data;
    fill: DATA's disk full for `seconds`; down: everything stopped, and started again.
    """

    number: int
    kind: str
    target: str
    seconds: float = 0.0
    fatal: bool = False
    mode: Mode = Mode.DROP
    pause: float = 0.0  # seconds before it

    def __str__(self) -> str:
        how = f" {self.mode}" if self.kind == "cut" else ""
        return f"{self.kind}{how} {self.target}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


@dataclass(frozen=True)
class Strike:
    """A fault that was, and what its victim was doing; "": that is no question of this fault."""

    fault: Fault
    doing: str
    at: float  # seconds since the epoch

    @property
    def counts(self) -> bool:
        """Whether it hit a process, of which it is asked what it was doing."""
        return self.fault.kind in ("kill", "stop", "end")

    @property
    def hit(self) -> bool:
        """Whether it hit a process in the middle of something."""
        return self.counts and self.doing not in (IDLE, "", MISSED)


MISSED = "not there"


def draw(seed: int, count: int) -> list[Fault]:
    """The faults of a seed."""
    return [_draw(random.Random(f"{seed}/fault/{number}"), number) for number in range(count)]


def _draw(chance: random.Random, number: int) -> Fault:
    kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    target = chance.choice(_TARGETS[kind])
    seconds = {"cut": chance.uniform(0.5, 8), "fill": chance.uniform(1, 5), "stop": chance.choice(_STOPPED)}
    if kind == "stop" and target in ("worker", "controller") and chance.random() < 0.4:
        seconds[kind] = LOST_AFTER + 10
    seconds["unplug"] = LOST_AFTER + 10
    return Fault(
        number, kind, target, seconds.get(kind, 0.0), chance.random() < 0.4,
        mode=chance.choice((Mode.DROP, Mode.HANG, Mode.REFUSE)), pause=chance.uniform(0.2, 2.0),
    )  # fmt: skip


def strike(
    fault: Fault, stand: Stand, victims: Victims, later: Callable[[float, Callable[[], object]], None]
) -> Strike:
    """Do it; `later(seconds, action)` has what ends it done while others go on."""
    doing = ""
    at = time.time()
    match fault.kind:
        case "kill" | "stop" | "end":
            victim = victims.catch(fault.target)
            number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}[fault.kind]
            at = time.time()
            doing = victim.doing if victim is not None and victim.signal(number) else MISSED
            if victim is not None and fault.kind == "stop":
                last = signal.SIGKILL if fault.fatal else signal.SIGCONT
                later(fault.seconds, lambda: victim.signal(last))
        case "cut":
            stand.network.change(fault.target, fault.mode)
            later(fault.seconds, lambda: stand.network.change(fault.target, Mode.PASS))
        case "unplug":
            for link in _WORKERS_LINKS:
                stand.network.change(link, Mode.HANG)
                later(fault.seconds, partial(stand.network.change, link, Mode.PASS))
        case "empty":
            wait_until(lambda: _emptied(stand), 60, "Redis can be emptied")
        case "forget":
            stand.restart("redis", emptied=True)
        case "fill":
            stand.fill(full=True)
            later(fault.seconds, lambda: stand.fill(full=False))
        case "down":
            stand.stop()
            stand.start()
    return Strike(fault, doing, at)


def _emptied(stand: Stand) -> bool:
    try:
        with stand.redis() as client:
            return bool(client.flushall())
    except (redis.RedisError, OSError):
        return False

"""Who leads: one holder at a time, with an epoch that every transaction of the leader checks."""

import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, insert, select, update

from dcm_processor.errors import TransientError
from dcm_processor.ledger.prepared import Prepared
from dcm_processor.ledger.schema import leases
from dcm_processor.process import boot_time

LEADER = "controller"
"""The lease of the one controller that leads."""

_EPOCH = Prepared(select(leases.c.epoch).where(leases.c.name == bindparam("of")).with_for_update(read=True))


class LeaseLostError(TransientError):
    """Another leader took over; whatever this one still wants to write must not be written."""


@dataclass
class Lease:
    """A lease as its holder got it; `seen_at`: when it was last found to be in force (seconds of `boot_time`)."""

    name: str
    holder: str
    epoch: int
    seen_at: float = field(default=-math.inf, compare=False)


class Watch:
    """How long a lease has not been renewed, by the monotonic clock of who waits for it: other clocks may be set."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[int, float] | None = None
        self._since = 0.0

    def idle(self, epoch: int, expires_at: float) -> float:
        """Seconds since a look first found the lease as it is now."""
        if self._seen != (epoch, expires_at):
            self._seen, self._since = (epoch, expires_at), self._clock()
        return self._clock() - self._since


def holder_of_this_process() -> str:
    """`<host>:<pid>:<start of the process>`, so that a successor on the same host sees a dead holder at once."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def acquire(db: Connection, name: str, holder: str, watch: Watch, *, now: float, seconds: float) -> Lease | None:
    """Take the lease if it is free, ran out, or its holder died on this host; None: somebody else leads.

    It ran out as well where `watch`, which the caller keeps, did not see it renewed for so many seconds.
    """
    row = db.execute(select(leases).where(leases.c.name == name).with_for_update()).mappings().one_or_none()
    if row is None:
        db.execute(insert(leases).values(name=name, holder=holder, epoch=1, expires_at=now + seconds))
        return Lease(name, holder, 1)
    idle = watch.idle(row["epoch"], row["expires_at"])
    if row["holder"] != holder and row["expires_at"] > now and idle < seconds and not _died_here(row["holder"]):
        return None
    epoch = row["epoch"] + 1
    db.execute(update(leases).where(leases.c.name == name).values(holder=holder, epoch=epoch, expires_at=now + seconds))
    return Lease(name, holder, epoch)


def renew(db: Connection, lease: Lease, *, now: float, seconds: float) -> None:
    """Keep the lease; raises LeaseLostError where another leader took over."""
    check(db, lease)
    db.execute(update(leases).where(leases.c.name == lease.name).values(expires_at=now + seconds))


def release(db: Connection, lease: Lease) -> None:
    """Let a successor take over at once."""
    check(db, lease)
    db.execute(update(leases).where(leases.c.name == lease.name).values(expires_at=0))


def check(db: Connection, lease: Lease) -> None:
    """Raise LeaseLostError unless `lease` is in force (PostgreSQL keeps it locked until the transaction ends)."""
    now = boot_time()
    [(epoch,)] = _EPOCH.rows(db, {"of": lease.name}) or [(None,)]
    if epoch != lease.epoch:
        raise LeaseLostError(f"{lease.name}: epoch {lease.epoch} ended, {epoch} is in force")
    lease.seen_at = now


def keep_leader_out(db: Connection) -> None:
    """Have the leader's transactions come before this one or after it, never beside it (SQLite knows no other way)."""
    db.execute(select(leases.c.epoch).where(leases.c.name == LEADER).with_for_update()).all()


def _died_here(holder: str) -> bool:
    host, pid, started = holder.rsplit(":", 2)
    return host == socket.gethostname() and _started(int(pid)) != started


def _started(pid: int) -> str:
    """The kernel's start time of a process in clock ticks since boot (proc(5), field 22); "" where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123 - /proc
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""

"""The controller: plans what events ask for, takes outcomes, advances plans, and repairs. One leads at a time.

It wakes on a Redis stream (an event was recorded, an attempt ended), on a planning child that is done, and on a clock;
each turn looks at the ledger, so that a wake that never came costs a second and nothing else.
"""

import gc
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait

from dcm_processor.errors import DcmProcessorError, LedgerUnavailableError, TransientError
from dcm_processor.ledger import Lease, LeaseLostError, Ledger, leases, repairs
from dcm_processor.logging import get_logger, set_up_logging
from dcm_processor.orthanc import Orthanc
from dcm_processor.process import show_alive
from dcm_processor.settings import Settings, checkout_from_environment
from dcm_processor.store import Store
from dcm_processor.transport import REPORTS, Report, Transport, parse_report
from dcm_processor.vocabulary import RepairKind
from scheduler import outcomes
from scheduler.changes import Changes
from scheduler.effects import Effects
from scheduler.holds import Holds
from scheduler.logs import LogReceiver
from scheduler.planner import Planner
from scheduler.planning import start_fork_server
from scheduler.progress import deciding
from scheduler.repair import Repair
from scheduler.results import Results
from scheduler.retention import Retention
from scheduler.room import Room
from scheduler.stream import StreamReader
from scheduler.versions import VersionCollector

log = get_logger()

LEASE_SECONDS = 15.0
TICK = 1.0
"""Seconds after which the controller looks at the ledger even if nothing woke it."""
EVERY = {
    "renew": LEASE_SECONDS / 3,
    "holds": 2.0,
    "attempts": 5.0,
    "plans": 5.0,
    "clocks": 60.0,
    "results": 60.0,
    "keys": 15.0,
    "versions": 3600.0,
    "room": 10.0,
    "retention": 3600.0,
}
"""Seconds between two runs of a step; the others run every turn."""


class Controller:
    """One controller process; `run` leads until told to stop or until somebody else leads."""

    def __init__(self, settings: Settings) -> None:
        self._ledger = Ledger(settings.database_url)
        self._transport = Transport(settings.redis_url)
        self._results = Results(settings.data)
        self._store = Store.of(settings)
        self._planner = Planner(settings, self._ledger, self._transport, self._results)
        self._holds = Holds(settings, self._ledger)
        self._versions = VersionCollector(settings, self._ledger)
        self._retention = Retention(settings, self._ledger)
        self._room = Room(settings)
        self._orthanc = Orthanc.of(settings)
        self._stable_age = settings.STABLE_AGE
        self._alive_file = settings.ALIVE_FILE
        self._stream = StreamReader(settings.redis_url)
        self._repair = Repair(self._ledger, self._transport, lost_after=settings.LOST_AFTER, emptied=self._stream.again)
        self._logs = LogReceiver(settings.redis_url, self._ledger, settings.logs)
        self._stopped = threading.Event()
        self._due: dict[str, float] = {}
        self._renewed = math.inf
        self._troubled: set[str] = set()

    def stop(self) -> None:
        """Have `run` return soon; safe in a signal handler."""
        self._stopped.set()
        self._stream.ring()

    def run(self) -> None:
        """Lead. Returns when told to stop; raises LeaseLostError when another leader took over."""
        start_fork_server()
        lease = self._acquire()
        if lease is None:
            return
        log.info("leading", epoch=lease.epoch, holder=lease.holder)
        changes = Changes(self._ledger, self._orthanc, self._stable_age, lease, self._stream.ring)
        changes.start()
        self._logs.start()
        self._stream.start()
        gc.collect()
        gc.freeze()  # what was imported stays; without this each collection looks at all of it again
        try:
            while not self._stopped.is_set():
                self._turn(lease)
        finally:
            self._planner.close()
            self._retention.close()
            changes.close()
            self._stream.close()
            self._logs.close()
            self._transport.close()
        with self._ledger.write() as db:
            leases.release(db, lease)

    def _acquire(self) -> Lease | None:
        holder, watch, prepared = leases.holder_of_this_process(), leases.Watch(), False
        while not self._stopped.is_set():
            try:
                if not prepared:
                    self._prepare_ledger()
                    prepared = True
                with self._ledger.write() as db:
                    lease = leases.acquire(db, leases.LEADER, holder, watch, now=time.time(), seconds=LEASE_SECONDS)
                if lease is not None:
                    return lease
            except TransientError as error:
                self._trouble("lease", str(error))
            self._stopped.wait(1)
        return None

    def _prepare_ledger(self) -> None:
        """As the scheduler does when it begins; but that one goes on where the database does not answer yet."""
        self._ledger.migrate()
        with suppress(LedgerUnavailableError):  # full or locked: its commits take a little longer for a while
            self._ledger.make_room()

    def _turn(self, lease: Lease) -> None:
        """Wait for something to do, and do it; a step that fails is told of once and tried again."""
        self._stream.go_on()
        readable = wait([self._stream.bell, *self._planner.bells], timeout=TICK)
        steps: Sequence[tuple[str, Callable[[Effects], object]]] = (
            ("renew", lambda _: self._renew(lease)),
            ("reports", lambda _: self._take_reports(lease)),
            ("planned", lambda _: self._planner.collect(lease, readable)),
            ("holds", lambda _: self._holds.look(lease)),
            ("events", lambda _: self._handle_events(lease)),
            ("retries", lambda effects: self._repair.retries(lease, effects)),
            ("attempts", lambda effects: self._repair_attempts(lease, effects)),
            ("clocks", lambda _: self._repair.clocks(lease)),
            ("plans", lambda effects: self._repair.plans(lease, effects)),
            ("results", lambda _: self._repair_results(lease)),
            ("keys", lambda effects: self._repair.keys(lease, effects)),
            ("versions", lambda _: self._versions.begin()),
            ("room", lambda _: self._room.tell()),
            ("retention", lambda _: self._retention.begin(lease)),
        )
        for name, step in steps:
            now = time.monotonic()
            if now > self._renewed + LEASE_SECONDS:  # stopped in the middle of the turn: somebody else may lead
                self._renew(lease)
            if now < self._due.get(name, 0):
                continue
            self._due[name] = now + EVERY.get(name, 0)
            effects = Effects()
            try:
                try:
                    step(effects)
                finally:  # of a step that fails in the middle, what is committed follows all the same
                    effects.carry_out(self._ledger, self._transport, self._results, self._store, lease)
            except LeaseLostError:
                raise
            except (DcmProcessorError, OSError) as error:  # OSError: DATA is full, away or read-only
                self._trouble(name, str(error))
            except Exception as error:  # the leader's edge: whatever one step meets, the others go on
                if name not in self._troubled:
                    log.exception("a step failed", step=name)
                self._trouble(name, type(error).__name__)
            else:
                if name in self._troubled:
                    self._troubled.discard(name)
                    log.info("works again", step=name)

    def _renew(self, lease: Lease) -> None:
        with self._ledger.write(lease) as db:
            leases.renew(db, lease, now=time.time(), seconds=LEASE_SECONDS)
        self._renewed = time.monotonic()
        show_alive(self._alive_file)

    def _handle_events(self, lease: Lease) -> None:
        if self._planner.handle(lease):
            self._stream.ring()  # the rest in the next turn, at once

    def _repair_attempts(self, lease: Lease, effects: Effects) -> None:
        self._repair.attempts(lease, effects)
        if effects.ready:  # an interrupted predecessor may not have published what these depend on
            self._repair_results(lease)

    def _repair_results(self, lease: Lease) -> None:
        if published := self._results.repair(self._ledger):
            with self._ledger.write(lease) as db:
                repairs.count(db, RepairKind.RESULT_UNPUBLISHED, published, now=time.time())

    def _take_reports(self, lease: Lease) -> None:
        """All reports that came, in one transaction; one by one where one of them spoils it."""
        entries = self._stream.take()
        if not entries:
            return
        reports = []
        for entry_id, entry in entries:
            try:
                reports.append(parse_report(entry))
            except (ValueError, TypeError):
                log.error("dropped a report that no worker of ours wrote", entry=entry_id)
        effects = Effects()
        try:
            try:
                self._take(lease, reports, effects)
            except DcmProcessorError:
                raise
            except Exception:
                log.exception("a batch of reports could not be taken; taking them one by one")
                self._take_one_by_one(lease, reports, effects)
            effects.carry_out(self._ledger, self._transport, self._results, self._store, lease)
            self._transport.drop(REPORTS, [entry_id for entry_id, _ in entries])
        except (DcmProcessorError, OSError):
            self._stream.again()
            raise

    def _take(self, lease: Lease, reports: Sequence[Report], effects: Effects) -> None:
        with deciding(self._ledger, lease, effects) as (db, own):
            for report in reports:
                outcomes.take(db, report, own, now=time.time())

    def _take_one_by_one(self, lease: Lease, reports: Sequence[Report], effects: Effects) -> None:
        for report in reports:
            try:
                self._take(lease, [report], effects)
            except DcmProcessorError:
                raise
            except Exception:
                log.exception("dropped a report that cannot be taken", attemptId=report.attemptId)

    def _trouble(self, name: str, error: str) -> None:
        if name not in self._troubled:
            self._troubled.add(name)
            log.warning("a step fails and is tried again until it works", step=name, error=error)


def main() -> int:
    """Entry point: `python -m scheduler.controller`."""
    set_up_logging("controller")
    try:
        controller = Controller(Settings.load(checkout_from_environment()))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: controller.stop())
        controller.run()
    except LeaseLostError as error:
        log.warning("stands down", error=str(error))
        return 1
    except DcmProcessorError as error:
        log.error("cannot go on", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

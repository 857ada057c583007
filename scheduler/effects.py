"""What follows a committed transaction: files renamed, attempts pushed, keys removed. Each can be done again."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dcm_processor.errors import ServiceError, TransportUnavailableError
from dcm_processor.ledger import Lease, Ledger
from dcm_processor.ledger.leases import check
from dcm_processor.logging import get_logger
from dcm_processor.process import boot_time
from dcm_processor.store import Store
from dcm_processor.transport import PlanOrder, Transport
from scheduler.enqueue import Made, enqueue, orders, plan_order
from scheduler.results import Results

log = get_logger()

STOOD_STILL = 1.0
"""Seconds after which a leader looks whether it still leads; another one waits for longer before it takes over."""


@dataclass
class Effects:
    """Collected inside a transaction, carried out after its commit; what a crash leaves undone, repair does.

    See `progress.deciding`: of a transaction that was rolled back nothing follows.
    """

    # In the transaction itself: studies whose plans are to be taken on, and of studies of which nothing else was
    # touched the jobs that finished.
    touched: list[str] = field(default_factory=list)
    finished: dict[str, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    # After it:
    publish: list[tuple[str, str]] = field(default_factory=list)  # (attempt id, folder relative to DATA)
    new: list[tuple[PlanOrder, list[Made]]] = field(default_factory=list)  # of new plans, which Redis does not have
    orders: list[list[Made]] = field(default_factory=list)  # to be enqueued as they are, each list of one plan
    ready: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # plan id -> job ids
    accepted: list[str] = field(default_factory=list)  # attempts whose outcome is in the ledger
    unwanted: list[str] = field(default_factory=list)  # attempts nobody waits for any more
    cancel: list[str] = field(default_factory=list)  # started attempts to be ended by their workers
    ended_plans: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)  # attempts that ended, for the log

    def goes_on(self, job: Mapping[str, Any], *, finished: bool) -> None:
        """Have the plan taken on after an attempt of the job ended."""
        if finished:
            self.finished[job["study_id"]].append(job)
        else:
            self.touched.append(job["study_id"])

    def add(self, others: "Effects") -> None:
        """Have what follows from another transaction follow from these too."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(others, each.name)
            if isinstance(mine, dict):
                for key, values in theirs.items():
                    mine[key].extend(values)
            else:
                mine.extend(theirs)

    def carry_out(
        self, ledger: Ledger, transport: Transport, results: Results, store: Store, lease: Lease | None = None
    ) -> None:
        """Results first, so that whoever depends on them finds them; what would not is left for repair to push.

        With a lease: raises LeaseLostError where another leads by now, who has done all of it; which is looked at where
        this process stood still since its transaction. One who is stopped after that does late what is harmless: what
        is pushed again was claimed before, or is refused (Transport.claim).
        """
        if lease is not None and boot_time() > lease.seen_at + STOOD_STILL and self != Effects():
            with ledger.read() as db:
                check(db, lease)
        for attempt_id, folder in self.publish:
            results.publish(attempt_id, folder)
        try:
            self._tell(ledger, transport, results, store)
        except TransportUnavailableError as error:
            if not transport.refused:
                log.warning("Redis has not taken all; repair pushes what it lacks once it can", error=str(error))
            transport.refused = True
        for attempt in self.told:
            log.info("attempt ended", **attempt)

    def _tell(self, ledger: Ledger, transport: Transport, results: Results, store: Store) -> None:
        """Have Redis hold what follows. What goes comes first: a full one gets room by it."""
        if self.unwanted:
            transport.forget_attempts(self.unwanted, acknowledge=False)
        for plan_id in self.ended_plans:
            transport.forget_plan(plan_id)
        found: list[tuple[PlanOrder | None, list[Made]]] = [*self.new, *((None, made) for made in self.orders)]
        for plan_id, job_ids in self.ready.items():
            with ledger.read() as db:
                found.append((None, orders(db, plan_id, job_ids)))
        for plan, made in found:
            if complete := [(order, queue) for order, queue in made if not results.lacks(order.inputs)]:
                shared = plan
                if shared is None and not enqueue(transport, None, complete):  # Redis has lost it
                    with ledger.read() as db:
                        shared = plan_order(db, complete[0][0].planId)
                if shared is not None:
                    enqueue(transport, replace(shared, dataId=results.data_id, current=_current(store)), complete)
        if self.cancel:
            transport.request_cancel(self.cancel)
        if self.accepted:
            transport.forget_attempts(self.accepted, acknowledge=True)
        if found or self.cancel or self.accepted:
            transport.refused = False


def _current(store: Store) -> dict[str, str]:
    """The versions that other services' code is imported from; none where they cannot be read: most jobs need none."""
    try:
        return store.current()
    except ServiceError as error:
        log.warning("jobs start without the code of other services", error=str(error))
        return {}

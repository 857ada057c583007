"""From the ledger to RQ: what an attempt needs, laid down in Redis, and the attempt itself on its job's queue."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any
from zlib import compress

from redis import Redis
from rq import Queue
from rq.serializers import Serializer
from rq.utils import now as utcnow
from rq.utils import utcformat
from sqlalchemy import Connection

from dcm_processor import identity
from dcm_processor.compact_json import dumps, loads
from dcm_processor.ledger import plans
from dcm_processor.plan_view import PlanView
from dcm_processor.redis_line import Command
from dcm_processor.transport import Order, PlanOrder, Transport

Made = tuple[Order, str]
"""What an attempt needs, and its queue."""

FUNCTION = "worker.run.run_attempt"
RESULT_TTL = 500
"""Seconds that RQ's tools show a finished attempt."""
FAILURE_TTL = 24 * 3600
"""Seconds that RQ's tools show a failed attempt; the ledger keeps it for good."""


class _CompactJson(Serializer):
    """RQ's JSON serializer, which its own programs read, in a third of the time."""

    def dumps(self, obj: Any, /) -> bytes:
        return dumps(obj).encode()

    def loads(self, data: bytes, /) -> Any:
        return loads(data)


_JSON = _CompactJson()


def orders(db: Connection, plan_id: str, job_ids: Iterable[str]) -> list[Made]:
    """What the current attempts of these jobs of a plan need."""
    rows = plans.outline(db, plan_id)
    return orders_of(rows, plans.jobs_by_id(db, rows[0]["study_id"], list(job_ids))) if rows else []


def orders_of(plan: Sequence[Mapping[Any, Any]], jobs: Iterable[Mapping[Any, Any]]) -> list[Made]:
    """The same of jobs of a plan as rows, and of all its jobs in outline; pure."""
    view = _PlanView(plan)
    return [(view.order(job), str(job["queue"])) for job in jobs]


def plan_order(db: Connection, plan_id: str) -> PlanOrder | None:
    """What all attempts of a plan share; None where there is no such plan."""
    plan = plans.get(db, plan_id)
    return None if plan is None else plan_order_of(plan, plans.jobs_of(db, plan_id))


def plan_order_of(plan: Mapping[Any, Any], jobs: Sequence[Mapping[Any, Any]]) -> PlanOrder:
    """The same of a plan and all its jobs as rows; pure."""
    view = _PlanView(jobs)
    return PlanOrder(
        planId=plan["plan_id"],
        studyId=plan["study_id"],
        headers=plan["headers"],
        selected=plan["selected"],
        instances=plan["instances"],
        injected=view.injected(),
        seriesJobs=view.series_jobs,
        services={name: rows[0]["service"] for name, rows in view.by_name.items()},
    )


def enqueue(transport: Transport, plan: PlanOrder | None, made: Sequence[Made]) -> bool:
    """Lay down what attempts of a plan need, then put them on their queues in the order given.

    With None for the plan it has to be there; where Redis has lost it, nothing is put on a queue, and the answer is
    False. Raises TransportUnavailableError; which of them Redis took is then not known, which is harmless: repair
    pushes what is missing, and an attempt that is pushed twice is claimed once. So this needs no transaction of Redis,
    which would cost as much again.
    """
    by_queue: dict[str, list[Order]] = defaultdict(list)
    for order, name in made:
        by_queue[name].append(order)
    commands = [transport.laying_down(plan, [order for order, _ in made])]
    pushes = []
    for name, orders in by_queue.items():
        form = _form(transport.redis, name)
        commands += form.saving(orders)
        pushes.append(transport.pushing(orders[0].planId, form.queue.key, [order.attemptId for order in orders]))
    return all(transport.ask(*commands, *pushes)[len(commands) :])


class _Form:
    """What RQ's `enqueue_many` does before it pushes: one of its jobs, filled in for each attempt of a queue."""

    def __init__(self, redis: Redis, name: str) -> None:
        self.queue = Queue(name, connection=redis, serializer=_JSON)
        self._job = self.queue.create_job(FUNCTION, timeout=-1, result_ttl=RESULT_TTL, failure_ttl=FAILURE_TTL)
        self._fields = self._job.to_dict()

    def saving(self, orders: Iterable[Order]) -> Iterator[Command]:
        """To be asked: save the attempts' jobs, and let the queue be known."""
        job, now = self._job, utcformat(utcnow())
        for order in orders:
            job.id, job.args = order.attemptId, (order.attemptId,)
            description = f"{order.jobName} of {order.studyId}"
            own = {"created_at": now, "enqueued_at": now, "description": description, "data": compress(job.data)}
            yield ("HSET", job.key, *chain.from_iterable((self._fields | own).items()))
        yield ("SADD", self.queue.redis_queues_keys, self.queue.key)


_form = lru_cache(_Form)


class _PlanView(PlanView):
    """The same, for orders."""

    def order(self, job: Mapping[Any, Any]) -> Order:
        settings = job["settings"]
        return Order(
            attemptId=identity.attempt_id(job["job_id"], job["attempt"]),
            jobId=job["job_id"],
            attempt=job["attempt"],
            planId=job["plan_id"],
            studyId=job["study_id"],
            seriesId=job["series_id"],
            jobName=job["job_name"],
            service=job["service"],
            digest=job["digest"],
            worker=settings["worker"],
            timeout=settings["timeout"],
            memory=settings["memory"],
            params=settings["params"],
            inputs=self.inputs(job),
            outcomes=self.outcomes(job),
            pythonVersion=settings.get("pythonVersion"),  # of a plan from before there was such a field: None
            warm=settings.get("warm", True),  # which the settings of older plans do not have
        )

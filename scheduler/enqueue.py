"""From the ledger to RQ: what an attempt needs, laid down in Redis, and the attempt itself on its job's queue."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.client import Pipeline
from rq import Queue
from rq.serializers import Serializer
from sqlalchemy import Connection

from dcm_processor import identity
from dcm_processor.compact_json import dumps, loads
from dcm_processor.ledger import plans
from dcm_processor.plan_view import PlanView
from dcm_processor.transport import Order, PlanOrder, Transport, answers

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
    for order, queue in made:
        by_queue[queue].append(order)
    with answers(), transport.redis.pipeline(transaction=False) as pipe:
        transport.put_orders(plan, [order for order, _ in made], pipe)
        queues = [
            (_save(Queue(name, connection=transport.redis, serializer=_JSON), orders, pipe), orders)
            for name, orders in by_queue.items()
        ]
        for key, orders in queues:
            transport.push(orders[0].planId, key, [order.attemptId for order in orders], pipe)
        answered = pipe.execute()
    return all(answered[len(answered) - len(queues) :])


def _save(queue: Queue, orders: Sequence[Order], pipe: Pipeline) -> str:
    """What RQ's `enqueue_many` does before it pushes, in half the time: one job, saved under each id.

    Returns the queue's key.
    """
    job = queue.create_job(FUNCTION, timeout=-1, result_ttl=RESULT_TTL, failure_ttl=FAILURE_TTL)
    job.enqueued_at = job.created_at
    for order in orders:
        job.id, job.args = order.attemptId, (order.attemptId,)
        job.description = f"{order.jobName} of {order.studyId}"
        job.save(pipeline=pipe)
    pipe.sadd(queue.redis_queues_keys, queue.key)
    return str(queue.key)


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

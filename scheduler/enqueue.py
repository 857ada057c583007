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
from dcm_processor.manifest import ALL
from dcm_processor.transport import Order, PlanOrder, Transport, answers
from dcm_processor.vocabulary import JobState, Verdict

Made = tuple[Order, str]
"""What an attempt needs, and its queue."""

FUNCTION = "worker.run.run_attempt"
RESULT_TTL = 500
"""Seconds that RQ's tools show a finished attempt."""
FAILURE_TTL = 24 * 3600
"""Seconds that RQ's tools show a failed attempt; the ledger keeps it for good."""


_NOT_HERE = "not installed, or not usable"


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
        seriesJobs=[name for name, rows in view.by_name.items() if rows[0]["series_id"] is not None],
        services={name: rows[0]["service"] for name, rows in view.by_name.items()},
    )


def enqueue(transport: Transport, plan: PlanOrder | None, made: Sequence[Made]) -> None:
    """Lay down what attempts need, then put them on their queues in the order given; None: Redis has the plan.

    Raises TransportUnavailableError; which of them Redis took is then not known, which is harmless: repair pushes what
    is missing, and an attempt that is pushed twice is claimed once. So this needs no transaction of Redis, which would
    cost as much again.
    """
    by_queue: dict[str, list[Order]] = defaultdict(list)
    for order, queue in made:
        by_queue[queue].append(order)
    with answers(), transport.redis.pipeline(transaction=False) as pipe:
        transport.put_orders(plan, [order for order, _ in made], pipe)
        for queue, attempts in by_queue.items():
            _push(Queue(queue, connection=transport.redis, serializer=_JSON), attempts, pipe)
        pipe.execute()


def _push(queue: Queue, orders: Sequence[Order], pipe: Pipeline) -> None:
    """What RQ's `enqueue_many` does, in half the time: one job, saved under each id, and all ids pushed at once."""
    job = queue.create_job(FUNCTION, timeout=-1, result_ttl=RESULT_TTL, failure_ttl=FAILURE_TTL)
    job.enqueued_at = job.created_at
    for order in orders:
        job.id, job.args = order.attemptId, (order.attemptId,)
        job.description = f"{order.jobName} of {order.studyId}"
        job.save(pipeline=pipe)
    pipe.sadd(queue.redis_queues_keys, queue.key)
    pipe.rpush(queue.key, *(order.attemptId for order in orders))


class _PlanView:
    """A plan's jobs as one of them sees the others (DESIGN 2, "Levels and dependencies")."""

    def __init__(self, jobs: Sequence[Mapping[Any, Any]]) -> None:
        self._by_id = {job["job_id"]: job for job in jobs}
        self.by_name: dict[str, list[Mapping[Any, Any]]] = defaultdict(list)
        for job in jobs:
            self.by_name[job["job_name"]].append(job)

    def injected(self) -> dict[str, Any]:
        """Job name -> what its callback injected, of series jobs by series."""
        found: dict[str, Any] = {}
        for name, rows in self.by_name.items():
            each = {row["series_id"]: row["injected"] for row in rows if row["injected"]}
            if each:
                found[name] = each if rows[0]["series_id"] is not None else each[None]
        return found

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
            inputs=self._inputs(job),
            outcomes=self._outcomes(job),
            pythonVersion=settings.get("pythonVersion"),  # of a plan from before there was such a field: None
        )

    def _outcomes(self, job: Mapping[Any, Any]) -> dict[str, Any]:
        """Name of a dependency -> how it ended, or why it never ran."""
        named = {self._by_id[job_id]["job_name"]: None for job_id in job["dependencies"]}
        named |= dict.fromkeys(name for name in job["settings"]["dependsOn"] if name != ALL)
        seen: dict[str, Any] = {}
        for name in named:
            if (rows := self.by_name.get(name)) is None:
                seen[name] = {"state": JobState.SKIPPED, "reason": _NOT_HERE}
                continue
            own = [row for row in rows if row["series_id"] in (None, job["series_id"])]
            if job["series_id"] is None and rows[0]["series_id"] is not None:
                seen[name] = _together(rows)
            elif own:
                seen[name] = _outcome(own[0])
        return seen

    def _inputs(self, job: Mapping[Any, Any]) -> dict[str, Any]:
        """Job name -> folder of its results below DATA, of finished dependencies."""
        found: dict[str, Any] = {}
        for job_id in job["dependencies"]:
            dependency = self._by_id[job_id]
            if dependency["state"] != JobState.FINISHED:
                continue
            folder = result_folder(dependency)
            if dependency["series_id"] is None or job["series_id"] is not None:
                found[dependency["job_name"]] = folder
            else:
                found.setdefault(dependency["job_name"], {})[dependency["series_id"]] = folder
        return found


def result_folder(job: Mapping[Any, Any]) -> str:
    """Where a finished job's results lie, relative to DATA."""
    folder = f"results/{job['study_id']}/{job['job_name']}"
    return f"{folder}/{job['series_id']}" if job["series_id"] else folder


def _outcome(job: Mapping[Any, Any]) -> dict[str, Any]:
    return {"state": job["state"] or job["verdict"], "reason": job["reason"]}


def _together(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """A series job's outcomes as a study job sees them: one state for all, and each series' own."""
    states = [row["state"] or row["verdict"] for row in rows if row["verdict"] == Verdict.SCHEDULED] or [
        row["state"] or row["verdict"] for row in rows
    ]
    worst = next((state for state in states if state != JobState.FINISHED), JobState.FINISHED)
    reason = next((row["reason"] for row in rows if (row["state"] or row["verdict"]) == worst), None)
    return {"state": str(worst), "reason": reason, "series": {row["series_id"]: _outcome(row) for row in rows}}

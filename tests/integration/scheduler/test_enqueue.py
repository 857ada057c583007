"""RQ and its tools find our attempts as if RQ had enqueued them."""

import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from dcm_processor.transport import Order, PlanOrder, Transport
from scheduler.enqueue import FAILURE_TTL, FUNCTION, RESULT_TTL, enqueue


def order(number: int) -> Order:
    return Order(
        attemptId=f"p-{number}-1", jobId=f"p-{number}", attempt=1, planId="p", studyId="st", seriesId=None,
        jobName=f"job-{number}", service="svc", digest="d", worker="svc.work", timeout=60, memory=None, params={},
        inputs={}, outcomes={},
    )  # fmt: skip


def stored(transport: Transport) -> dict[str, dict[bytes, Any]]:
    """Job id -> RQ's fields of it, its data read and its times left out."""
    found = {}
    for key in transport.redis.keys("rq:job:*"):  # type: ignore[union-attr]
        fields: dict[bytes, Any] = transport.redis.hgetall(key)  # type: ignore[assignment]
        assert fields.pop(b"created_at")
        assert fields.pop(b"enqueued_at")
        fields[b"data"] = JSONSerializer.loads(zlib.decompress(fields[b"data"]))
        found[key.decode().removeprefix("rq:job:")] = fields
    return found


def test_each_has_the_time_at_which_it_was_enqueued(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though RQ's job is made once, and filled in."""
    plan = PlanOrder("p", "st", headers={}, selected=["*"], instances={})
    for number in (1, 2):
        moment = datetime(2026, 1, number, tzinfo=UTC)
        monkeypatch.setattr("scheduler.enqueue.utcnow", lambda moment=moment: moment)
        enqueue(transport, plan, [(order(number), "default")])
        job = Job.fetch(f"p-{number}-1", connection=transport.redis, serializer=JSONSerializer)
        assert (job.created_at, job.enqueued_at) == (moment, moment)


def test_attempts_lie_in_redis_as_rq_itself_would_have_put_them(transport: Transport) -> None:
    made = [(order(number), "low" if number == 3 else "default") for number in range(5)]
    for some in (made[:2], made[2:]):
        enqueue(transport, PlanOrder("p", "st", headers={}, selected=["*"], instances={}), some)
    ours = (
        stored(transport),
        {queue.name: queue.job_ids for queue in Queue.all(transport.redis, serializer=JSONSerializer)},
    )

    transport.redis.flushdb()
    for each, queue in made:
        one = Queue.prepare_data(
            FUNCTION, args=(each.attemptId,), job_id=each.attemptId, description=f"{each.jobName} of {each.studyId}",
            timeout=-1, result_ttl=RESULT_TTL, failure_ttl=FAILURE_TTL,
        )  # fmt: skip
        Queue(queue, connection=transport.redis, serializer=JSONSerializer).enqueue_many([one])
    theirs = (
        stored(transport),
        {queue.name: queue.job_ids for queue in Queue.all(transport.redis, serializer=JSONSerializer)},
    )

    assert len(ours[0]) == 5
    assert ours == theirs

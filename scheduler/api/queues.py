"""Queues: what waits in them."""

from typing import cast

from flask import Blueprint
from rq import Queue as RqQueue
from rq.suspension import WORKERS_SUSPENDED

from dcm_processor.transport import answers
from scheduler.api.models import Queue, Queues
from scheduler.api.operation import operation
from scheduler.parts import parts

queues = Blueprint("queues", __name__)


@queues.get("/queues")
@operation("List queues", answer=Queues)
def list_queues() -> Queues:
    """The queues in order of priority. They hold what may run now; a job that waits for another is in none."""
    names = parts().settings.QUEUES
    with answers(), parts().redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(RqQueue.redis_queue_namespace_prefix + name)
        pipe.exists(WORKERS_SUSPENDED)
        *lengths, suspended = cast("list[int]", pipe.execute())
    return Queues(
        items=[
            Queue(name=name, length=length, paused=bool(suspended)) for name, length in zip(names, lengths, strict=True)
        ]
    )

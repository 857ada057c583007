"""Functions for RQ jobs, and (as a program: `python -m … REDIS_URL QUEUE…`) the RQ worker that runs them."""

import os
import sys

import redis

from tests.waiting import wait_until


def finish(attempt_id: str) -> None:
    """A job that ends well."""


def fail(attempt_id: str) -> None:
    """A job that fails the way attempts do: with the exception's class alone."""
    raise LookupError


def busy(attempt_id: str) -> None:
    """A job that runs until the test ends, at most a minute."""
    with redis.Redis.from_url(os.environ["RQ_TEST_REDIS_URL"]) as client:
        wait_until(lambda: client.exists("released"), 60, "the test's end")


if __name__ == "__main__":
    from rq import Worker
    from rq.serializers import JSONSerializer

    url, *queues = sys.argv[1:]
    os.environ["RQ_TEST_REDIS_URL"] = url
    Worker(queues, connection=redis.Redis.from_url(url), serializer=JSONSerializer).work(logging_level="WARNING")

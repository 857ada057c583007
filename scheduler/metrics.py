"""What Prometheus sees: repairs, studies, jobs, events, queues. Numbers alone: no patient, no study, no job by name."""

import time
from collections.abc import Iterator, Sequence
from typing import cast

import redis
from flask import Blueprint, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from rq import Queue as RqQueue

from dcm_processor.ledger import Ledger
from scheduler.api.operation import operation
from scheduler.parts import parts

metrics = Blueprint("metrics", __name__)


class LedgerCollector(Collector):
    """Reads the ledger in one view whenever it is asked. Raises LedgerUnavailableError where it does not answer."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Repairs since the ledger was made; studies, jobs and events as they are now."""
        tally = self._ledger.tally()
        name = "dcm_processor_repairs"
        repairs = CounterMetricFamily(name, "Differences found and closed (docs/reliability.md).", labels=["kind"])
        for kind, number in tally.repairs.items():
            repairs.add_metric([kind], number)
        studies = GaugeMetricFamily("dcm_processor_studies", "Studies by state.", labels=["state"])
        for study_state, number in tally.studies.items():
            studies.add_metric([study_state], number)
        jobs = GaugeMetricFamily("dcm_processor_jobs", "Scheduled jobs by state.", labels=["state"])
        for job_state, number in tally.jobs.items():
            jobs.add_metric([job_state], number)
        waiting = GaugeMetricFamily("dcm_processor_events_waiting", "Events not dealt with yet.", tally.events)
        age = 0.0 if tally.oldest_event is None else max(0.0, time.time() - tally.oldest_event)
        oldest = GaugeMetricFamily(
            "dcm_processor_oldest_event_age_seconds", "Seconds since the oldest of these came; 0: there is none.", age
        )
        yield from (repairs, studies, jobs, waiting, oldest)


class QueueCollector(Collector):
    """Asks Redis for its queues' lengths; where it does not answer, that is all there is to say."""

    def __init__(self, client: redis.Redis, queues: Sequence[str]) -> None:
        self._client = client
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Whether Redis answers, and the length of each queue if so."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for name in self._queues:
                    pipe.llen(RqQueue.redis_queue_namespace_prefix + name)
                lengths = cast("list[int]", pipe.execute())
        except redis.RedisError:
            lengths = []
        answers = len(lengths) == len(self._queues)
        yield GaugeMetricFamily("dcm_processor_redis_up", "Whether Redis answers (1) or not (0).", float(answers))
        length = GaugeMetricFamily("dcm_processor_queue_length", "Attempts that wait in a queue.", labels=["queue"])
        for name, number in zip(self._queues, lengths, strict=False):
            length.add_metric([name], number)
        yield length


@metrics.get("/metrics")
@operation("Show metrics", content=CONTENT_TYPE_PLAIN_0_0_4)
def show_metrics() -> Response:
    """Repairs, studies, jobs, events and queues in numbers, in Prometheus's text format (0.0.4)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(parts().ledger))
    registry.register(QueueCollector(parts().redis, parts().settings.QUEUES))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

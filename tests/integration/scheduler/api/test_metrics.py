"""Metrics in Prometheus's format: every kind and state is there from the beginning, and nothing about anybody."""

import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rq import Queue
from rq.serializers import JSONSerializer

from dcm_processor.ledger import repairs
from dcm_processor.redis_connection import connect
from dcm_processor.vocabulary import EventKind, JobState, RepairKind, StudyState
from tests.integration.scheduler.api.stand import Api, Installation
from tests.servers import ValkeyServer

Labels = frozenset[tuple[str, str]]


def read(api: Api) -> dict[tuple[str, Labels], float]:
    response = api.get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.get_data(as_text=True))
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, Labels]:
    return (f"dcm_processor_{name}", frozenset(labels.items()))


def test_an_empty_ledger_has_every_kind_and_state_at_nought(api: Api) -> None:
    """A query over a counter that is not there yet finds nothing, and so does an alert."""
    found = read(api)
    assert all(found[of("repairs_total", kind=kind)] == 0 for kind in RepairKind)
    assert all(found[of("studies", state=state)] == 0 for state in StudyState)
    assert all(found[of("jobs", state=state)] == 0 for state in JobState)
    assert (found[of("events_waiting")], found[of("oldest_event_age_seconds")]) == (0, 0)


def test_repairs_studies_jobs_and_waiting_events_are_counted(installation: Installation) -> None:
    study = installation.study(1, StudyDescription="Head of somebody")
    installation.study(2, StudyState.UNPLANNED)
    installation.plan(study, {"job_name": "segment"}, {"job_name": "declined", "verdict": "declined"})
    installation.ledger.record_event(EventKind.STABLE, study)
    with installation.ledger.write() as db:
        repairs.count(db, RepairKind.STUDY_QUIET, 3, now=time.time())
    found = read(installation.api())
    assert found[of("repairs_total", kind="study_quiet")] == 3
    assert found[of("studies", state="finished")] == found[of("studies", state="unplanned")] == 1
    assert sum(value for (name, _), value in found.items() if name == "dcm_processor_jobs") == 1
    assert found[of("events_waiting")] == 1
    assert 0 <= found[of("oldest_event_age_seconds")] < 60
    text = installation.api().get("/metrics").get_data(as_text=True)
    assert study not in text
    assert "segment" not in text


def test_redis_away_is_a_metric_and_no_failure(api: Api) -> None:
    found = read(api)
    assert found[of("redis_up")] == 0
    assert not any(name == "dcm_processor_queue_length" for name, _ in found)


def test_the_lengths_of_queues_are_told(tmp_path: Path, valkey: ValkeyServer) -> None:
    with Installation(tmp_path, REDIS_URL=valkey.url) as installation, connect(valkey.url) as client:
        client.rpush(Queue("high", connection=client, serializer=JSONSerializer).key, "one", "two")
        found = read(installation.api())
    assert found[of("redis_up")] == 1
    assert (found[of("queue_length", queue="high")], found[of("queue_length", queue="gpu")]) == (2, 0)


def test_a_ledger_that_is_locked_is_said_to_be_unavailable(api: Api, installation: Installation) -> None:
    """Not numbers that are none."""
    installation.ledger.close()
    path = installation.base / "db" / "ledger.sqlite"
    path.rename(path.with_suffix(".aside"))
    path.mkdir()
    assert api.get("/metrics").status_code == 503

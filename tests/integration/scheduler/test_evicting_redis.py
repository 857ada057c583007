"""A Redis that evicts keys, which it must not (`noeviction`): it costs attempts, but nothing is lost or doubled."""

from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from dcm_processor import redis_memory
from dcm_processor.transport import Transport
from dcm_processor.vocabulary import RepairKind
from scheduler.readiness import EVICTS
from tests.integration.scheduler.api.stand import Installation
from tests.integration.scheduler.platform import YES, HandWorker, Platform, RealWorker, gated, send
from tests.servers import OrthancServer
from tests.waiting import wait_until

RQ = ["rq:job:*", "rq:queue:*", "rq:queues", "rq:workers", "rq:worker:*", "rq:execution*", "rq:wip:*"]
OURS = ["order:*", "plan:*", "claim:*", "announced", "reports", "logs", "marker", "wake"]
KEYS = [*RQ, *(f"dcmproc:{kind}" for kind in OURS)]
NEEDED = {"rq:job:*", "rq:queue:*", "dcmproc:order:*", "dcmproc:plan:*"}
"""Without these a queued attempt cannot be run."""


def evict(client: "redis.Redis", *patterns: str) -> None:
    """Have Redis evict keys, as a full one does; what has a time to live goes with them: acknowledgements for one."""
    client.config_set("maxmemory-policy", "volatile-random")
    client.config_set("maxmemory-eviction-tenacity", 100)  # all at once
    with client.pipeline(transaction=True) as pipe:
        for key in (key for pattern in patterns for key in client.keys(pattern)):  # type: ignore[union-attr]
            pipe.expire(key, 1000)
        pipe.config_set("maxmemory", 1)
        pipe.execute()
    with suppress(redis.OutOfMemoryError):
        client.set("one more", "")
    client.config_set("maxmemory", 0)


def begun_once(record: Path) -> list[str]:
    """What began (study, job, attempt), no attempt of it twice."""
    begun = record.read_text().splitlines()
    assert len(begun) == len(set(begun))
    return begun


@pytest.mark.parametrize("evicted", KEYS)
def test_each_kind_of_key_may_vanish_while_attempts_are_queued_and_while_they_run(
    alone: Platform, orthanc: OrthancServer, tmp_path: Path, evicted: str
) -> None:
    record, gate = tmp_path / "record", tmp_path / "gate"
    jobs = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}]
    alone.install("svc", jobs, YES, tmp_path / "source", gated(record, gate))
    study = send(orthanc, tmp_path / "study").study_id
    alone.announce(study)
    wait_until(lambda: alone.transport.redis.exists("rq:queue:default"), 20, "a is queued")
    evict(alone.transport.redis, evicted)
    with RealWorker(alone, tmp_path):
        wait_until(lambda: record.exists() and alone.states(study)["a"] == "started", 60, "a runs")
        evict(alone.transport.redis, evicted)
        gate.touch()
        alone.wait_for(study, "finished", 60)
    again = evicted in NEEDED
    assert alone.attempts(study) == {"a": [*(["lost"] if again else []), "finished"], "b": ["finished"]}
    assert begun_once(record) == [f"{study} a {2 if again else 1}", f"{study} b 1"]
    assert alone.counted().get(RepairKind.ATTEMPT_UNKNOWN, 0) == again


def test_an_attempt_that_began_before_its_claim_was_evicted_does_not_begin_again(
    alone: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """Nobody heard that it began, and its worker is dead: it is lost, and its next follows."""
    alone.install("svc", [{"jobName": "a", "retry": {"lost": 0}}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study").study_id
    alone.announce(study)
    worker = HandWorker(alone)
    attempt_id = worker.pop()
    alone.stop()
    assert alone.transport.claim(worker.report(attempt_id))
    evict(alone.transport.redis, "dcmproc:claim:*", "dcmproc:announced", "dcmproc:reports")
    alone.start()
    assert worker.run().attempt == 2
    alone.wait_for(study, "finished")
    assert alone.attempts(study) == {"a": ["lost", "finished"]}
    assert alone.counted() == {RepairKind.ATTEMPT_UNKNOWN: 1}
    assert not alone.transport.claim(worker.report(attempt_id)), "who had popped it comes too late"


def test_under_pressure_on_its_memory_all_studies_finish_and_nothing_is_doubled(
    alone: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """`allkeys-random`, with about as many other keys as ours: whatever is evicted is made again."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    gate.touch()
    jobs = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}]
    alone.install("svc", jobs, YES, tmp_path / "source", gated(record, gate))
    client = alone.transport.redis
    client.config_set("maxmemory-policy", "allkeys-random")
    client.config_set("maxmemory", client.info()["used_memory"] + 2_000_000)
    studies = [
        send(orthanc, tmp_path / str(number), StudyInstanceUID=f"1.2.3.{number}").study_id for number in range(4)
    ]
    with RealWorker(alone, tmp_path) as worker:
        wait_until(lambda: worker.logged("serving"), 30, "the worker serves")
        for study in studies:
            alone.announce(study)
        numbers = count()

        def pressed() -> bool:
            with suppress(redis.OutOfMemoryError):
                client.set(f"another's:{next(numbers)}", bytes(100_000))
            return client.info()["evicted_keys"] > 300 and all(alone.jobs(study) for study in studies)

        wait_until(pressed, 60, "much is evicted")
        client.config_set("maxmemory", 0)
        for study in studies:
            alone.wait_for(study, "finished", 120)
    ended = {study: alone.attempts(study) for study in studies}
    for jobs_of in ended.values():
        for states in jobs_of.values():
            assert states == ["lost"] * (len(states) - 1) + ["finished"]
    for study, job, attempt in (line.split() for line in begun_once(record)):
        assert int(attempt) <= len(ended[study][job])


def test_whoever_has_redis_evict_keys_is_told_what_to_do(alone: Platform, tmp_path: Path) -> None:
    client = alone.transport.redis
    client.config_set("maxmemory-policy", "allkeys-lru")
    with Installation(tmp_path, REDIS_URL=alone.transport.url) as installation:
        assert installation.api().get("/health/ready", token=None).get_json()["warnings"] == {}
        client.config_set("maxmemory", 2**30)
        with capture_logs() as said:
            wait_until(lambda: [line for line in said if "maxmemory-policy" in line["event"]], 10, "it is in the log")
        response = installation.api().get("/health/ready", token=None)
    assert response.status_code == 200
    assert response.get_json()["warnings"] == {"redis": EVICTS}
    assert "noeviction" in EVICTS
    [line] = [line for line in said if "maxmemory-policy" in line["event"]]
    assert "noeviction" in line["event"]
    assert (line["policy"], line["maxmemory"], line["evicted"]) == ("allkeys-lru", 2**30, 0)


def test_a_redis_that_does_not_say_is_used_as_it_is(transport: Transport) -> None:
    """A rented one may refuse INFO."""
    assert redis_memory.read(transport.redis) == redis_memory.Memory(0, "noeviction", 0)
    transport.redis.execute_command("ACL", "SETUSER", "default", "-info")
    assert redis_memory.read(transport.redis) is None

"""rq-dashboard under /rq: works on every page with real JSON jobs of a real worker, and can change nothing."""

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from werkzeug.routing import Rule

from dashboard.app import create_app
from dashboard.rq_pages import BLUEPRINT
from tests.integration.dashboard.conftest import PAGE, Browser
from tests.integration.dashboard.stand import PASSWORD, RqJobs, attempt_id, settings_in, study_id
from tests.servers import ValkeyServer

REDIS_PASSWORD = "sesame-open-yourself"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LOOKING = {
    "static", "favicon", "queues_overview", "workers_overview", "jobs_overview", "job_view", "list_queues", "list_jobs",
    "job_info", "list_workers",
}  # fmt: skip
CHANGING = {"delete_job_view", "requeue_job_view", "requeue_all", "empty_queue", "compact_queue"}
VALUES: Mapping[str, list[Any]] = {
    "instance_number": [0],
    "queue_name": ["default", "low", "nobody-has-it"],
    "registry_name": ["queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"],
    "per_page": [1, 8, 200],
    "order": ["asc", "dsc"],
    "page": [1, 2, 40],
    "job_id": [attempt_id(function) for function in ("finish", "fail", "busy", "waits")],
    "filename": ["css/main.css", "css/bootstrap.min.css", "js/jquery-3.5.1.min.js", "favicon.ico"],
}


@pytest.fixture(scope="module")
def locked_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey with a password, as in an installation."""
    with ValkeyServer(tmp_path_factory.mktemp("locked"), password=REDIS_PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def at_work(locked_valkey: ValkeyServer) -> Iterator[RqJobs]:
    """A worker in the middle of a job, with others behind it and before it."""
    jobs = RqJobs(locked_valkey.url)
    with jobs.every_kind():
        yield jobs
    jobs.redis.flushall()


@pytest.fixture
def at_rest(valkey: ValkeyServer) -> RqJobs:
    """Waiting and failed jobs and no worker, so that nothing but a page could change anything."""
    jobs = RqJobs(valkey.url)
    for function in ("finish", "fail", "busy", "waits"):
        jobs.enqueue("finish", attempt_id(function))
    queue = Queue("default", connection=jobs.redis, serializer=JSONSerializer)
    failed = Job.fetch(attempt_id("fail"), connection=jobs.redis, serializer=JSONSerializer)
    queue.remove(failed)
    failed.set_status(JobStatus.FAILED)
    queue.failed_job_registry.add(failed, ttl=1000)
    return jobs


@pytest.fixture(scope="module")
def rq_app(locked_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Flask:
    return create_app(settings_in(tmp_path_factory.mktemp("app"), locked_valkey.url))


@pytest.fixture
def looker(rq_app: Flask) -> Browser:
    """Somebody logged in."""
    browser = Browser(rq_app)
    assert browser.log_in().status_code == 303
    return browser


def rules(app: Flask, names: set[str]) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if rule.endpoint in {f"{BLUEPRINT}.{name}" for name in names}]


def addresses(rule: Rule) -> list[str]:
    """Every address of a rule; a rule with an argument nobody thought of fails here."""
    names = sorted(rule.arguments)
    found = []
    for values in product(*(VALUES[name] for name in names)):
        path = rule.rule
        for name, value in zip(names, values, strict=True):
            path = re.sub(rf"<(?:\w+:)?{name}>", str(value), path)
        found.append(path)
    return found


def test_the_blueprint_has_the_endpoints_that_were_judged(rq_app: Flask) -> None:
    """A new version of rq-dashboard that adds one has to be looked at; until then it is refused."""
    there = {
        rule.endpoint.partition(".")[2] for rule in rq_app.url_map.iter_rules() if rule.endpoint.startswith(BLUEPRINT)
    }
    assert there == LOOKING | CHANGING


@pytest.mark.parametrize("name", sorted(LOOKING))
def test_every_page_works_while_a_worker_is_busy_and_jobs_are_done_failed_and_waiting(
    at_work: RqJobs, looker: Browser, name: str
) -> None:
    assert at_work.status(attempt_id("busy")) == "started"
    visited = 0
    for rule in rules(looker.client.application, {name}):
        for path in addresses(rule):
            for answer in (looker.get(path), looker.client.get(path), looker.client.head(path)):
                moved = rule.endpoint.endswith("queues_overview") and answer.location == "http://localhost/rq/"
                assert answer.status_code == (308 if moved else 200), f"{path}: {answer.data[:300]!r}"
                assert REDIS_PASSWORD.encode() not in answer.data + str(answer.headers).encode()
                assert b"127.0.0.1" not in answer.data
            visited += 1
    assert visited


def test_the_pages_show_what_is_there(at_work: RqJobs, looker: Browser) -> None:
    (worker,) = json.loads(looker.get("/rq/0/data/workers.json").text)["workers"]
    assert worker["state"] == "busy"
    assert worker["queues"] == ["default"]
    assert worker["current_job"]["job_id"] == attempt_id("busy")
    assert worker["current_job"]["description"] == f"busy of {study_id(5)}"
    queues = {queue["name"]: queue for queue in json.loads(looker.get("/rq/0/data/queues.json").text)["queues"]}
    assert (queues["low"]["count"], queues["default"]["failed_job_registry_count"]) == (2, 1)
    failed = json.loads(looker.get("/rq/0/data/jobs/default/failed/8/asc/1.json").text)["jobs"]
    assert [job["id"] for job in failed] == [attempt_id("fail")]
    detail = json.loads(looker.get(f"/rq/0/data/job/{attempt_id('finish')}.json").text)
    assert (detail["status"], detail["origin"], detail["result"]) == ("finished", "default", None)
    assert f'href="/studies/{study_id(5)}"' in looker.get(f"/rq/0/view/job/{attempt_id('busy')}").text


def test_pages_name_neither_redis_nor_anything_outside_this_machine(at_work: RqJobs, looker: Browser) -> None:
    """No content network: every style sheet, script and picture is the package's own or ours."""
    assert REDIS_PASSWORD not in repr(looker.client.application.config)
    for path in ("/rq/", "/rq/0/view/workers", "/rq/0/view/jobs", f"/rq/0/view/job/{attempt_id('busy')}"):
        text = looker.get(path).text
        assert "redis://" not in text
        for source in re.findall(r'<(?:script|link|img)[^>]*?(?:src|href)="([^"]+)"', text):
            assert source.startswith(("/rq/static/", "/static/")), source
            assert looker.get(source).status_code == 200


def test_every_script_of_a_page_carries_the_nonce_of_its_policy(at_work: RqJobs, looker: Browser) -> None:
    answer = looker.get("/rq/0/view/jobs")
    nonce = re.search(r"'nonce-([^']+)'", answer.headers["Content-Security-Policy"])
    assert nonce
    scripts = [tag for tag in re.findall(r"<script[^>]*>", answer.text) if 'type="text/template"' not in tag]
    assert len(scripts) == 6
    assert all(f'nonce="{nonce[1]}"' in tag for tag in scripts)
    assert nonce[1] not in looker.get("/rq/0/view/jobs").text


@pytest.mark.parametrize("name", sorted(CHANGING))
def test_whatever_changes_something_is_refused_by_every_method(app: Flask, at_rest: RqJobs, name: str) -> None:
    reader = Browser(app)
    reader.log_in()
    before = contents(at_rest)
    assert len(before) > 6
    for rule in rules(app, {name}):
        for path, method in product(addresses(rule), METHODS):
            page = reader.client.open(path, method=method, headers=PAGE)
            document = app.test_client().open(path, method=method, auth=("admin", PASSWORD))
            assert (page.status_code, document.status_code) == (403, 403), f"{method} {path}"
            if method != "HEAD":
                assert "dcm-processor job rerun" in page.text
                assert document.content_type == "application/problem+json"
    assert contents(at_rest) == before


@pytest.mark.parametrize("name", sorted(LOOKING))
def test_pages_for_looking_take_no_other_method(app: Flask, at_rest: RqJobs, name: str) -> None:
    reader = Browser(app)
    reader.log_in()
    for rule in rules(app, {name}):
        for method in set(METHODS) - {"GET", "HEAD"}:
            assert reader.client.open(addresses(rule)[0], method=method).status_code == 403
    assert reader.client.post("/rq").status_code == 403
    assert reader.client.post("/rq/no/such/page").status_code == 403


def test_a_refusal_names_the_job_to_rerun(app: Flask, at_rest: RqJobs) -> None:
    reader = Browser(app)
    reader.log_in()
    job_id = attempt_id("fail").removesuffix("-1")
    answer = reader.client.post(f"/rq/job/{attempt_id('fail')}/requeue", headers=PAGE)
    assert f"dcm-processor job rerun {job_id}<" in answer.text
    assert f"POST /api/v1/jobs/{job_id}/rerun" in answer.text


def test_looking_changes_nothing_even_where_rq_would_tidy_up(app: Flask, at_rest: RqJobs) -> None:
    """RQ removes ids of lost jobs and dead workers while it lists them."""
    at_rest.redis.rpush("rq:queue:default", attempt_id("lost"))
    at_rest.redis.sadd("rq:workers", "rq:worker:dead")
    at_rest.redis.hset(
        "rq:worker:alive", mapping={"queues": "default", "state": "idle", "birth": "2024-01-31T12:00:00Z"}
    )
    at_rest.redis.sadd("rq:workers", "rq:worker:alive")
    at_rest.redis.sadd("rq:worker:alive:executions", f"{attempt_id('lost')}:0123")
    before = contents(at_rest)
    reader = Browser(app)
    reader.log_in()
    for rule in rules(app, LOOKING):
        for path in addresses(rule):
            assert reader.get(path).status_code in (200, 308), path
    assert contents(at_rest) == before


def test_nothing_that_lies_in_redis_is_unpickled(app: Flask, at_rest: RqJobs, tmp_path: Path) -> None:
    """Whoever may write to Redis would otherwise run code in the dashboard."""
    trap = pickle.dumps(_Trap(tmp_path / "sprung"))
    for function in ("finish", "fail", "busy", "waits"):
        for field in ("meta", "result", "data"):
            at_rest.redis.hset(f"rq:job:{attempt_id(function)}", field, trap)
    at_rest.redis.hset(
        "rq:worker:alive", mapping={"queues": "default", "state": "busy", "birth": "2024-01-31T12:00:00Z"}
    )
    at_rest.redis.sadd("rq:workers", "rq:worker:alive")
    at_rest.redis.sadd("rq:worker:alive:executions", f"{attempt_id('busy')}:0123")
    at_rest.redis.hset(
        f"rq:execution:{attempt_id('busy')}:0123", mapping={"created_at": "1.0", "last_heartbeat": "1.0", "job_id": "x"}
    )
    reader = Browser(app)
    reader.log_in()
    for rule in rules(app, LOOKING):
        for path in addresses(rule):
            assert reader.get(path).status_code != 500, path
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "path",
    [
        "1/view/queues", "7/data/workers.json", "0/view/jobs/default/nonsense/8/asc/1",
        "0/view/jobs/default/queued/8/up/1", "0/view/jobs/default/queued/8/asc/0",
        "0/view/jobs/default/queued/1000/asc/1", "0/data/jobs/default/queued/0/asc/1.json",
        "0/data/jobs/default/queued/x/asc/1.json", "0/data/jobs/default/queued/8/asc/x.json",
        "0/data/jobs/default/queued/8/asc/-1.json", "0/data/jobs/default/nonsense/8/asc/1.json",
        "0/data/jobs/default/queued/8/asc/99999999999999999999.json", "0/view/job/nobody", "0/data/job/nobody.json",
        "0/view/job/a.b", "0/data/job/a:b.json", "0/view/job/" + "x" * 600, "static/no.css", "static/../web.py",
        "nonsense",
    ],
)  # fmt: skip
def test_addresses_that_name_nothing_are_a_404(app: Flask, at_rest: RqJobs, path: str) -> None:
    reader = Browser(app)
    reader.log_in()
    assert reader.get(f"/rq/{path}").status_code == 404
    assert reader.client.get(f"/rq/{path}").content_type == "application/problem+json"


def test_an_attempt_that_left_redis_is_said_to_stand_in_the_ledger(app: Flask, at_rest: RqJobs) -> None:
    reader = Browser(app)
    reader.log_in()
    answer = reader.get(f"/rq/0/view/job/{attempt_id('long-ago')}")
    assert answer.status_code == 404
    assert "The ledger keeps it" in answer.text


def test_a_redis_that_does_not_answer_is_a_503_with_a_word(tmp_path: Path) -> None:
    reader = Browser(create_app(settings_in(tmp_path, f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0")))
    reader.log_in()
    for rule in rules(reader.client.application, LOOKING - {"static", "favicon"}):
        answer = reader.get(addresses(rule)[0])
        if answer.status_code == 308:  # an address of the first page
            continue
        assert answer.status_code == 503, rule.rule
        assert "Redis does not answer" in answer.text
        assert REDIS_PASSWORD not in answer.text
        assert "127.0.0.1" not in answer.text


def contents(jobs: RqJobs) -> dict[bytes, object]:
    """All that Redis holds."""
    return {key: (jobs.redis.dump(key), jobs.redis.expiretime(key)) for key in jobs.redis.scan_iter()}


def test_the_pages_data_is_json_a_script_can_read(at_work: RqJobs, rq_app: Flask) -> None:
    answer = rq_app.test_client().get("/rq/0/data/workers.json", auth=("admin", PASSWORD))
    assert answer.content_type == "application/json"
    assert json.loads(answer.text)["workers"]

"""What is installed and what waits, over HTTP."""

import fcntl
from pathlib import Path
from typing import Any

import redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.suspension import suspend

from dcm_processor.environments.environment_key import recipe
from dcm_processor.environments.environment_state import Failed
from dcm_processor.sources.origin import Origin
from dcm_processor.store import Store
from tests.integration.scheduler.api.stand import Api, Installation
from tests.integration.scheduler.api.test_studies import install
from tests.servers import ValkeyServer


def service(api: Api) -> dict[str, Any]:
    (item,) = api.get("/api/v1/services").get_json()["items"]
    return dict(item)


def test_nothing_is_installed_at_first(api: Api) -> None:
    assert api.get("/api/v1/services").get_json() == {"items": []}


def test_a_service_is_shown_with_its_versions_and_jobs(installation: Installation, api: Api, tmp_path: Path) -> None:
    old = install(installation, tmp_path, "first")
    new = install(installation, tmp_path, "second")
    shown = service(api)
    assert (shown["name"], shown["version"], shown["versions"], shown["faults"]) == ("demo", new, [new, old], [])
    (job,) = shown["jobs"]
    assert (job["jobName"], job["level"], job["priority"], job["timeout"]) == ("second", "study", "default", 3600)
    assert shown["environment"]["state"] == "none"


def test_a_service_tells_where_it_came_from_and_that_it_is_disabled(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    install(installation, tmp_path, "job")
    assert (service(api)["origin"], service(api)["disabledSince"]) == (None, None)
    store = Store.of(installation.settings)
    origin = Origin("git+https://example.org/r.git@v1", "v1", "0" * 40, "2026-01-01T00:00:00+00:00", "1.0")
    store.install("demo", store.backup("demo", tmp_path / "copy"), origin)
    store.disable("demo")
    shown = service(api)
    assert shown["origin"]["commit"] == "0" * 40
    assert shown["disabledSince"].startswith("20")
    assert shown["jobs"][0]["disabled"] is True


def test_a_service_that_cannot_be_used_says_why(installation: Installation, api: Api) -> None:
    """Somebody copied it there by hand, half-written."""
    folder = installation.settings.registry / "broken"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"jobName": ')
    shown = service(api)
    assert (shown["name"], shown["jobs"]) == ("broken", [])
    assert shown["faults"]


def test_the_state_of_an_environment(installation: Installation, api: Api, tmp_path: Path) -> None:
    digest = install(installation, tmp_path, "job")
    key = recipe(installation.settings, Store.of(installation.settings).module_folder("demo", digest), digest).key
    envs = installation.settings.envs

    def environment() -> tuple[str, str | None]:
        found = service(api)["environment"]
        assert found["key"] == key
        return found["state"], found["reason"]

    assert environment() == ("none", None)
    envs.mkdir(parents=True)
    with (envs / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert environment() == ("building", None)
    (envs / f"{key}.log").write_text("Resolving …\n")  # and then it was killed
    assert environment() == ("none", None)
    Failed("No solution found when resolving dependencies", passing=False, at=1.0).write(envs, key)
    assert environment() == ("failed", "No solution found when resolving dependencies")
    (envs / key).mkdir()
    (envs / key / "complete.json").write_text("{}")
    assert environment() == ("ready", None)


def test_queues_are_shown_in_order_of_priority(tmp_path: Path, valkey: ValkeyServer) -> None:
    with Installation(tmp_path, REDIS_URL=valkey.url) as installation, redis.Redis.from_url(valkey.url) as client:
        api = installation.api()
        queue = Queue("low", connection=client, serializer=JSONSerializer)
        for _ in range(3):
            queue.enqueue("worker.run.run_attempt", "an-attempt")
        items = api.get("/api/v1/queues").get_json()["items"]
        suspend(client)  # as `rq suspend` does: workers leave all queues alone
        suspended = api.get("/api/v1/queues").get_json()["items"]
    assert [item["name"] for item in items] == ["high", "default", "medium", "low", "gpu"]
    assert {item["name"]: item["length"] for item in items if item["length"]} == {"low": 3}
    assert not any(item["paused"] for item in items)
    assert all(item["paused"] for item in suspended)


def test_without_redis_nobody_knows_the_queues(api: Api) -> None:
    response = api.get("/api/v1/queues")
    assert (response.status_code, response.get_json()["type"]) == (503, "urn:dcm-processor:problem:redis-unavailable")

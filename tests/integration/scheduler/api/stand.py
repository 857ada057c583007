"""What the tests of the HTTP side stand on: an installation, a client that checks answers, and gunicorn."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jsonschema
import requests
from flask import Flask
from flask.testing import FlaskClient
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from sqlalchemy import insert, update
from werkzeug.test import TestResponse

from dcm_processor import identity
from dcm_processor.ledger import events, schema
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from dcm_processor.vocabulary import JobState, StudyState, Verdict
from scheduler.app import create_app
from scheduler.openapi import openapi
from scheduler.parts import Explain
from tests.integration.scheduler.platform import Platform
from tests.ledgers import new_ledger
from tests.servers import Server, free_port

TOKENS = {name: f"{name}-of-the-test" for name in ("hook_token", "worker_token", "scheduler_token")}
NOBODY = "redis://127.0.0.1:1/0"
"""A Redis that refuses connections: nothing listens on port 1."""
CHECKOUT = Path(__file__).resolve().parents[4]


def bearer(name: str) -> dict[str, str]:
    """The header that shows one of the tokens."""
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def study_id(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


class Wakes(list[str]):
    """A transport that notes why the controller was to be woken."""

    def wake(self, reason: str) -> None:
        self.append(reason)


class Installation:
    """A BASEDIR with tokens and a ledger to fill."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.base = directory / "basedir"
        (self.base / "secrets").mkdir(parents=True)
        for name, text in TOKENS.items():
            (self.base / "secrets" / name).write_text(text + "\n")
        nobody: dict[str, Any] = {"REDIS_URL": NOBODY, "ORTHANC_REST_URL": "http://127.0.0.1:1"}
        self.settings = Settings(MODE="local", BASEDIR=self.base, **(nobody | settings))
        self.ledger = new_ledger(self.settings.database_url, busy_timeout=1.0)
        self.wakes = Wakes()
        self._now = time.time() - 600

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    def app(self, explain: Explain | None = None) -> Flask:
        return create_app(self.settings, ledger=self.ledger, transport=self.wakes, explain=explain)

    def api(self, explain: Explain | None = None) -> "Api":
        return Api(self.app(explain))

    def events(self, *studies: str) -> list[dict[str, Any]]:
        """Every event that waits for the controller, oldest first; with arguments only those of these studies."""
        with self.ledger.read() as db:
            found = [dict(row) for row in events.due(db, now=time.time() + 1, longest=60, limit=10_000)]
        return [event for event in found if not studies or event["study_id"] in studies]

    def study(self, number: int, state: StudyState = StudyState.FINISHED, **elements: Any) -> str:
        """A study; its columns are made of elements, as planning makes them."""
        known = {"StudyDate": "20240131", "Modality": "MR", "StudyInstanceUID": f"1.2.{number}", **elements}
        self._now += 1
        values = {"study_id": study_id(number), "state": state, "first_seen_at": self._now, "changed_at": self._now}
        values |= {"study_instance_uid": known["StudyInstanceUID"], "study_date": known["StudyDate"]}
        values |= {"modalities": known["Modality"], "description": known.get("StudyDescription")}
        with self.ledger.write() as db:
            db.execute(insert(schema.studies), values)
        return study_id(number)

    def install(self, *names: str) -> None:
        """Have the service `temp` with jobs of these names."""
        source = self.base.parent / "source"
        entries = [{"jobName": name, "worker": "temp.worker", "callback": "temp.callback"} for name in names]
        for part in ("registry", "module"):
            (source / part).mkdir(parents=True, exist_ok=True)
        (source / "registry" / "settings.json").write_text(json.dumps(entries))
        Store.of(self.settings).install("temp", source)

    def plan(self, study: str, *jobs: Mapping[str, Any], run: int = 1) -> list[str]:
        """The study's active plan; each job as the columns that matter, `tries` its attempts. Returns the jobs' ids."""
        self._now += 1
        plan_id = identity.plan_id(study, "0123456789ab", run)
        rows = [_job_row(plan_id, study, position, job, self._now) for position, job in enumerate(jobs)]
        values = {"plan_id": plan_id, "study_id": study, "revision": "0123456789ab", "run": run, "reason": "stable"}
        headers = {"series": [{"seriesId": "series-1", "NumberOfInstances": 1}]}
        values |= {"headers": headers, "selected": [], "instances": {"series-1": ["instance-1"]}}
        values |= {"faults": ["broken: odd"]}
        with self.ledger.write() as db:
            db.execute(update(schema.plans).where(schema.plans.c.study_id == study).values(active=False))
            db.execute(insert(schema.plans), {**values, "created_at": self._now, "active": True})
            active = update(schema.studies).where(schema.studies.c.study_id == study)
            db.execute(active.values(active_plan_id=plan_id))
            for row, job in zip(rows, jobs, strict=True):
                db.execute(insert(schema.jobs), row)
                for number, attempt in enumerate(job.get("tries", []), start=1):
                    made = {"attempt_id": identity.attempt_id(row["job_id"], number), "job_id": row["job_id"]}
                    made |= {"attempt": number, "queued_at": self._now, "state": "finished", **attempt}
                    db.execute(insert(schema.attempts), made)
        return [row["job_id"] for row in rows]

    def log(self, study: str, job_id: str, attempt: int) -> Path:
        """Where the log of an attempt belongs, its folder made."""
        path = self.settings.logs / "jobs" / study / job_id / f"{attempt}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _job_row(plan_id: str, study: str, position: int, job: Mapping[str, Any], now: float) -> dict[str, Any]:
    row = {
        "verdict": Verdict.SCHEDULED,
        "state": JobState.FINISHED if job.get("verdict", "scheduled") == "scheduled" else None,
        "service": "temp",
        "digest": "0123456789abcdef0123456789abcdef",
        "settings": {"stage": "main", "level": "study"},
        "queue": "default",
        "dependencies": [],
        "reason": None,
        "series_id": None,
        "traceback": None,
        "output": None,
        "injected": None,
        **{key: value for key, value in job.items() if key != "tries"},
    }
    job_id = identity.job_id(plan_id, row["job_name"], row["series_id"])
    moments = {"created_at": now, "attempt": len(job.get("tries", []))}
    return {**row, **moments, "job_id": job_id, "plan_id": plan_id, "study_id": study, "position": position}


_documents: dict[frozenset[str], dict[str, Any]] = {}


def _document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of an app; apps of the same routes have the same."""
    routes = frozenset(f"{rule} {rule.endpoint} {rule.methods}" for rule in app.url_map.iter_rules())
    if routes not in _documents:
        _documents[routes] = openapi(app)
    return _documents[routes]


class Api:
    """A client that shows the scheduler token, and fails where an answer is not what the OpenAPI document says."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self._client: FlaskClient = app.test_client()
        self.document = _document(app)
        resource: Resource[Any] = DRAFT202012.create_resource(self.document)
        self._registry: Registry[Any] = Registry().with_resource("urn:api", resource)

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.call("GET", path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.call("POST", path, **more)

    def call(self, method: str, path: str, *, token: str | None = "scheduler_token", **more: Any) -> TestResponse:
        headers = {**(bearer(token) if token else {}), **more.pop("headers", {})}
        response = self._client.open(path, method=method, headers=headers, buffered=True, **more)
        self.check(response)
        return response

    def check(self, response: TestResponse) -> None:
        """The answer has a status, a type, headers and fields that the document has for its operation."""
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        pointer = self._described(response)
        if pointer is None:
            assert response.status_code in (401, 403, 404, 405)
            pointer = "/components/schemas/Problem"
        elif response.mimetype in ("text/plain", "application/x-tar"):
            return
        if response.status_code >= 400:
            assert response.mimetype == "application/problem+json", response.get_data()
            assert response.get_json()["status"] == response.status_code
        schema = {"$ref": f"urn:api#{pointer}"}
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(schema, registry=self._registry, format_checker=checker).validate(
            response.get_json()
        )
        _no_more_than_described(response.get_json(), self._resolve(schema["$ref"]), self._resolve)

    def _described(self, response: TestResponse) -> str | None:
        """The JSON pointer to the schema of the answer; None where the address or the method is none of ours."""
        adapter = self.app.url_map.bind_to_environ(response.request.environ)
        try:
            rule, _ = adapter.match(return_rule=True)
        except Exception:  # noqa: BLE001 - whatever says that there is no such route
            return None
        found = [
            (path, method)
            for path, methods in self.document["paths"].items()
            for method, described in methods.items()
            if described["operationId"] == self._operation_id(str(rule.endpoint))
        ]
        assert len(found) == 1
        path, method = found[0]
        status = str(response.status_code)
        answers = self.document["paths"][path][method]["responses"]
        assert status in answers, f"{method} {path} answers {status}, which the document does not know"
        where = f"/paths/{path.replace('/', '~1')}/{method}/responses/{status}"
        answer = answers[status]
        if "$ref" in answer:
            where = answer["$ref"].removeprefix("#")
            answer = self._resolve(f"urn:api#{where}")
        assert all(name in response.headers for name in answer.get("headers", {}) if name != "X-Log-Attempt")
        (content_type,) = answer["content"]
        assert response.content_type == content_type
        return f"{where}/content/{content_type.replace('/', '~1')}/schema"

    @staticmethod
    def _operation_id(endpoint: str) -> str:
        from pydantic.alias_generators import to_camel

        return to_camel(endpoint.replace(".", "_"))

    def _resolve(self, reference: str) -> Any:
        base = reference if reference.startswith("urn:") else f"urn:api{reference}"
        return self._registry.resolver().lookup(base).contents


def _no_more_than_described(value: Any, schema: Any, resolve: Any) -> None:
    """No object has a property that its schema does not describe."""
    while "$ref" in schema:
        schema = resolve(schema["$ref"])
    for option in schema.get("anyOf", []):
        if (value is None) == (option.get("type") == "null"):
            _no_more_than_described(value, option, resolve)
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) <= set(schema["properties"])
        for key, inner in value.items():
            assert "description" in schema["properties"][key]
            _no_more_than_described(inner, schema["properties"][key], resolve)
    if isinstance(value, list) and "items" in schema:
        for inner in value:
            _no_more_than_described(inner, schema["items"], resolve)


class GunicornServer(Server):
    """The scheduler's HTTP side under gunicorn, its settings from the environment; `log()` is what it logged."""

    name = "the scheduler"

    def __init__(self, directory: Path, installation: "Installation | Platform") -> None:
        super().__init__(directory)
        self.installation = installation
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "python:scheduler.gunicorn_conf"]

    def environment(self) -> dict[str, str]:
        settings = self.installation.settings
        chosen = {"MODE": "local", "BASEDIR": str(settings.BASEDIR), "REDIS_URL": str(settings.REDIS_URL)}
        chosen |= {"SCHEDULER_PORT": str(self.port), "ORTHANC_REST_URL": settings.ORTHANC_REST_URL}
        return {**os.environ, **chosen, "PYTHONPATH": str(CHECKOUT)}

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/live", timeout=2).ok
        except requests.RequestException:
            return False

    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    def hook(self, number: int, **more: Any) -> requests.Response:
        """Say that a study is stable, as Orthanc does."""
        body = {"studyId": study_id(number)}
        return requests.post(f"{self.url}/stable-study", json=body, headers=bearer("hook_token"), timeout=10, **more)

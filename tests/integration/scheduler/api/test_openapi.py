"""The OpenAPI document describes every route and every field, and is what the answers are checked against."""

import json
import re
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from dcm_processor.manifest import JobSettings
from dcm_processor.plan import make_plan
from dcm_processor.registry import Job as RegistryJob
from dcm_processor.registry import ServiceRegistry
from scheduler import planning
from scheduler.api.models import Attempt, Explained, ExplainedJob, Job, Plan, Study, StudySummary
from scheduler.planning import Ending, Planned
from tests.integration.scheduler.api.stand import Api, Installation


def test_the_document_is_a_valid_openapi_3_1_document(api: Api) -> None:
    document = api.get("/api/v1/openapi.json").get_json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")


def test_every_route_is_in_the_document(api: Api) -> None:
    routes = {
        (re.sub(r"<\w+>", "{}", rule.rule), method.lower())
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {
        (re.sub(r"{\w+}", "{}", path), method) for path, methods in api.document["paths"].items() for method in methods
    }
    assert described == routes


def test_every_field_and_every_parameter_is_described(api: Api) -> None:
    schemas = api.document["components"]["schemas"]
    for name, schema in schemas.items():
        assert schema["description"], name
        for field, described in schema.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field}"
    for methods in api.document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            assert all(parameter["description"] for parameter in operation["parameters"])
            for answer in operation["responses"].values():
                assert all(header["description"] for header in answer.get("headers", {}).values())


def test_what_needs_no_token_is_health_alone(api: Api) -> None:
    free = {
        path
        for path, methods in api.document["paths"].items()
        for operation in methods.values()
        if operation.get("security", api.document["security"]) == []
    }
    assert free == {"/health/live", "/health/ready"}


def aliases(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_api_shows_all_the_ledger_tells(installation: Installation) -> None:
    """A field that the ledger's views get and the models lack would be dropped without a word."""
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "tries": [{}]})
    whole = installation.ledger.study(study)
    assert whole is not None
    assert set(whole) == aliases(Study)
    assert set(whole["plans"][0]) == aliases(Plan)
    (job,) = whole["plans"][0]["jobs"]
    assert set(job) == aliases(Job)
    assert set(job["attempts"][0]) == aliases(Attempt)
    assert set(installation.ledger.studies().items[0]) == aliases(StudySummary)
    assert set(installation.ledger.jobs().items[0]) == aliases(Job)
    assert set(installation.ledger.job(job_id) or {}) == aliases(Job)


def test_the_api_shows_all_an_explanation_tells() -> None:
    """Planning's words, as the child that explains writes them."""
    settings = JobSettings.model_validate({"jobName": "segment", "worker": "temp.work", "callback": "temp.applies"})
    registry = ServiceRegistry((RegistryJob("temp", "0123", settings),))
    plan = make_plan(registry, ["series-1"], {})
    told = planning._explained_plan(Planned(Ending.PLANNED, "study", plan=plan), registry)
    assert set(told) == aliases(Explained)
    assert set(told["jobs"][0]) == aliases(ExplainedJob)
    Explained.model_validate(json.loads(json.dumps(told)))

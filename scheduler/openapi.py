"""The OpenAPI 3.1 document, made from the routes and the models the answers go through: it cannot say anything else."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from flask import Flask
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from scheduler.api.operation import Operation, operation_of
from scheduler.problems import MEDIA_TYPE, Problem

_REF = "#/components/schemas/{model}"
_PATH_PART = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_PARTS = {
    "studyId": "Orthanc's identifier of the study.",
    "jobId": "The job's identifier, as a study or a list of jobs shows it.",
    "attemptId": "The attempt's identifier: `<jobId>-<attempt>`.",
    "jobName": "The job's name, as its service's settings.json has it.",
    "seriesId": "Orthanc's identifier of the series.",
    "service": "The service's name.",
    "digest": "The digest that names the version: 32 hexadecimal digits.",
}
_PROBLEM_HEADERS = {
    401: {"WWW-Authenticate": "`Bearer`, and `error` where a token was shown (RFC 6750)."},
    416: {"Content-Range": "`bytes */` and how many bytes there are."},
    503: {"Retry-After": "Seconds after which trying again makes sense."},
}
_EVERYWHERE = (500,)
_WITH_TOKEN = (401, 403)
_WITH_LEDGER = (503,)


def openapi(app: Flask) -> dict[str, Any]:
    """The document that describes every route of `app`."""
    operations = [
        (rule, method, operation_of(app, rule.endpoint))
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    ]
    schemas = _Schemas([contract for _, _, contract in operations])
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, contract in operations:
        names = [to_camel(name) for name in _PATH_PART.findall(rule.rule)]
        path = _PATH_PART.sub(lambda found: "{" + to_camel(found[1]) + "}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule.endpoint, names, contract, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dcm-processor scheduler",
            "version": version("dcm-processor"),
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": (
                "Studies, their plans and their jobs. Errors are RFC 9457 problem documents. Lists are newest first "
                "and go on with `cursor`. What asks for something to be done is answered 202 once the ledger has it; "
                "the study or the job shows what came of it."
            ),
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": (
                        "The text of BASEDIR/secrets/scheduler_token; for the hook also that of hook_token. What "
                        "belongs to `exchange` takes that of worker_token alone."
                    ),
                }
            },
            "responses": {
                f"Problem{status}": {
                    "description": HTTPStatus(status).phrase,
                    "headers": _headers(_PROBLEM_HEADERS.get(status, {})),
                    "content": {MEDIA_TYPE: {"schema": schemas.ref(Problem, "serialization")}},
                }
                for status in sorted({s for _, _, contract in operations for s in _problems(contract)})
            },
        },
    }


class _Schemas:
    """The models' JSON schemas, each once below components."""

    def __init__(self, contracts: list[Operation]) -> None:
        wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
        for contract in contracts:
            if contract.answer is not None:
                wanted[contract.answer, "serialization"] = None
            if contract.body is not None:
                wanted[contract.body, "validation"] = None
        self._refs, found = models_json_schema(list(wanted), ref_template=_REF)
        self.components: Mapping[str, Any] = found["$defs"]

    def ref(self, model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
        return self._refs[model, mode]


def _operation(endpoint: str, path_parts: list[str], contract: Operation, schemas: _Schemas) -> dict[str, Any]:
    tag = endpoint.partition(".")[0]
    described: dict[str, Any] = {
        "operationId": to_camel(endpoint.replace(".", "_")),
        "tags": [tag],
        "summary": contract.summary,
        "description": " ".join(contract.description.split()),
        "parameters": [*map(_path_parameter, path_parts), *_query_parameters(contract.query)],
        "responses": {str(contract.status): _success(contract, schemas)}
        | {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in _problems(contract)},
    }
    if contract.body is not None:
        described["requestBody"] = {
            "required": not contract.body_optional,
            "content": {"application/json": {"schema": schemas.ref(contract.body, "validation")}},
        }
    if contract.upload is not None:
        described["requestBody"] = {"required": True, "content": {contract.upload: {"schema": {"type": "string"}}}}
    if contract.right is None:
        described["security"] = []
    return described


def _success(contract: Operation, schemas: _Schemas) -> dict[str, Any]:
    if contract.answer is not None:
        schema = schemas.ref(contract.answer, "serialization")
    else:
        schema = {"type": "object"} if contract.content == "application/json" else {"type": "string"}
    answer: dict[str, Any] = {
        "description": HTTPStatus(contract.status).phrase,
        "content": {contract.content: {"schema": schema}},
    }
    if contract.headers:
        answer["headers"] = _headers(contract.headers)
    return answer


def _headers(described: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def _problems(contract: Operation) -> list[int]:
    given = set(contract.problems) | set(_EVERYWHERE)
    if contract.right is not None:
        given |= set(_WITH_TOKEN) | set(_WITH_LEDGER)
    return sorted(given)


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": _PARTS[name], "schema": {"type": "string"}}


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema(ref_template=_REF)
    parameters = []
    for name, found in schema["properties"].items():
        inlined = _inline(found, schema.get("$defs", {}))
        description = inlined.pop("description")
        parameters.append({"name": name, "in": "query", "description": description, "schema": inlined})
    return parameters


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with its references replaced by what they name: a parameter stands on its own."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in schema.items()}
    return [_inline(value, definitions) for value in schema] if isinstance(schema, list) else schema

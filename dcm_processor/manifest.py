"""settings.json: what a service says of its jobs, with everything that is wrong reported together.

`parse_manifest` never raises over what a file holds: what is wrong is a Fault, and the jobs that are right are there.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from dcm_processor import json_text
from dcm_processor.errors import ManifestError
from dcm_processor.job_settings import (
    ALL,
    FUNCTION_NAME,
    JOB_NAME,
    PYTHON_VERSION,
    JobSettings,
    Owner,
    Retry,
    is_job_name,
    parse_memory,
    parse_timeout,
)
from dcm_processor.json_text import but, dotted
from dcm_processor.names import SERVICE_NAME, check_service_name, did_you_mean
from dcm_processor.vocabulary import Level, Stage

__all__ = [
    "ALL",
    "MANIFEST",
    "SERVICE_NAME",
    "Defaults",
    "Fault",
    "JobSettings",
    "ParsedManifest",
    "Retry",
    "check_service_name",
    "json_schema",
    "parse_manifest",
    "parse_memory",
    "parse_timeout",
]

MANIFEST = "registry/settings.json"  # its place in a service's source
_MOST_FAULTS = 100  # a reader has had enough by then
_FOR_EDITORS = ("$schema", "$comment")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or (as a warning) odd, with a service's settings.

    `field` is a path such as `retry.max` or `[2].dependsOn`, "" for the file as a whole. `job` is the job concerned, if
    its name can be read, and `stage` its stage unless it is disabled: a plan must know when a `pre` job is missing.
    """

    service: str
    file: str
    field: str
    reason: str
    job: str | None = None
    stage: Stage | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (f"service {self.service}", self.file, self.field, self.reason) if part)


@dataclass(frozen=True)
class Defaults:
    """What an installation decides for jobs that do not say (DEFAULT_LEVEL, DEFAULT_PRIORITY), and its QUEUES."""

    level: Level
    priority: str
    queues: tuple[str, ...]


@dataclass(frozen=True)
class ParsedManifest:
    """What a settings.json says: the jobs that are right, all that is wrong, and what is odd."""

    jobs: tuple[JobSettings, ...]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()


def parse_manifest(text: str | bytes, service: str, defaults: Defaults) -> ParsedManifest:
    """Read the text of the settings.json of `service`: one object, or an array of them, one a job.

    Never raises over what the text holds. Unknown fields are warnings; a job with a fault is not among the jobs.
    """

    def broken(reason: str) -> Fault:
        return Fault(service, MANIFEST, "", reason)

    try:
        document, flaws = json_text.read(text)
    except ManifestError as error:
        return ParsedManifest((), (broken(str(error)),))
    if document == []:
        return ParsedManifest((), (broken("is an empty list; a service has at least one job"),))
    numbered = isinstance(document, list)
    flaws_of = defaultdict(list)
    for path, reason in flaws:
        flaws_of[path[0] if numbered else None].append((path[numbered:], reason))
    jobs: dict[str, JobSettings] = {}
    faults: list[Fault] = []
    warnings: list[Fault] = []
    for index, value in enumerate(document) if numbered else ((None, document),):
        entry = _Entry(service, "" if index is None else f"[{index}]")
        entry.read(value, flaws_of[index], defaults)
        if entry.job and entry.job.job_name in jobs:
            entry.fault("jobName", f'"{entry.job.job_name}" is the name of another job of this file')
        elif entry.job and not entry.faults:
            jobs[entry.job.job_name] = entry.job
        faults += entry.faults
        warnings += entry.warnings
        if len(faults) > _MOST_FAULTS:
            faults[_MOST_FAULTS:] = [broken("has more faults than these; correct them first")]
            break
    return ParsedManifest(tuple(jobs.values()), tuple(faults), tuple(warnings[:_MOST_FAULTS]))


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of settings.json, for editors; docs/settings.schema.json is its text.

    It says all that a schema can; an install also checks names against the service, the queues and the other services.
    """
    job = JobSettings.model_json_schema(by_alias=True)
    definitions = job.pop("$defs")
    job |= {"title": "job", "description": "One job."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "settings.json of a dcm-processor service",
        "description": "One job, or a list of jobs.",
        "anyOf": [
            {"$ref": "#/$defs/JobSettings"},
            {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/JobSettings"}},
        ],
        "$defs": {**definitions, "JobSettings": job},
    }


@dataclass
class _Entry:
    """What is found out about one entry; `path` is its place in the file."""

    service: str
    path: str
    name: str | None = None
    stage: Stage | None = None
    job: JobSettings | None = None
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)

    def read(self, value: Any, flaws: list[tuple[json_text.Path, str]], defaults: Defaults) -> None:
        """Judge the entry; `flaws` are those of its JSON."""
        if not isinstance(value, dict):
            self.fault("", but("must be an object with the fields of a job", value))
            return
        if is_job_name(value.get("jobName")):
            self.name = value["jobName"]
            self.stage = _stage(value)
        for path, reason in flaws:
            self.fault(dotted(path), reason)
        self._warn_of_unknown_fields((), value, JobSettings)
        self._warn_of_unknown_fields(("retry",), value.get("retry"), Retry)
        filled = {"level": defaults.level, "priority": defaults.priority, **value}
        owner = Owner(self.service, defaults.queues)
        try:
            self.job = JobSettings.model_validate(filled, context=owner, by_alias=True, by_name=False)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                if details["type"] != "default_factory_not_called":  # it would say that another field has a fault
                    self.fault(dotted(details["loc"]), _reason(details))

    def fault(self, field: str, reason: str) -> None:
        """Note what is wrong with a field; only the first thing for each."""
        where = self._place(field)
        if all(fault.field != where for fault in self.faults):
            self.faults.append(Fault(self.service, MANIFEST, where, reason, self.name, self.stage))

    def _warn_of_unknown_fields(self, path: json_text.Path, value: Any, model: type[BaseModel]) -> None:
        for key, hint in _unknown_fields(value, model):
            reason = f"is no field of a job and is ignored{hint}"
            self.warnings.append(Fault(self.service, MANIFEST, self._place(dotted((*path, key))), reason))

    def _place(self, field: str) -> str:
        return ".".join(part for part in (self.path, field) if part)


def _stage(value: dict[str, Any]) -> Stage | None:
    """The stage of an entry that may be full of faults; None where it is disabled or has no such stage."""
    wanted = value.get("stage", Stage.MAIN)
    return next((stage for stage in Stage if stage == wanted and value.get("disabled") is not True), None)


def _unknown_fields(value: Any, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Fields the model lacks, with a hint at the one it has."""
    if not isinstance(value, dict):
        return
    known = [field.alias or name for name, field in model.model_fields.items()]
    unknown = [key for key in value if key not in known and key not in _FOR_EDITORS]
    for key in unknown[:_MOST_FAULTS]:
        yield key, did_you_mean(key, known)


_WORDS = {  # by pydantic's type of error
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} entry",
    "too_long": "must have at most {max_length} entries",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "enum": "must be {expected}",
}
_PATTERN_WORDS = {
    JOB_NAME: 'must be 1 to 64 letters, digits, "_", "." or "-", beginning with a letter or a digit',
    PYTHON_VERSION: 'must be a version of Python from 3.8 on, like "3.12"',
    FUNCTION_NAME: 'must be a dotted name like "service.function"',
}


def _reason(details: Any) -> str:
    """Pydantic's details of an error, in our words."""
    context = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "is missing; every job has it"
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            words = _PATTERN_WORDS[context["pattern"]]
        case kind if kind in _WORDS:
            words = _WORDS[kind].format_map(context)
        case _:
            words = details["msg"]
    return but(words, details["input"])

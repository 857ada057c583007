"""A job as a service describes it: the fields of settings.json, their limits and their defaults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.alias_generators import to_camel

from dcm_processor.json_text import but
from dcm_processor.vocabulary import Level, OnDependencyFailure, OnUpdate, Stage

ALL = "*"  # in dependsOn: every scheduled job of earlier stages, and of this one without "*"
JOB_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
PYTHON_VERSION = r"^3\.([89]|[1-9][0-9])(\.[0-9]{1,3})?$"
FUNCTION_NAME = r"^[A-Za-z][A-Za-z0-9_-]*(\.[^\W\d][\w-]*)+$"

_DURATION = re.compile(r"([0-9]{1,12})([smhd]?)", re.IGNORECASE | re.ASCII)
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_LONGEST = 100 * 365 * 86_400  # seconds: the timers of operating systems take it, and nobody waits for more
_LEAST_MEMORY, _MOST_MEMORY = 16 * 2**20, 2**50  # bytes; a Python that has just started needs most of the former

_OF_PLAN = ("params", "dependsOn", "sortPosition", "level", "stage", "onDependencyFailure")

_DURATION_WORDS = 'must be seconds (a number, or digits) or like "90s", "30m", "1h", "2d"'
_SIZE_WORDS = 'must be like "512M" or "4G", or a whole number of bytes'


def is_job_name(value: object) -> bool:
    """Whether it could be the name of a job."""
    return isinstance(value, str) and re.fullmatch(JOB_NAME, value) is not None


def parse_timeout(value: object) -> float:
    """Seconds from a number, from digits, or from RQ's "90s", "30m", "1h", "2d".

    Raises ValueError where `value` is none of them, is not above 0 or is above 100 years.
    """
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        seconds: float = int(found[1]) * _SECONDS[found[2].lower()]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError(but(_DURATION_WORDS, value))
    if not 0 < seconds <= _LONGEST:
        raise ValueError(but("must be above 0 and at most 100 years", value))
    return float(seconds)


def parse_size(value: object) -> int:
    """Bytes from a whole number or from "512M", "4G", "1.5GiB" (K, M, G, T are powers of 1024, as in Docker).

    Raises ValueError where `value` is none of them.
    """
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        return int(float(found[1]) * _BYTES[found[2].lower()])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(but(_SIZE_WORDS, value))


def parse_memory(value: object) -> int:
    """The same of a limit on memory.

    Raises ValueError where `value` is no size, or lies outside of 16M to 1024T.
    """
    size = parse_size(value)
    if not _LEAST_MEMORY <= size <= _MOST_MEMORY:
        raise ValueError(but('must be at least "16M" and at most "1024T"', value))
    return size


def _job_names(value: object) -> object:
    """`dependsOn`, each name once."""
    if value is None:
        return ()
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError(but("must be a job's name, a list of names, or null", value))  # noqa: TRY004 - pydantic's way
    for name in names:
        if name != ALL and not is_job_name(name):
            raise ValueError(but(f'must hold names of jobs, or "{ALL}"', name))
    return tuple(dict.fromkeys(names))


def _without_default(schema: dict[str, Any]) -> None:
    """The installation's settings decide, not the model."""
    schema.pop("default", None)


_NAME_SCHEMA = {"type": "string", "pattern": rf"^\*$|{JOB_NAME}"}

JobNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_job_names),
    WithJsonSchema({"anyOf": [_NAME_SCHEMA, {"type": "array", "items": _NAME_SCHEMA}, {"type": "null"}]}),
]
FunctionName = Annotated[str, Field(pattern=FUNCTION_NAME)]
Seconds = Annotated[
    float,
    BeforeValidator(parse_timeout),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": _LONGEST},
                {"type": "string", "pattern": "^[0-9]{1,12}[smhdSMHD]?$"},
            ]
        }
    ),
]
Bytes = Annotated[
    int | None,
    BeforeValidator(lambda value: None if value is None else parse_memory(value)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": _LEAST_MEMORY, "maximum": _MOST_MEMORY},
                {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?[kmgtKMGT]?([iI]?[bB])?$"},
                {"type": "null"},
            ]
        }
    ),
]
Count = Annotated[int, Field(ge=0, le=1000)]
Pause = Annotated[float, Field(ge=0, le=_LONGEST)]
Pauses = Annotated[
    tuple[Pause, ...],
    Field(min_length=1, max_length=1000),
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


@dataclass(frozen=True)
class Owner:
    """Whose settings are validated (pydantic's context): the service, and the queues its jobs may name."""

    service: str
    queues: tuple[str, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        alias_generator=to_camel,
        field_title_generator=lambda name, _: to_camel(name),
        validate_by_name=True,
        validate_by_alias=True,
    )


class Retry(_Strict):
    """How often an attempt is followed by another one."""

    max: Count = Field(default=0, description="Failures after which the job is tried again.")
    interval: Pauses = Field(
        default=(10.0, 60.0, 300.0),
        description="Seconds (jittered) before each new attempt; the last one holds for all that follow.",
    )
    lost: Count = Field(default=2, description="Attempts beside those: worker, host or runner went away.")


class JobSettings(_Strict):
    """One job of a settings.json, every default filled in.

    Where a manifest is parsed, `level` and `priority` default to the installation's DEFAULT_LEVEL and DEFAULT_PRIORITY.
    `params` is one dict for all who read it: who hands it to a service's code hands over a copy.
    """

    job_name: Annotated[str, Field(pattern=JOB_NAME)] = Field(description="Unique over all services.")
    worker: FunctionName = Field(description="The function that does the work, named from its service on.")
    callback: FunctionName = Field(description="The function that says whether the job applies, likewise.")
    depends_on: JobNames = Field(
        default=(),
        description='Name(s) of jobs to come after; "*" is every scheduled job of earlier stages '
        'and of this one without "*".',
    )
    priority: str = Field(
        default="default",
        description="The RQ queue, one of QUEUES; DEFAULT_PRIORITY where it is not given.",
        json_schema_extra=_without_default,
    )
    timeout: Seconds = Field(default=3600.0, description='For the function alone: seconds, or "30m", "1h".')
    params: dict[str, Any] = Field(default_factory=dict, description="Handed to callback and worker as it is.")
    sort_position: float = Field(default=999.0, description="Among jobs that may come next the smallest is first.")
    description: str = Field(default="", description="For people.")
    level: Level = Field(
        default=Level.STUDY,
        strict=False,
        description="One job for a study, or one for each series; DEFAULT_LEVEL where it is not given.",
        json_schema_extra=_without_default,
    )
    stage: Stage = Field(
        default=Stage.MAIN,
        strict=False,
        description="A later stage starts when the earlier one's scheduled jobs have ended; "
        "a pre job that applies but does not finish skips every later stage.",
    )
    on_dependency_failure: OnDependencyFailure = Field(
        default_factory=lambda fields: (
            OnDependencyFailure.RUN if fields.get("stage") is Stage.POST else OnDependencyFailure.SKIP
        ),
        strict=False,
        description='What the job does when a dependency does not finish; "skip", but "run" in stage post.',
    )
    retry: Retry = Field(default=Retry(), description="How often an attempt is followed by another one.")
    on_update: OnUpdate = Field(
        default=OnUpdate.RERUN,
        strict=False,
        description="What a study that grew gets (series jobs: changed series only).",
    )
    memory: Bytes = Field(default=None, description='Limit, like "4G".')
    python_version: Annotated[str, Field(pattern=PYTHON_VERSION)] | None = Field(
        default=None,
        description='The Python of its environment, like "3.12", which must be on the workers\' hosts; '
        "null: the one that runs the platform.",
    )
    warm: bool = Field(
        default=True, description="Whether a worker may keep the function's module imported for further jobs."
    )
    disabled: bool = Field(default=False, description="A disabled job is neither asked nor run.")

    def to_json(self) -> dict[str, Any]:
        """All fields in camelCase, as plain JSON values of their own: `timeout` in seconds, `memory` in bytes."""
        return self.model_dump(mode="json", by_alias=True)

    def in_plan_of(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """These as `to_json` has them, but for what makes the plan that `before` is of: params, and its place there."""
        return self.to_json() | {name: before[name] for name in _OF_PLAN if name in before}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The settings `to_json` wrote.

        Raises ValueError where `value` is no job.
        """
        return cls.model_validate(value, by_alias=True, by_name=False)

    @field_validator("priority")
    @classmethod
    def _queue_exists(cls, value: str, info: ValidationInfo) -> str:
        if isinstance(info.context, Owner) and value not in info.context.queues:
            raise ValueError(but(f"must be one of QUEUES ({', '.join(info.context.queues)})", value))
        return value

    @field_validator("worker", "callback")
    @classmethod
    def _own_function(cls, value: str, info: ValidationInfo) -> str:
        if isinstance(info.context, Owner) and not value.startswith(f"{info.context.service}."):
            raise ValueError(but(f'must begin with the service\'s own name, "{info.context.service}."', value))
        return value

"""Completeness beyond StableAge: what a site's rules expect of a study, and whether the study holds it. Pure.

A rule is about the series of a study that match it, and about no study without one. What it expects are minimums. A
study is complete when every rule that is about it has what it expects, or has waited for its limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from dcm_processor import json_text
from dcm_processor.errors import ManifestError, RulesError
from dcm_processor.job_settings import parse_timeout
from dcm_processor.json_text import but, dotted
from dcm_processor.names import did_you_mean
from dcm_processor.vocabulary import HELD

LONGEST = 30 * 86_400
"""Seconds: the highest limit of a rule."""

_MOST_RULES = 1000
_FOR_EDITORS = ("$schema", "$comment")
_DESCRIPTION = "SeriesDescription"


def _keyword(value: object) -> object:
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - heavy, and most installations have no rules

    if not isinstance(value, str) or value not in keyword_dict:
        hint = did_you_mean(value, keyword_dict) if isinstance(value, str) else ""
        raise ValueError(but("must be a DICOM keyword (PS3.6)", value) + hint)
    return value


def _patterns(value: object) -> object:
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not patterns:
        raise ValueError(but("must be a pattern, or a list of them", value))
    for pattern in patterns:
        if not isinstance(pattern, str) or not 1 <= len(pattern) <= 256:
            raise ValueError(but("must be text of 1 to 256 characters", pattern))
    return tuple(patterns)


def _limit(value: object) -> float:
    seconds = parse_timeout(value)
    if seconds > LONGEST:
        raise ValueError(but('must be at most "30d"', value))
    return seconds


_PATTERN_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 256}
_PATTERNS_SCHEMA = {"anyOf": [_PATTERN_SCHEMA, {"type": "array", "minItems": 1, "items": _PATTERN_SCHEMA}]}

Keyword = Annotated[str, BeforeValidator(_keyword)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns), WithJsonSchema(_PATTERNS_SCHEMA)]
Limit = Annotated[
    float,
    BeforeValidator(_limit),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST},
                {"type": "string", "pattern": "^[0-9]{1,12}[smhdSMHD]?$"},
            ]
        }
    ),
]
Minimum = Annotated[int, Field(ge=1, le=10_000_000)]


class Rule(BaseModel):
    """What is expected of the series that match."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", title="rule")

    name: str = Field(min_length=1, max_length=64, description="For people; unique in the file.")
    match: dict[Keyword, Patterns] = Field(
        min_length=1,
        description="DICOM keywords of study or series, each with a pattern (* ? [abc], case counts) or several of "
        "which one must match. All keywords must match in one series.",
    )
    series: Minimum | None = Field(default=None, description="How many series must match, at least.")
    instances: Minimum | None = Field(default=None, description="How many instances these must have, at least.")
    descriptions: Patterns = Field(
        default=(), description="Patterns, each of which must match the SeriesDescription of one of them."
    )
    limit: Limit = Field(description='How long a study is held back at most: seconds, or "30m", "1h"; "30d" at most.')

    @model_validator(mode="after")
    def _expects_something(self) -> "Rule":
        if self.series is None and self.instances is None and not self.descriptions:
            raise ValueError("must expect something: series, instances or descriptions")
        return self

    def missing(self, headers: Mapping[str, Any]) -> str:
        """What the study lacks, in words; "" where it lacks nothing, or where the rule is not about it."""
        whole = {keyword: value for keyword, value in headers.items() if keyword != "series"}
        found = [entry for entry in headers["series"] if self._matches({**whole, **entry})]
        if not found:
            return ""
        lacks = []
        if self.series is not None and len(found) < self.series:
            lacks.append(f"{len(found)} of {self.series} series")
        number = sum(entry["NumberOfInstances"] for entry in found)
        if self.instances is not None and number < self.instances:
            lacks.append(f"{number} of {self.instances} instances")
        lacks += [
            f'no series "{pattern}"'
            for pattern in self.descriptions
            if not any(_matches(entry.get(_DESCRIPTION), (pattern,)) for entry in found)
        ]
        return f'{", ".join(lacks)} (rule "{self.name}")' if lacks else ""

    def _matches(self, elements: Mapping[str, Any]) -> bool:
        return all(_matches(elements.get(keyword), patterns) for keyword, patterns in self.match.items())


@dataclass(frozen=True)
class Judgement:
    """What is missing, in words ("": nothing); since and until when the study is held back, s since the epoch.

    `until` is None where it is not.
    """

    missing: str = ""
    since: float = 0
    until: float | None = None

    @property
    def reason(self) -> str:
        """Why the study is held back, and how long."""
        assert self.until is not None
        at = datetime.fromtimestamp(self.until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{HELD}{self.missing}; planned as it is at {at} at the latest"


def judge(rules: Sequence[Rule], headers: Mapping[str, Any], *, since: float | None, now: float) -> Judgement:
    """Whether the study is complete.

    `headers` as `headers.build_headers` makes them with `keywords(rules)`; `since` is when the study was first held
    back since its last plan, None: not yet. Limits count from there, whatever came meanwhile.
    """
    since = now if since is None else min(since, now)  # a clock that was set back makes no limit longer
    missing = [(rule, words) for rule in rules if (words := rule.missing(headers))]
    until = max((since + rule.limit for rule, _ in missing), default=now)
    return Judgement("; ".join(words for _, words in missing), since, until if until > now else None)


def keywords(rules: Sequence[Rule]) -> tuple[str, ...]:
    """The elements that the rules look at."""
    found = {keyword: None for rule in rules for keyword in rule.match}
    if any(rule.descriptions for rule in rules):
        found[_DESCRIPTION] = None
    return tuple(found)


def parse_rules(text: str | bytes) -> tuple[Rule, ...]:
    """The rules of a file: a list of them.

    Raises RulesError with all that is wrong: field, reason.
    """
    try:
        document, flaws = json_text.read(text)
    except ManifestError as error:
        raise RulesError(str(error)) from None
    faults = [f"{dotted(path)}: {reason}" for path, reason in flaws]
    if not isinstance(document, list):
        raise RulesError(but("must be a list of rules", document))
    if len(document) > _MOST_RULES:
        raise RulesError(f"has {len(document)} rules; {_MOST_RULES} is the most")
    rules: dict[str, Rule] = {}
    for index, value in enumerate(document):
        try:
            rule = Rule.model_validate(_without_comments(value))
        except ValidationError as error:
            faults += [f"{dotted((index, *_place(e)))}: {_told(e)}" for e in error.errors(include_url=False)]
            continue
        if rule.name in rules:
            faults.append(f'[{index}].name: "{rule.name}" is the name of another rule')
        rules[rule.name] = rule
    if faults:
        raise RulesError(*faults)
    return tuple(rules.values())


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the file, for editors; docs/completeness.schema.json is its text."""
    rule = Rule.model_json_schema()
    expected = ("series", "instances", "descriptions")
    for name in _FOR_EDITORS:
        rule["properties"][name] = {"type": "string"}
    rule |= {
        "description": "What is expected of the series that match.",
        "anyOf": [{"required": [e]} for e in expected],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "completeness.json of dcm-processor",
        "description": "Rules that hold studies back until they are complete.",
        "type": "array",
        "maxItems": _MOST_RULES,
        "items": rule,
    }


def _matches(value: Any, patterns: Sequence[str]) -> bool:
    """Whether an element's value, or one of its values, matches one of the patterns; one that is absent does not."""
    if value is None:
        return False
    return any(fnmatchcase(_text(each), pattern) for each in _values(value) for pattern in patterns)


def _values(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    """As it is written: 3.0 is "3"."""
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _place(details: Any) -> tuple[str | int, ...]:
    return tuple(part for part in details["loc"] if part != "[key]")


def _without_comments(value: Any) -> Any:
    return {key: v for key, v in value.items() if key not in _FOR_EDITORS} if isinstance(value, dict) else value


_WORDS = {  # by pydantic's type of error
    "model_type": "must be an object with the fields of a rule",
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "dict_type": "must be an object",
    "string_too_short": "must have 1 to 64 characters",
    "string_too_long": "must have 1 to 64 characters",
    "too_short": "must have at least one keyword",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _told(details: Any) -> str:
    """Pydantic's details of an error, in our words."""
    context = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "is missing; every rule has it"
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return f"is no field of a rule{did_you_mean(str(details['loc'][-1]), Rule.model_fields)}"
    return but(_WORDS.get(details["type"], details["msg"]).format_map(context), details["input"])

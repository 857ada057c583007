"""settings.json as people write it: every fault is found, named by its place, and takes nothing else down."""

import json
import time
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcm_processor.manifest import Defaults, Fault, ParsedManifest, json_schema, parse_manifest
from dcm_processor.vocabulary import Level, Stage

DEFAULTS = Defaults(Level.SERIES, "medium", ("high", "default", "medium", "low", "gpu"))
SCHEMA = jsonschema.Draft202012Validator(json_schema())
JOB = {"jobName": "a", "worker": "temp.work", "callback": "temp.applies"}


def parse(value: object) -> ParsedManifest:
    return parse_manifest(value if isinstance(value, str | bytes) else json.dumps(value), "temp", DEFAULTS)


def faults(value: object) -> dict[str, str]:
    """Reasons by field."""
    return {fault.field: fault.reason for fault in parse(value).faults}


def test_an_object_is_one_job_and_an_array_is_many():
    assert [job.job_name for job in parse(JOB).jobs] == ["a"]
    assert [job.job_name for job in parse([JOB, {**JOB, "jobName": "b"}]).jobs] == ["a", "b"]


def test_the_nine_fields_of_the_contract():
    entry = {
        **JOB,
        "dependsOn": ["b", "c"],
        "priority": "high",
        "timeout": "30m",
        "params": {"threshold": 0.5, "names": ["x"]},
        "sortPosition": 3,
        "description": "Für alle",
    }
    parsed = parse(entry)
    assert not parsed.faults
    assert not parsed.warnings
    written = parsed.jobs[0].to_json()
    assert written | {**entry, "timeout": 1800} == written


def test_level_and_priority_default_to_the_installations():
    job = parse(JOB).jobs[0]
    assert (job.level, job.priority) == (Level.SERIES, "medium")
    job = parse({**JOB, "level": "study", "priority": "gpu"}).jobs[0]
    assert (job.level, job.priority) == (Level.STUDY, "gpu")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[]", "is an empty list; a service has at least one job"),
        ("nothing", "is not JSON: line 1, column 1"),
        ('{"jobName": "a", "worker"', "only half written"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8"),
        ("x" * 2_000_000, "is larger than 1 MiB"),
        ("null", "must be an object with the fields of a job, not null"),
        ("NaN", "must be an object with the fields of a job, not NaN"),
        ("[" * 100_000, "nested deeper"),
    ],
)
def test_a_file_that_holds_no_jobs_is_one_fault(text, words):
    parsed = parse(text)
    assert parsed.jobs == ()
    assert len(parsed.faults) == 1
    assert words in str(parsed.faults[0])


def test_a_fault_says_which_service_file_and_field():
    fault = parse({**JOB, "timeout": "1w"}).faults[0]
    assert (fault.service, fault.file, fault.field) == ("temp", "registry/settings.json", "timeout")
    assert str(fault) == (
        "service temp: registry/settings.json: timeout: must be seconds (a number, or digits) "
        'or like "90s", "30m", "1h", "2d", not "1w"'
    )


def test_all_faults_are_reported_at_once():
    found = faults(
        [
            JOB,
            3,
            {
                "jobName": "b c",
                "worker": "other.work",
                "callback": "temp",
                "dependsOn": ["x", 1],
                "priority": "urgent",
                "timeout": 0,
                "params": [],
                "sortPosition": "1",
                "description": None,
                "level": "Series",
                "stage": "first",
                "onDependencyFailure": True,
                "retry": {"max": -1, "interval": [1, "x"], "lost": 2.5},
                "onUpdate": "again",
                "memory": "4X",
                "warm": 1,
                "disabled": "no",
            },
            {},
        ]
    )
    assert set(found) == {
        "[1]",
        *(
            f"[2].{field}"
            for field in (*JOB, "dependsOn", "priority", "timeout", "params", "sortPosition", "description")
        ),
        *(
            f"[2].{field}"
            for field in ("level", "stage", "onDependencyFailure", "onUpdate", "memory", "warm", "disabled")
        ),
        *(f"[2].retry.{field}" for field in ("max", "interval[1]", "lost")),
        *(f"[3].{field}" for field in JOB),
    }


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (
            "jobName",
            "a/b",
            'must be 1 to 64 letters, digits, "_", "." or "-", beginning with a letter or a digit, not "a/b"',
        ),
        ("jobName", "a" * 65, "must be 1 to 64 letters"),
        ("jobName", 7, "must be text, not 7"),
        ("worker", "other.work", 'must begin with the service\'s own name, "temp.", not "other.work"'),
        ("worker", "temper.work", "must begin with the service's own name"),
        ("worker", "temp", 'must be a dotted name like "service.function", not "temp"'),
        ("callback", "temp..applies", "must be a dotted name"),
        ("callback", "temp.a b", "must be a dotted name"),
        ("callback", "temp.../x", "must be a dotted name"),
        ("priority", "urgent", 'must be one of QUEUES (high, default, medium, low, gpu), not "urgent"'),
        ("dependsOn", 3, "must be a job's name, a list of names, or null, not 3"),
        ("dependsOn", "", 'must hold names of jobs, or "*", not ""'),
        ("dependsOn", [["a"]], 'must hold names of jobs, or "*", not a list'),
        ("sortPosition", True, "must be a number, not true"),
        ("params", "x", 'must be an object, not "x"'),
        ("level", None, "must be 'study' or 'series', not null"),
        ("stage", "Pre", "must be 'pre', 'main' or 'post', not \"Pre\""),
        ("retry", 3, "must be an object, not 3"),
        ("disabled", 1, "must be true or false, not 1"),
        ("memory", 4, 'must be at least "16M" and at most "1024T", not 4'),
        ("description", 1, "must be text, not 1"),
    ],
)
def test_a_wrong_value_is_named_in_plain_words(field, value, reason):
    found = faults({**JOB, field: value})
    assert list(found) == [field]
    assert found[field].startswith(reason)


@pytest.mark.parametrize("field", JOB)
def test_a_missing_field_is_named(field):
    entry = {key: value for key, value in JOB.items() if key != field}
    assert faults(entry) == {field: "is missing; every job has it"}


def test_functions_may_lie_deeper_and_in_services_with_hyphens():
    entry = {**JOB, "worker": "ms-sub.storageManager.worker", "callback": "ms-sub._private"}
    assert not parse_manifest(json.dumps(entry), "ms-sub", DEFAULTS).faults


def test_a_name_given_twice_in_a_file_is_a_fault_of_the_second():
    parsed = parse([JOB, {**JOB, "description": "again"}])
    assert [job.description for job in parsed.jobs] == [""]
    assert str(parsed.faults[0]).endswith('[1].jobName: "a" is the name of another job of this file')


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
@pytest.mark.parametrize("field", ["sortPosition", "timeout", "params"])
def test_numbers_json_does_not_know_are_refused_wherever_they_stand(field, number):
    value = f'{{"deep": [{number}]}}' if field == "params" else number
    parsed = parse(json.dumps(JOB)[:-1] + f', "{field}": {value}}}')
    assert parsed.jobs == ()
    assert [fault.field for fault in parsed.faults] == ["params.deep[0]" if field == "params" else field]


def test_a_field_given_twice_is_refused():
    found = faults(
        '{"jobName": "a", "jobName": "b", "worker": "temp.w", "callback": "temp.c", "params": {"x": 1, "x": 1}}'
    )
    assert set(found) == {"jobName", "params.x"}


def test_unknown_fields_are_warnings_with_the_nearest_right_name():
    parsed = parse(
        [{**JOB, "depends_on": "b", "sortposition": 1, "colour": "red", "retry": {"maximum": 1, "intervall": []}}]
    )
    assert len(parsed.jobs) == 1
    assert not parsed.faults
    assert [f"{warning.field}: {warning.reason}" for warning in parsed.warnings] == [
        '[0].depends_on: is no field of a job and is ignored; did you mean "dependsOn"?',
        '[0].sortposition: is no field of a job and is ignored; did you mean "sortPosition"?',
        "[0].colour: is no field of a job and is ignored",
        '[0].retry.maximum: is no field of a job and is ignored; did you mean "max"?',
        '[0].retry.intervall: is no field of a job and is ignored; did you mean "interval"?',
    ]
    assert parsed.jobs[0].depends_on == ()


def test_editors_may_be_told_the_schema():
    assert not parse({"$schema": "./settings.schema.json", "$comment": "mine", **JOB}).warnings


def test_one_broken_job_leaves_the_others():
    parsed = parse([{**JOB, "timeout": -1}, {**JOB, "jobName": "b"}])
    assert [job.job_name for job in parsed.jobs] == ["b"]


def test_a_fault_tells_which_job_and_stage_it_takes_away():
    def whose(**fields: object) -> list[tuple[str | None, Stage | None]]:
        return [(fault.job, fault.stage) for fault in parse({**JOB, "timeout": 0, **fields}).faults]

    assert whose(stage="pre") == [("a", Stage.PRE)]
    assert whose() == [("a", Stage.MAIN)]
    assert whose(stage="pre", disabled=True) == [("a", None)]
    assert whose(stage=["pre"])[0] == ("a", None)
    assert whose(jobName=3)[0] == (None, None)


def test_a_file_full_of_faults_is_not_answered_with_as_many():
    begin = time.perf_counter()
    parsed = parse("[" + ",".join(["{}"] * 300_000) + "]")
    assert len(parsed.faults) == 101
    assert "more faults" in parsed.faults[-1].reason
    assert len(parse(JOB | {f"unknown{i}": 1 for i in range(50_000)}).warnings) == 100
    assert time.perf_counter() - begin < 10


_odd = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 2.5, 1e308, "", "a", "*", "1h", "4G", "study", "post", "run", "high", "temp.w"]
    ),
    st.sampled_from(
        [[], ["a"], {}, {"max": 1}, {"interval": []}, {"interval": [1]}, [[]], "\u2028", {"a": {"b": [None]}}]
    ),
)


@st.composite
def entries(draw: st.DrawFn) -> object:
    """A job with a few odd fields, or something odd altogether."""
    fields = st.sampled_from([*json_schema()["$defs"]["JobSettings"]["properties"], "other", "timeOut"])
    entry = {**JOB, **draw(st.dictionaries(fields, _odd, max_size=4))}
    return draw(st.sampled_from([entry, entry, entry, [entry], [entry, entry], draw(_odd)]))


@settings(deadline=None, max_examples=200)
@given(entries())
def test_whatever_stands_there_faults_are_clear_and_sound_jobs_fit_the_schema(value: object):
    parsed = parse(value)
    for fault in (*parsed.faults, *parsed.warnings):
        assert isinstance(fault, Fault)
        assert len(str(fault).splitlines()) == 1
        assert len(str(fault)) < 400
        assert "pydantic" not in str(fault).lower()
    if not parsed.faults:
        SCHEMA.validate(value)
        SCHEMA.validate([job.to_json() for job in parsed.jobs])


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        3,
        None,
        {**JOB, "timeout": "1w"},
        {**JOB, "timeout": 0},
        {**JOB, "jobName": "a b"},
        {**JOB, "stage": "x"},
        {**JOB, "retry": {"max": -1}},
        {**JOB, "retry": {"interval": []}},
        {**JOB, "memory": "4X"},
        {**JOB, "params": []},
        {**JOB, "dependsOn": [1]},
    ],
)
def test_the_schema_refuses_what_the_install_refuses(value):
    assert parse(value).faults
    assert not SCHEMA.is_valid(value)


def test_the_schema_is_one_and_says_the_defaults_that_are_everywhere_the_same():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    properties = json_schema()["$defs"]["JobSettings"]["properties"]
    assert properties["sortPosition"]["default"] == 999
    assert "default" not in properties["level"]
    assert "default" not in properties["priority"]
    assert json_schema()["$defs"]["JobSettings"]["required"] == list(JOB)


def test_the_published_schema_is_that_of_the_model():
    """After a change, write it anew from the root of the checkout:

    python -c 'import json, dcm_processor.manifest as m; print(json.dumps(m.json_schema(), indent=2))'
    """
    published = Path(__file__).parents[3] / "docs" / "settings.schema.json"
    assert published.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2) + "\n"

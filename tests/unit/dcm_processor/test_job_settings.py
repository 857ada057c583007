"""The fields of a job, their limits and their defaults (DESIGN.md §2)."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dcm_processor.job_settings import JobSettings, Retry, is_job_name, parse_memory, parse_timeout
from dcm_processor.vocabulary import Level, OnDependencyFailure, OnUpdate, Stage
from tests.unit.dcm_processor.worlds import job


def test_the_defaults_are_those_of_the_design():
    plain = JobSettings(job_name="a", worker="s.w", callback="s.c")
    assert plain.to_json() == {
        "jobName": "a",
        "worker": "s.w",
        "callback": "s.c",
        "dependsOn": [],
        "priority": "default",
        "timeout": 3600,
        "params": {},
        "sortPosition": 999,
        "description": "",
        "level": "study",
        "stage": "main",
        "onDependencyFailure": "skip",
        "retry": {"max": 0, "interval": [10, 60, 300], "lost": 2},
        "onUpdate": "rerun",
        "memory": None,
        "pythonVersion": None,
        "warm": True,
        "disabled": False,
    }


def test_a_job_of_stage_post_runs_after_failures_unless_it_says_otherwise():
    assert job("a", stage="post").on_dependency_failure is OnDependencyFailure.RUN
    assert job("a", stage="pre").on_dependency_failure is OnDependencyFailure.SKIP
    assert job("a", stage="post", onDependencyFailure="skip").on_dependency_failure is OnDependencyFailure.SKIP
    assert job("a", onDependencyFailure="run").on_dependency_failure is OnDependencyFailure.RUN


def test_part_of_retry_leaves_the_rest_as_it_is():
    assert job("a", retry={"max": 3}).retry == Retry(max=3, interval=(10, 60, 300), lost=2)


def test_dependencies_are_a_name_a_list_or_null_each_once():
    assert job("a", "b").depends_on == ("b",)
    assert job("a", ["b", "*", "b"]).depends_on == ("b", "*")
    assert job("a", None).depends_on == job("a", []).depends_on == ()


def test_settings_do_not_change_and_two_jobs_share_no_default():
    """Mutable defaults once gave patient B the parameters of patient A."""
    one, other = job("a"), job("b")
    assert one.params is not other.params
    with pytest.raises(ValidationError):
        one.timeout = 5  # type: ignore[misc]


def test_what_is_written_to_json_shares_nothing_with_the_job():
    one = job("a", params={"x": {"y": [1]}})
    one.to_json()["params"]["x"]["y"].append(2)
    assert one.params == {"x": {"y": [1]}}


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_names = st.text("abcXYZ019_.-", max_size=20).map(lambda name: f"j{name}")
_retries = st.fixed_dictionaries(
    {
        "max": st.integers(0, 9),
        "interval": st.lists(st.floats(0, 1e6), min_size=1, max_size=3).map(tuple),
        "lost": st.integers(0, 9),
    }
)
_settings = st.fixed_dictionaries(
    {
        "job_name": _names,
        "worker": st.just("svc.w"),
        "callback": st.just("svc.sub.c"),
        "depends_on": st.lists(_names | st.just("*"), max_size=3, unique=True).map(tuple),
        "priority": st.text(max_size=8),
        "timeout": st.floats(0.001, 1e9),
        "params": st.dictionaries(st.text(max_size=5), _values, max_size=3),
        "sort_position": st.floats(allow_nan=False, allow_infinity=False),
        "description": st.text(max_size=20),
        "level": st.sampled_from(Level),
        "stage": st.sampled_from(Stage),
        "on_dependency_failure": st.sampled_from(OnDependencyFailure),
        "retry": _retries.map(lambda fields: Retry(**fields)),
        "on_update": st.sampled_from(OnUpdate),
        "memory": st.none() | st.integers(2**24, 2**50),
        "warm": st.booleans(),
        "disabled": st.booleans(),
    }
).map(lambda fields: JobSettings(**fields))


@settings(deadline=None, max_examples=60)
@given(_settings)
def test_what_the_ledger_keeps_of_a_job_is_the_job(one: JobSettings):
    assert JobSettings.from_json(one.to_json()) == one


def test_the_ledgers_json_is_in_the_names_of_settings_json_only():
    with pytest.raises(ValueError, match="jobName"):
        JobSettings.from_json({"job_name": "a", "worker": "s.w", "callback": "s.c"})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(90, 90), (0.5, 0.5), ("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("1H", 3600), ("2d", 172_800)],
)
def test_a_timeout_is_seconds_or_rqs_short_form(value, seconds):
    assert parse_timeout(value) == seconds
    assert isinstance(parse_timeout(value), float)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        "0",
        "0h",
        "-1",
        "1w",
        "1h30m",
        "1.5h",
        "h",
        "",
        " 1h",
        "1 h",
        "\u0661h",
        True,
        None,
        [],
        {},
        math.nan,
        math.inf,
        -math.inf,
        1e300,
        10**400,
        "9" * 13,
        "999999999999d",
    ],
)
def test_what_is_no_timeout_is_refused(value):
    with pytest.raises(ValueError, match="must be"):
        parse_timeout(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("4G", 4 * 2**30),
        ("4g", 4 * 2**30),
        ("512M", 512 * 2**20),
        ("512MiB", 512 * 2**20),
        ("512mb", 512 * 2**20),
        ("1.5G", 3 * 2**29),
        ("20000K", 20_000 * 2**10),
        ("1T", 2**40),
        (2**30, 2**30),
        (str(2**30), 2**30),
    ],
)
def test_memory_is_bytes_or_a_number_with_a_unit(value, size):
    assert parse_memory(value) == size
    assert isinstance(parse_memory(value), int)


@pytest.mark.parametrize(
    "value", [0, 4, "4", "4 G", "G", "-4G", "4X", "1e9", "", True, 1e9, None, [], 10**400, "99999T", "9" * 30]
)
def test_what_is_no_memory_limit_is_refused_a_forgotten_unit_too(value):
    with pytest.raises(ValueError, match="must be"):
        parse_memory(value)


def test_names_of_jobs():
    assert all(is_job_name(name) for name in ("a", "1.2-x_y", "A" * 64))
    assert not any(is_job_name(name) for name in ("", ".a", "-a", "a b", "a/b", "a\n", "A" * 65, "*", "é", None, 3))

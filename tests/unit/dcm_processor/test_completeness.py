"""What a site's rules expect of a study, and whether the study holds it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dcm_processor.completeness import Judgement, Rule, json_schema, judge, keywords, parse_rules
from dcm_processor.errors import RulesError

BRAIN: dict[str, Any] = {
    "name": "MR brain",
    "match": {"Modality": "MR", "StationName": "AWP*"},
    "series": 6,
    "instances": 200,
    "limit": "30m",
}


def rules(*values: dict[str, Any]) -> tuple[Rule, ...]:
    return parse_rules(json.dumps([{**BRAIN, "name": f"rule {n}", **value} for n, value in enumerate(values)]))


def headers(*series: dict[str, Any], **study: Any) -> dict[str, Any]:
    filled = ({"Modality": "MR", "StationName": "AWP4711", "NumberOfInstances": 45, **each} for each in series)
    return {**study, "series": list(filled)}


def missing(found: dict[str, Any], *values: dict[str, Any]) -> str:
    return judge(rules(*values), found, since=None, now=0).missing


# -- what is missing


def test_series_and_instances_are_minimums_and_what_is_missing_is_said() -> None:
    assert missing(headers(*[{}] * 4), {}) == '4 of 6 series, 180 of 200 instances (rule "rule 0")'
    assert missing(headers(*[{}] * 5), {}) == '5 of 6 series (rule "rule 0")'
    assert missing(headers(*[{"NumberOfInstances": 1}] * 7), {}) == '7 of 200 instances (rule "rule 0")'
    assert missing(headers(*[{}] * 6), {}) == ""
    assert missing(headers(*[{"NumberOfInstances": 1000}] * 60), {}) == ""


def test_only_series_that_match_count_and_a_study_without_one_is_none_of_its_business() -> None:
    others = [{"Modality": "SR"}, {"StationName": "XY1"}, {"StationName": None}, {"StationName": ""}] * 9
    assert missing(headers(*[{}] * 4, *others), {"instances": None}) == '4 of 6 series (rule "rule 0")'
    assert missing(headers(*others), {}) == ""
    assert missing(headers(), {}) == ""


def test_case_counts_and_each_keyword_must_match_in_the_same_series() -> None:
    rule = {"series": 2, "instances": None}
    assert missing(headers({}), {**rule, "match": {"Modality": "mr"}}) == ""
    assert missing(headers({"StationName": "B"}, {"Modality": "CT"}), rule) == ""


def test_one_of_several_patterns_is_enough_and_one_of_several_values() -> None:
    rule = {"series": 9, "instances": None}
    assert missing(headers({}), {**rule, "match": {"Modality": ["CT", "M?"]}})
    assert missing(headers({"ImageType": ["ORIGINAL", "PRIMARY"]}), {**rule, "match": {"ImageType": "PRIM*"}})
    assert not missing(headers({"ImageType": ["ORIGINAL"]}), {**rule, "match": {"ImageType": "PRIM*"}})


def test_elements_of_the_study_match_too_and_numbers_as_they_are_written() -> None:
    rule = {"series": 9, "instances": None}
    found = headers({"MagneticFieldStrength": 3.0, "SeriesNumber": 7}, StudyDescription="Brain w/o")
    match = {"StudyDescription": "Brain*", "MagneticFieldStrength": "3", "SeriesNumber": "7"}
    assert missing(found, {**rule, "match": match})
    assert not missing(found, {**rule, "match": {**match, "MagneticFieldStrength": "1.5"}})


def test_expected_series_are_named_by_their_descriptions() -> None:
    rule = {"series": None, "instances": None, "descriptions": ["*t1*", "*flair*", "dwi*"]}
    found = headers({"SeriesDescription": "ax t1"}, {"SeriesDescription": "dwi b1000"}, {"SeriesDescription": ""}, {})
    assert missing(found, rule) == 'no series "*flair*" (rule "rule 0")'
    assert missing(headers({"SeriesDescription": "t1 flair"}), {**rule, "descriptions": ["*t1*", "*flair*"]}) == ""


# -- how long


def test_a_study_is_held_back_until_its_limit_and_the_reason_says_so() -> None:
    held = judge(rules({"instances": None}), headers({}), since=None, now=1_700_000_000)
    assert held == Judgement('1 of 6 series (rule "rule 0")', 1_700_000_000, 1_700_001_800)
    assert held.reason == (
        'held: 1 of 6 series (rule "rule 0"); planned as it is at 2023-11-14 22:43:20 UTC at the latest'
    )


def test_the_limit_counts_from_when_it_was_first_held_whatever_came_since() -> None:
    assert judge(rules({}), headers({}), since=100, now=1000).until == 1900
    late = judge(rules({}), headers({}), since=100, now=1900)
    assert (late.until, late.missing) == (None, '1 of 6 series, 45 of 200 instances (rule "rule 0")')


def test_a_clock_that_was_set_back_makes_no_limit_longer() -> None:
    assert judge(rules({}), headers({}), since=1_000_000, now=1000).until == 2800


def test_every_rule_that_is_about_the_study_must_have_what_it_expects_and_the_longest_limit_counts() -> None:
    both = ({"limit": 10}, {"match": {"Modality": "CT"}, "instances": None, "limit": 50}, {"series": 1, "limit": "9d"})
    found = headers(*[{}] * 5, {"Modality": "CT"})
    judged = judge(rules(*both), found, since=0, now=1)
    assert (judged.missing, judged.until) == ('5 of 6 series (rule "rule 0"); 1 of 6 series (rule "rule 1")', 50)


def test_without_rules_every_study_is_complete() -> None:
    assert judge((), headers({}), since=None, now=5) == Judgement("", 5, None)


def test_only_the_elements_that_rules_look_at_are_asked_for() -> None:
    assert keywords(()) == ()
    assert keywords(rules({})) == ("Modality", "StationName")
    assert keywords(rules({}, {"descriptions": ["x"]})) == ("Modality", "StationName", "SeriesDescription")


# -- the file


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"name": None}, "[0].name: must be text, not null"),
        ({"name": ""}, '[0].name: must have 1 to 64 characters, not ""'),
        ({"match": {}}, "[0].match: must have at least one keyword, not an object"),
        ({"match": "MR"}, '[0].match: must be an object, not "MR"'),
        (
            {"match": {"Modalty": "MR"}},
            '[0].match.Modalty: must be a DICOM keyword (PS3.6), not "Modalty"; did you mean "Modality"?',
        ),
        ({"match": {"Modality": 3}}, "[0].match.Modality: must be a pattern, or a list of them, not 3"),
        ({"match": {"Modality": []}}, "[0].match.Modality: must be a pattern, or a list of them, not an empty list"),
        ({"match": {"Modality": [""]}}, '[0].match.Modality: must be text of 1 to 256 characters, not ""'),
        ({"series": 0}, "[0].series: must be at least 1, not 0"),
        ({"series": True}, "[0].series: must be a whole number, not true"),
        ({"instances": "200"}, '[0].instances: must be a whole number, not "200"'),
        ({"series": None, "instances": None}, "[0]: must expect something: series, instances or descriptions"),
        ({"limit": 0}, "[0].limit: must be above 0 and at most 100 years, not 0"),
        ({"limit": "31d"}, '[0].limit: must be at most "30d", not "31d"'),
        ({"limit": "x"}, '[0].limit: must be seconds (a number, or digits) or like "90s", "30m", "1h", "2d", not "x"'),
        ({"serie": 3}, '[0].serie: is no field of a rule; did you mean "series"?'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_field(value: dict[str, Any], fault: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(json.dumps([{**BRAIN, **value}]))
    assert caught.value.faults == (fault,)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("{", "ends in the middle of line 1: it is only half written"),
        ("{}", "must be a list of rules, not an object"),
        ("[1]", "[0]: must be an object with the fields of a rule, not 1"),
        (b"\xff", "is not UTF-8 text (line 1); save it as UTF-8"),
        ("[" + ",".join(["{}"] * 1001) + "]", "has 1001 rules; 1000 is the most"),
    ],
)
def test_a_file_that_is_no_list_of_rules_is_told(text: str | bytes, fault: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text)
    assert str(caught.value) == fault


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RulesError, match=r"^\[0\].limit: is missing; every rule has it \(and 2 more\)$") as caught:
        parse_rules('[{"name": "a", "match": {"Modality": "MR"}}, {"name": "b", "match": {"Modality": "MR"}}, 3]')
    assert len(caught.value.faults) == 3


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(RulesError, match=r'\[1\].name: "MR brain" is the name of another rule'):
        parse_rules(json.dumps([BRAIN, BRAIN]))


def test_comments_and_a_schema_do_not_disturb() -> None:
    assert parse_rules(json.dumps([{**BRAIN, "$comment": "as agreed", "$schema": "x"}])) == parse_rules(
        json.dumps([BRAIN])
    )
    assert parse_rules("[]") == ()


# -- the schema


@pytest.mark.parametrize(
    "value",
    [
        {"name": ""},
        {"match": {}},
        {"match": {"Modality": 3}},
        {"match": {"Modality": []}},
        {"series": 0},
        {"limit": "soon"},
        {"limit": 31 * 86400},
        {"serie": 3},
        {"descriptions": [1]},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(value: dict[str, Any]) -> None:
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid([{**BRAIN, "$comment": "mine", "descriptions": ["a", "b"]}])
    assert not schema.is_valid([{**BRAIN, **value}])
    assert not schema.is_valid([{key: BRAIN[key] for key in ("name", "match", "limit")}])
    with pytest.raises(RulesError):
        parse_rules(json.dumps([{**BRAIN, **value}]))


def test_the_published_schema_is_that_of_the_model() -> None:
    """After a change, write it anew from the root of the checkout:

    python -c 'import json, dcm_processor.completeness as c; print(json.dumps(c.json_schema(), indent=2))'
    """
    published = Path(__file__).parents[3] / "docs" / "completeness.schema.json"
    assert published.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2) + "\n"

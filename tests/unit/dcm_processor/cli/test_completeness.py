"""`dcm-processor completeness check`: before a rule holds anything back, or while it does."""

import json
from pathlib import Path
from typing import Any

from tests.unit.dcm_processor.cli.conftest import Cli

RULE: dict[str, Any] = {"name": "MR", "match": {"Modality": "MR", "StationName": ["A*", "B"]}, "series": 3, "limit": 60}


def test_rules_that_are_right_are_shown_as_they_are_understood(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([{**RULE, "instances": 9, "descriptions": "*t1*"}]))
    said = cli.done("completeness", "check", file)
    assert said.splitlines()[1].split("\t") == [
        "MR",
        "Modality MR, StationName A* or B",
        '3 series, 9 instances, a series "*t1*"',
        "60 s",
    ]
    assert json.loads(cli.done("completeness", "check", file, "--json"))["rules"][0]["name"] == "MR"


def test_every_fault_is_a_line_with_file_field_and_reason(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([{**RULE, "limit": "x"}, {**RULE, "serie": 3}]))
    said = cli.refused("completeness", "check", file).splitlines()
    assert said[0].startswith("dcm-processor: rules.json: [0].limit: must be seconds ")
    assert said[1] == 'dcm-processor: rules.json: [1].serie: is no field of a rule; did you mean "series"?'
    assert len(said) == 2
    answer = cli("completeness", "check", file, "--json")
    assert (answer.exit_code, len(json.loads(answer.stdout)["faults"])) == (1, 2)


def test_without_a_name_the_rules_in_force_are_checked(cli: Cli, tmp_path: Path) -> None:
    assert cli.done("completeness", "check").splitlines() == ["RULE\tOF SERIES WITH\tAT LEAST\tFOR AT MOST"]
    place = cli.base / "rules" / "completeness.json"
    place.parent.mkdir(parents=True)
    place.write_text("[")
    assert "completeness.json: ends in the middle of line 1" in cli.refused("completeness", "check")
    assert "does not exist" in cli.refused("completeness", "check", tmp_path / "nowhere.json")

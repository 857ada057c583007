"""`dcm-processor secret`, with nothing running."""

import json

import pytest

from dcm_processor import basedir
from dcm_processor.settings import Settings
from tests.unit.dcm_processor.cli.conftest import Cli


@pytest.fixture
def settings(cli: Cli) -> Settings:
    """An installation that was started once, with a Redis of somebody else."""
    found = Settings.model_construct(BASEDIR=cli.base)
    basedir.prepare(found)
    return found


def texts(settings: Settings) -> dict[str, str]:
    return {name: settings.secret(name) for name in basedir.SECRETS}


def test_all_that_are_ours_are_rotated_and_what_is_left_to_do_is_said(cli: Cli, settings: Settings) -> None:
    before = texts(settings)
    result = cli("secret", "rotate")
    assert result.exit_code == 0
    after = texts(settings)
    assert {name for name in before if before[name] == after[name]} == {"redis_password"}
    assert result.stderr.startswith("redis_password: not rotated: Redis is not ours")
    assert f"hook_token: rotated; the new text is in {settings.secrets / 'hook_token'}\n  to do: " in result.stdout
    assert "dashboard again" in result.stdout
    assert not any(text in result.output for text in (*before.values(), *after.values()))


def test_to_name_one_that_is_not_ours_is_a_failure(cli: Cli, settings: Settings) -> None:
    assert cli("secret", "rotate", "redis_password", "hook_token").exit_code == 1
    assert "not ours" in cli.refused("secret", "rotate", "redis_password")


def test_a_name_that_is_none_is_wrong_usage(cli: Cli, settings: Settings) -> None:
    said = cli.refused("secret", "rotate", "hooktoken", status=2)
    assert said == "dcm-processor: 'hooktoken' is no secret; did you mean \"hook_token\"?\n"


def test_for_programs_there_is_json_without_a_value(cli: Cli, settings: Settings) -> None:
    before = texts(settings)
    said = json.loads(cli.done("secret", "rotate", "--json"))
    assert {each["name"]: each["ending"] for each in said} == {
        name: "not ours" if name == "redis_password" else "rotated" for name in basedir.SECRETS
    }
    assert {each["name"] for each in said if each["reason"]} == {"redis_password"}
    assert {each["name"] for each in said if not each["toDo"]} == {"redis_password"}
    assert not any(text in json.dumps(said) for text in (*before.values(), *texts(settings).values()))


def test_the_list_says_where_and_since_when_and_no_value(cli: Cli, settings: Settings) -> None:
    lines = cli.done("secret", "list").splitlines()
    assert lines[0].split("\t") == ["SECRET", "CHANGED", "FILE"]
    assert [line.split("\t")[0] for line in lines[1:]] == list(basedir.SECRETS)
    said = json.loads(cli.done("secret", "list", "--json"))
    assert said[0]["file"] == str(settings.secrets / "redis_password")
    assert said[0]["changedAt"].endswith("+00:00")
    assert not any(text in json.dumps(said) + "".join(lines) for text in texts(settings).values())


def test_before_the_first_start_there_are_none(cli: Cli) -> None:
    assert cli.done("secret", "list").splitlines() == ["SECRET\tCHANGED\tFILE"]
    assert json.loads(cli.done("secret", "list", "--json")) == []
    assert "the first start makes them" in cli.refused("secret", "rotate")

"""Passwords in the configuration of Redis and Orthanc: they change, and nothing else does."""

import json

import pytest

from dcm_processor import passwords
from dcm_processor.errors import SettingsError

REDIS_CONF = 'port 1\nrequirepass "old"\ndir "/some where"\nmaxmemory-policy noeviction\n'


def test_redis_conf_keeps_all_other_lines() -> None:
    assert passwords.with_requirepass(REDIS_CONF, "new") == REDIS_CONF.replace('"old"', '"new"')


@pytest.mark.parametrize("password", ['a"b', "back\\slash", r"\1 \g<0>", "ünicode", "  "])
def test_a_password_of_any_characters_is_quoted(password: str) -> None:
    line = passwords.with_requirepass(REDIS_CONF, password).splitlines()[1]
    assert line == passwords.requirepass(password)
    assert line.removeprefix("requirepass ")[1:-1].replace('\\"', '"').replace("\\\\", "\\") == password


def test_orthanc_json_keeps_all_else_and_users_of_ones_own() -> None:
    before = {"StableAge": 7, "RegisteredUsers": {"dcmproc": "a", "admin": "b", "mine": "c"}, "DicomAet": "X"}
    after = json.loads(passwords.with_users(json.dumps(before) + "\n\n", {"dcmproc": "d", "admin": "e"}))
    assert after == {**before, "RegisteredUsers": {"dcmproc": "d", "admin": "e", "mine": "c"}}
    assert list(after) == list(before)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"RegisteredUsers": null}', '{"RegisteredUsers": "x"}', "// no"]
)
def test_a_file_that_was_not_made_by_a_start_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="start it again"):
        passwords.with_users(text, {})
    with pytest.raises(SettingsError, match="start it again"):
        passwords.with_requirepass(text, "new")

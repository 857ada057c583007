"""How the configuration files of Redis and Orthanc say their passwords; values only."""

import json
import re
from collections.abc import Mapping

from dcm_processor.errors import SettingsError

ORTHANC_USERS: Mapping[str, str] = {"dcmproc": "orthanc_password", "admin": "orthanc_admin_password"}
"""Orthanc's users, and the secret that is the password of each."""


def redis_string(value: str) -> str:
    """As redis.conf quotes it."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def requirepass(password: str) -> str:
    """The line of redis.conf that says the password."""
    return f"requirepass {redis_string(password)}"


def with_requirepass(redis_conf: str, password: str) -> str:
    """A redis.conf with another password, and else as it is.

    Raises SettingsError where it has none.
    """
    changed, count = re.subn(r"^requirepass .*$", lambda _: requirepass(password), redis_conf, flags=re.MULTILINE)
    if not count:
        raise SettingsError("it says no requirepass; stop everything and start it again, which makes the file anew")
    return changed


def with_users(orthanc_json: str, passwords: Mapping[str, str]) -> str:
    """An orthanc.json with other passwords, by user, and else as it is.

    Raises SettingsError where it is not as it was made.
    """
    try:
        configuration = json.loads(orthanc_json)
        users = {**configuration["RegisteredUsers"], **passwords}
    except (ValueError, KeyError, TypeError):
        raise SettingsError(
            "it says no RegisteredUsers; stop everything and start it again, which makes the file anew"
        ) from None
    return json.dumps({**configuration, "RegisteredUsers": users}, indent=2) + "\n"

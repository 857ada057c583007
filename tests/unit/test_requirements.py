"""Each lock holds all that pyproject.toml names for it."""

import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0].lower().replace("_", "-") for each in requirements}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("containers", ["server"]), ("server", ["server", "local"]), ("dev", ["server", "local"])],
)
def test_a_lock_holds_what_it_is_for(lock: str, extras: list[str]) -> None:
    wanted = PROJECT["dependencies"] + [each for extra in extras for each in PROJECT["optional-dependencies"][extra]]
    text = (CHECKOUT / "requirements" / f"{lock}.txt").read_text()
    assert names(wanted) <= set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))

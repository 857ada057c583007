"""`pip install .` brings what the command line needs beside its code."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

from dcm_processor.environments.environment_key import DEFAULT_REQUIREMENTS
from dcm_processor.template import TEMPLATE

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_template_and_the_default_requirements_are_in_it() -> None:
    """They lie in the package by symlinks, and are of kinds that setuptools takes."""
    resources = CHECKOUT / "dcm_processor" / "resources"
    assert {resources} == {TEMPLATE.parent, DEFAULT_REQUIREMENTS.parent}
    assert TEMPLATE.samefile(CHECKOUT / "services" / "temp")
    assert DEFAULT_REQUIREMENTS.samefile(CHECKOUT / "requirements" / "service-default.txt")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    taken = ["*.py", *project["tool"]["setuptools"]["package-data"]["*"]]
    files = [DEFAULT_REQUIREMENTS, *(path for path in TEMPLATE.rglob("*") if path.is_file() and path.suffix != ".pyc")]
    assert len(files) == 8
    assert [path.name for path in files if not any(fnmatch(path.name, kind) for kind in taken)] == []

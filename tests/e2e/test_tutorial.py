"""docs/services.md, done word for word as its reader does it: files, commands, and what they print."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from dcm_processor.local.processes import marked
from dcm_processor.settings import CHECKOUT
from tests.e2e.test_local_mode import Installation
from tests.tutorial import Command, File, Shell, matches, steps

SECONDS = 200.0
"""How long one command may take."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A reader's shell in the checkout, with a home, BASEDIR and ports of its own."""
    installation = Installation(tmp_path / "basedir")
    cache = subprocess.run([find_uv_bin(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, **installation.settings, "HOME": str(home), "UV_CACHE_DIR": cache, "LC_ALL": "C"}
    shell = Shell(CHECKOUT, env)
    try:
        yield shell
    finally:
        shell.close()
        installation.down()
        assert marked(installation.basedir) == []


def test_the_tutorial_does_what_it_says(shell: Shell) -> None:
    done = list(steps((CHECKOUT / "docs" / "services.md").read_text()))
    for step in done:
        match step:
            case File():
                path = shell.folder / step.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text)
            case Command():
                status, printed = shell.run(step.text, SECONDS)
                where = f"docs/services.md, line {step.line}: {step.text}"
                assert status == 0, f"{where}\nended with {status}\n{printed}"
                assert matches(step.expected, printed), (
                    f"{where}\nshould print\n{step.expected}\nand printed\n{printed}"
                )
    assert sum(isinstance(step, Command) for step in done) > 20

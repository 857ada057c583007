"""docs/services.md, done word for word as its reader does it: files, commands, and what they print."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.local.processes import marked
from dcm_processor.settings import CHECKOUT
from tests.e2e.test_local_mode import Installation
from tests.tutorial import Shell

SECONDS = 200.0
"""How long one command may take."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A reader's shell in the checkout, with a home, BASEDIR and ports of its own."""
    installation = Installation(tmp_path / "basedir")
    shell = installation.shell(tmp_path / "home")
    try:
        yield shell
    finally:
        shell.close()
        installation.down()
        assert marked(installation.basedir) == []


def test_the_tutorial_does_what_it_says(shell: Shell) -> None:
    document = "docs/services.md"
    assert shell.follow((CHECKOUT / document).read_text(), document, SECONDS) > 20

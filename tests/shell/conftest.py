"""Checkouts for the tests of the scripts."""

from pathlib import Path

import pytest

from tests.shell.checkout import Checkout


@pytest.fixture
def bare(tmp_path: Path) -> Checkout:
    """The scripts as they are after a clone, in a folder whose name has a space."""
    return Checkout(tmp_path / "a checkout")


@pytest.fixture
def ready(bare: Checkout) -> Checkout:
    """The same with the Python environment in place."""
    return bare.with_environment()

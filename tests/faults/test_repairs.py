"""Each repair of the controller is needed: without it the oracle finds what it is for."""

from collections.abc import Iterator

import pytest

from tests.faults.controller import WITHOUT
from tests.faults.repairs import Repairs
from tests.faults.stand import Stand


@pytest.fixture(scope="module")
def repairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repairs]:
    with Stand(tmp_path_factory.mktemp("repairs") / "run", workers=1) as stand:
        yield Repairs(stand)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_without_it_the_oracle_finds_something_and_with_it_nothing(repairs: Repairs, name: str) -> None:
    shown = repairs.show(name)
    assert shown.without
    assert shown.repaired == []

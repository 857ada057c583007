"""A short run of tests/faults; the long one is started by hand (CONTRIBUTING.md)."""

from pathlib import Path

import pytest

from tests.faults import campaign
from tests.faults.stand import Stand

SEED, STUDIES, FAULTS = 7, 24, 20


@pytest.mark.timeout(600)
def test_under_faults_nothing_is_lost_doubled_or_unexplained(tmp_path: Path) -> None:
    with Stand(tmp_path / "run", workers=2) as stand:
        result = campaign.drawn(stand, SEED, STUDIES, FAULTS, print).run()
    assert [str(finding) for finding in result.findings] == []
    assert result.sent == STUDIES
    hit, struck = result.hits
    assert hit >= 0.8 * struck, [f"{strike.fault}: {strike.doing}" for strike in result.strikes]

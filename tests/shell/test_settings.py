"""The scripts read a setting as the programs do."""

import pytest

from dcm_processor.settings import Settings
from tests.shell.checkout import Checkout

LINES = {
    "plain": "PIP_INDEX_URL=https://mirror.example.org/simple",
    "with spaces": "PIP_INDEX_URL = https://mirror.example.org/simple ",
    "double quotes": 'PIP_INDEX_URL="https://mirror.example.org/simple" # ours',
    "single quotes": "PIP_INDEX_URL='https://mirror.example.org/simple'",
    "comment": "PIP_INDEX_URL=https://mirror.example.org/simple # ours",
    "a hash within": "PIP_INDEX_URL=https://mirror.example.org/#simple",
    "export": "export PIP_INDEX_URL=https://mirror.example.org/simple",
    "twice": "PIP_INDEX_URL=https://old.example.org\nPIP_INDEX_URL=https://mirror.example.org/simple",
    "another key": "NOT_PIP_INDEX_URL=https://old.example.org\n#PIP_INDEX_URL=https://old.example.org",
    "empty": "PIP_INDEX_URL=",
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES.keys())
def test_a_line_means_the_same_to_scripts_and_programs(
    bare: Checkout, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    (bare.folder / ".env.local").write_text(lines + "\n")
    done = bare.bash("source sh/settings.sh; setting PIP_INDEX_URL")
    assert done.stdout.strip() == (Settings.load(bare.folder).PIP_INDEX_URL or "")


def test_the_environment_wins_over_env_local_and_that_over_env(bare: Checkout) -> None:
    (bare.folder / ".env").write_text("TZ=first\nNO_PROXY=first\nWHEEL_DIR=first\n")
    (bare.folder / ".env.local").write_text("TZ=second\nNO_PROXY=second\n")
    done = bare.bash("source sh/settings.sh; setting TZ; setting NO_PROXY; setting WHEEL_DIR", TZ="third")
    assert done.stdout.split() == ["third", "second", "first"]

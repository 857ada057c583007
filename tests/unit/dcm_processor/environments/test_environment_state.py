"""How the environments of a service stand, by what lies under envs."""

import fcntl
from pathlib import Path

import pytest

from dcm_processor.environments.environment_key import recipe
from dcm_processor.environments.environment_state import (
    EnvironmentState,
    Failed,
    held,
    least,
    state_of,
    states_of,
    tail_of,
)
from dcm_processor.settings import Settings

KEY = "0123456789abcdef"


def test_a_failure_stays_until_it_is_forgotten(tmp_path: Path) -> None:
    failed = Failed("No solution found", passing=False, at=1.5)
    failed.write(tmp_path, KEY)
    assert Failed.read(tmp_path, KEY) == failed
    assert state_of(tmp_path, KEY) == EnvironmentState("failed", KEY, "No solution found")
    Failed.forget(tmp_path, KEY)
    Failed.forget(tmp_path, KEY)
    assert state_of(tmp_path, KEY) == EnvironmentState("none", KEY)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"reason": "x"}', '{"reason": "x", "other": 1}'])
def test_what_is_no_record_of_a_failure_says_nothing(tmp_path: Path, text: str) -> None:
    """As a full disk leaves it."""
    (tmp_path / f"{KEY}.failed").write_text(text)
    assert Failed.read(tmp_path, KEY) is None


def test_a_disk_that_takes_no_record_is_no_error(tmp_path: Path) -> None:
    Failed("x", passing=True, at=0.0).write(tmp_path / "not there", KEY)


def test_each_python_that_jobs_ask_for_has_an_environment_and_the_least_of_them_counts(tmp_path: Path) -> None:
    settings, module = Settings(BASEDIR=tmp_path), tmp_path / "module"
    module.mkdir()
    (module / "requirements.txt").write_text("")
    ready = settings.envs / recipe(settings, module, "v").key
    ready.mkdir(parents=True)
    (ready / "complete.json").write_text("{}")
    states = states_of(settings, module, "v", [None, "3.99", None])
    assert [each.state for each in states] == ["ready", "none"]
    assert least(states) == states[1]
    assert least([]) is None


def test_requirements_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (state,) = states_of(Settings(BASEDIR=tmp_path), _unreadable(tmp_path), "v", [None])
    assert (state.state, state.key) == ("unknown", None)
    assert "its requirements cannot be read" in str(state.reason)


def _unreadable(folder: Path) -> Path:
    """A module whose lock is a loop of symlinks where it is opened, and a file where it is looked at."""
    module = folder / "module"
    module.mkdir()
    (module / "requirements.txt").write_text("")
    (module / "script.sh").write_text("")
    (module / "requirements.lock").symlink_to("/proc/self/mem")
    return module


def test_a_lock_that_is_shared_is_held_exclusively_by_nobody(tmp_path: Path) -> None:
    """As by workers, each of which says that it is there."""
    path = tmp_path / "lock"
    assert not held(path)
    with path.open("w") as first:
        assert not held(path, exclusively=True)
        fcntl.flock(first, fcntl.LOCK_SH)
        assert (held(path), held(path, exclusively=True)) == (False, True)
        fcntl.flock(first, fcntl.LOCK_EX)
        assert (held(path), held(path, exclusively=True)) == (True, True)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail_of(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert tail_of(log).splitlines()[-1] == "line 999"
    assert len(tail_of(log).splitlines()) == 40

"""What a lock is made from, when it is used again, and what of it becomes part of a version."""

from pathlib import Path

import pytest

from dcm_processor.environments import requirements_lock
from dcm_processor.environments.requirements_lock import Lock, Locks, oldest_python, put, stamp_of
from dcm_processor.errors import ServiceError
from dcm_processor.settings import Settings


@pytest.fixture
def module(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "requirements.txt").write_text("tiny\n")
    return folder


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locks:
    """With no uv: what has to be resolved comes back with a warning."""
    monkeypatch.setattr(requirements_lock.uv_program, "binary", _none)
    return Locks(Settings(BASEDIR=tmp_path / "base"), {})


def _none() -> str:
    raise ServiceError("no uv here")


def locked(module: Path, body: str = "tiny==1.0\n") -> bytes:
    return f"# locked by dcm-processor at install: {stamp_of(module, '3.11')}\n{body}".encode()


def test_where_no_lock_can_be_made_a_warning_says_why(locks: Locks, module: Path) -> None:
    lock = locks.make(module, None, "3.11")
    assert (lock.text, lock.warning) == (None, "its versions are not locked, hosts may differ: no uv here")


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_where_nothing_is_required_nothing_is_locked(locks: Locks, module: Path, text: str) -> None:
    (module / "requirements.txt").write_text(text)
    assert locks.make(module, None, "3.11") == Lock("3.11", stamp_of(module, "3.11"))


def test_the_current_versions_lock_is_used_again_while_the_requirements_are_the_same(
    locks: Locks, module: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    text = locked(module)
    (before / "requirements.lock").write_bytes(text)
    assert locks.make(module, before, "3.11").text == text
    assert locks.make(module, before, "3.12").text is None
    assert Locks(locks.settings, {}, upgrade=True).make(module, before, "3.11").text is None
    (module / "requirements.txt").write_text("tiny<2\n")
    assert locks.make(module, before, "3.11").text is None


def test_a_lock_in_the_source_comes_before_the_current_versions(locks: Locks, module: Path, tmp_path: Path) -> None:
    """So a backup comes back with the versions that it was made with, unless its requirements were changed since."""
    before = tmp_path / "before"
    before.mkdir()
    (before / "requirements.lock").write_bytes(locked(module, "tiny==2.0\n"))
    (module / "requirements.lock").write_bytes(text := locked(module))
    assert locks.make(module, before, "3.11").text == text
    (module / "requirements.txt").write_text("tiny<2\n")
    assert locks.make(module, before, "3.11").text is None


def test_an_authors_own_lock_is_taken_as_it_is(locks: Locks, module: Path) -> None:
    (module / "requirements.lock").write_bytes(b"tiny==0.9\n")
    for each in (locks, Locks(locks.settings, {}, upgrade=True)):
        assert each.make(module, None, "3.11").text == b"tiny==0.9\n"


def test_a_lock_of_other_requirements_does_not_stay(locks: Locks, module: Path) -> None:
    """Jobs would go on with the old ones."""
    (module / "requirements.lock").write_bytes(locked(module))
    (module / "requirements.txt").write_text("other\n")
    put(module, locks.make(module, None, "3.11"))
    assert not (module / "requirements.lock").exists()


def test_requirements_that_change_while_they_are_installed_are_refused(module: Path) -> None:
    lock = Lock("3.11", stamp_of(module, "3.11"), b"tiny==1.0\n")
    (module / "requirements.txt").write_text("other\n")
    with pytest.raises(ServiceError, match="install it again"):
        put(module, lock)


def test_a_lock_does_not_follow_a_symlink_out_of_the_version(module: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (module / "requirements.lock").symlink_to(outside)
    put(module, Lock("3.11", stamp_of(module, "3.11"), b"tiny==1.0\n"))
    assert (outside.read_text(), (module / "requirements.lock").read_text()) == ("precious", "tiny==1.0\n")


def test_files_that_requirements_name_count(module: Path) -> None:
    """But not what is left out of a version, nor the lock itself."""
    (module / "requirements.txt").write_text("-r more.txt\n")
    (module / "more.txt").write_text("tiny\n")
    first = stamp_of(module, "3.11")
    (module / "requirements.lock").write_text("x")
    (module / "__pycache__").mkdir()
    (module / "__pycache__" / "x.pyc").write_text("x")
    assert stamp_of(module, "3.11") == first
    (module / "more.txt").write_text("tiny==2\n")
    assert stamp_of(module, "3.11") != first


def test_a_lock_has_to_do_for_the_oldest_python() -> None:
    assert oldest_python(["3.12", "3.9", "3.10.4"]) == "3.9"
    assert oldest_python(["3.99", None]) != "3.99"

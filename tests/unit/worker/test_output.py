"""A job's output folder, whatever the function made of it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dcm_processor.service_tree import remove
from tests.unit.dcm_processor.test_service_tree import nest
from worker import output


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of what was had on the disk."""
    names: set[str] = set()
    fsync: Callable[[int], None] = os.fsync

    def note(opened: int) -> None:
        names.add(Path(f"/proc/self/fd/{opened}").readlink().name)
        fsync(opened)

    monkeypatch.setattr(os, "fsync", note)
    return names


def test_all_of_it_is_on_the_disk(tmp_path: Path, synced: set[str]) -> None:
    (tmp_path / "inner" / "innermost").mkdir(parents=True)
    (tmp_path / "inner" / "image.nii").write_text("x")
    (tmp_path / "inner" / "link").symlink_to("image.nii")
    os.mkfifo(tmp_path / "pipe")
    output.keep(tmp_path)
    assert synced == {tmp_path.name, "inner", "innermost", "image.nii"}


def test_what_is_on_the_disk_already_is_left_alone_unless_it_changed_since(tmp_path: Path, synced: set[str]) -> None:
    for folder, file in (("old", "same"), ("old", "longer"), ("new", "more")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text("x")
    kept = output.keep(tmp_path)
    synced.clear()
    with (tmp_path / "old" / "longer").open("a") as file_:
        file_.write("y")
    (tmp_path / "new" / "another").write_text("x")
    output.keep(tmp_path, kept)
    assert synced == {"longer", "new", "another"}


def test_a_link_in_place_of_the_output_is_not_followed(tmp_path: Path, synced: set[str]) -> None:
    """A function that is still there may have put it there."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("x")
    (tmp_path / "output").symlink_to("elsewhere")
    assert output.keep(tmp_path / "output") == {}
    assert synced == set()


def test_what_takes_a_files_place_meanwhile_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has nobody who writes to it, and a job's process that is still there may make one."""
    for name in "123":
        (tmp_path / name).write_text("x")

    def replace(_opened: int) -> None:
        for path in tmp_path.iterdir():
            path.unlink()
            os.mkfifo(path)

    monkeypatch.setattr(os, "fsync", replace)
    output.keep(tmp_path)


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_what_takes_its_own_place_is_left_alone(
    tmp_path: Path, synced: set[str], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "output")
    assert output.keep(tmp_path / "output") == {}
    assert synced == set()


def test_what_lies_too_deep_keeps_nothing_else_from_it(tmp_path: Path, synced: set[str]) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "image.nii").write_text("x")
    nest(tmp_path / "deep", 600)
    try:
        output.keep(tmp_path)
    finally:
        remove(tmp_path / "deep")  # which pytest could not
    assert "image.nii" in synced


def test_a_disk_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_opened: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        output.keep(tmp_path)

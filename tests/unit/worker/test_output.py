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

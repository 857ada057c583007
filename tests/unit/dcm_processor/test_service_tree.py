"""Folders that go, whatever a job made of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.service_tree import remove


def nest(folder: Path, depth: int) -> None:
    """Folders within folders, with a file in each; the innermost path is far too long for the system."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.mkdir("a-folder", dir_fd=at)
        inner = os.open("a-folder", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def test_a_folder_goes_however_deep_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for branch in ("one", "two"):
        (folder / branch).mkdir(parents=True)
        nest(folder / branch, 1500)
    remove(folder)
    assert list(tmp_path.iterdir()) == []


def test_modes_keep_nothing_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    folder = tmp_path / "folder"
    (folder / "closed" / "inner" / "innermost").mkdir(parents=True)
    (folder / "closed" / "inner" / "file").write_text("goes")
    (folder / "closed" / "inner" / "link").symlink_to(outside)
    (folder / "link").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    for closed in (folder / "closed" / "inner" / "innermost", folder / "closed" / "inner", folder / "closed", folder):
        closed.chmod(0)
    remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "file").read_text() == "stays"


def test_what_died_in_the_middle_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step: whatever was brought up until then is still in the folder, and goes."""
    for step in range(40):
        folder = tmp_path / str(step)
        (folder / "a" / "b" / "c").mkdir(parents=True)
        (folder / "a" / "d").mkdir()
        for place in (folder, folder / "a", folder / "a" / "b" / "c"):
            (place / "file").touch()
        left = [step]

        def dying(action: Callable[..., None], left: list[int] = left) -> Callable[..., None]:
            def act(*parts: Any, **named: Any) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                action(*parts, **named)

            return act

        with monkeypatch.context() as patch:
            for name in ("unlink", "rename", "rmdir"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                remove(folder)
            except KeyboardInterrupt:
                pass
            else:
                break
        remove(folder)
        assert not folder.exists()
    assert 5 < step < 39


@pytest.mark.parametrize("kind", ["nothing", "file", "link"])
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    place, other = tmp_path / "place", tmp_path / "other"
    other.mkdir()
    if kind == "file":
        place.touch()
    elif kind == "link":
        place.symlink_to(other)
    with pytest.raises(OSError, match="place"):
        remove(place)
    assert other.is_dir()


def test_where_a_symlink_in_a_folders_place_leads_stays_as_it_was(tmp_path: Path) -> None:
    """A job may put one in the place of its own folders; the modes of what it leads to are none of ours to change."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").touch()
    target.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="link"):
        remove(link)
    assert target.stat().st_mode & 0o777 == 0o755
    assert (target / "file").exists()

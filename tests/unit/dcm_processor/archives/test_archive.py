"""What of a folder travels to another host, and that it arrives as it was."""

import io
import os
import socket
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from dcm_processor.archives import archive
from dcm_processor.archives.archive import BLOCK, DEPTH, Contents, Extent, pack, survey
from dcm_processor.archives.unpacking import unpack
from dcm_processor.errors import ArchiveCutError, ArchiveError

ROOMY = Extent(1000, 1 << 30)


def travel(folder: Path, target: Path, **more: bool) -> Contents:
    contents = survey({"": folder}, ROOMY)
    unpack(pack(contents), target, ROOMY, **more)
    return contents


def tree(folder: Path) -> dict[str, object]:
    """Every path below: None for a folder, the target of a symlink, else content and whether it is executable."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "deep" / "deeper").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "file.txt").write_text("text")
    (made / "nothing").touch()
    (made / "deep" / "deeper" / "big").write_bytes(os.urandom(3 * BLOCK + 7))
    (made / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (made / "deep" / "run.sh").chmod(0o4777)
    (made / "deep" / "up").symlink_to("../file.txt")
    (made / "latest").symlink_to("deep/deeper")
    (made / ("n" * 200)).write_text("a long name")
    (made / "Befund für Ärzte\n").write_text("an odd name")
    (made / os.fsdecode(b"not-\xff-utf8")).write_text("an odder one")
    return made


@pytest.mark.parametrize("durable", [False, True])
def test_all_of_a_folder_arrives(folder: Path, tmp_path: Path, durable: bool) -> None:
    contents = travel(folder, tmp_path / "came", durable=durable)
    assert tree(tmp_path / "came") == tree(folder)
    assert contents == Contents({"": folder}, 12, 3 * BLOCK + 7 + 4 + 10 + 11 + 11 + 12, ())


def test_an_empty_folder_arrives(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    travel(tmp_path / "empty", tmp_path / "came")
    assert list((tmp_path / "came").iterdir()) == []


def test_named_folders_arrive_under_their_names(folder: Path, tmp_path: Path) -> None:
    contents = survey({"registry": folder / "deep", "module": folder / "empty"}, ROOMY)
    assert contents.left_out == ("registry/up",)  # it leads out of the part
    unpack(pack(contents), tmp_path / "came", ROOMY)
    assert sorted(path.name for path in (tmp_path / "came").iterdir()) == ["module", "registry"]
    assert (tmp_path / "came" / "registry" / "run.sh").exists()


def test_of_modes_only_executable_arrives(folder: Path, tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        travel(folder, tmp_path / "came")
    finally:
        os.umask(umask)
    modes = {name: (tmp_path / "came" / name).stat().st_mode & 0o7777 for name in ("deep", "deep/run.sh", "file.txt")}
    assert modes == {"deep": 0o750, "deep/run.sh": 0o750, "file.txt": 0o640}


def test_what_cannot_travel_is_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "deep" / "absolute").symlink_to("/etc/passwd")
    (folder / "deep" / "out").symlink_to("../../elsewhere")
    (folder / "deep" / "nowhere").symlink_to("missing")
    (folder / "deep" / "round").symlink_to("round")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(folder)  # a socket's address has little room
        listening.bind("socket")
    contents = travel(folder, tmp_path / "came")
    left_out = ("deep/absolute", "deep/nowhere", "deep/out", "deep/round", "pipe", "socket")
    assert contents.left_out == left_out
    assert not {*left_out} & {*tree(tmp_path / "came")}


def test_it_is_a_tar_that_others_read(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack(survey({"": folder}, ROOMY))))) as tar:
        assert {os.fsencode(name) for name in tar.getnames()} == {os.fsencode(name) for name in tree(folder)}


@pytest.mark.parametrize("limits", [Extent(11, 1 << 30), Extent(1000, 3 * BLOCK)])
def test_more_than_may_travel_is_refused_before_anything_is_sent(folder: Path, limits: Extent) -> None:
    with pytest.raises(ArchiveError, match="cannot be sent to another host"):
        survey({"": folder}, limits)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    tmp_path.joinpath(*["d"] * DEPTH).mkdir(parents=True)
    with pytest.raises(ArchiveError, match="deep"):
        survey({"": tmp_path}, ROOMY)
    (tmp_path / "less").joinpath(*["d"] * (DEPTH - 2)).mkdir(parents=True)
    travel(tmp_path / "less", tmp_path / "came")


@pytest.mark.parametrize("change", ["more", "less", "longer", "shorter", "a pipe", "a symlink"])
def test_a_folder_that_changes_on_the_way_is_never_taken_for_whole(folder: Path, tmp_path: Path, change: str) -> None:
    contents = survey({"": folder}, ROOMY)
    big = folder / "deep" / "deeper" / "big"
    match change:
        case "more":
            (folder / "new").touch()
        case "less":
            (folder / "nothing").unlink()
        case "longer":
            big.write_bytes(bytes(4 * BLOCK))
        case "shorter":
            big.write_bytes(b"")
        case "a pipe":
            big.unlink()
            os.mkfifo(big)
        case "a symlink":
            big.unlink()
            big.symlink_to("../../file.txt")
    with pytest.raises(ArchiveCutError):
        unpack(pack(contents), tmp_path / "came", ROOMY)
    assert not (tmp_path / "came").exists()


def test_a_file_that_shrinks_while_it_is_read_cuts_the_archive(folder: Path) -> None:
    big = folder / "deep" / "deeper" / "big"
    big.write_bytes(bytes(20 * BLOCK))
    blocks = pack(survey({"": folder}, ROOMY))
    next(blocks)
    os.truncate(big, 0)
    with pytest.raises(ArchiveCutError):
        list(blocks)


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        survey({"": tmp_path / "gone"}, ROOMY)


def test_a_symlink_in_the_folders_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        survey({"": tmp_path / "link"}, ROOMY)


def test_no_more_than_a_few_blocks_are_ever_in_memory(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "big").open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    tracemalloc.start()
    try:
        travel(tmp_path / "folder", tmp_path / "came")
        assert tracemalloc.get_traced_memory()[1] < 16 * BLOCK
    finally:
        tracemalloc.stop()


def test_limits_of_what_we_send_ourselves_allow_what_an_install_allows() -> None:
    from dcm_processor import service_tree

    assert archive.VERSION.size >= 2 * service_tree.MAX_BYTES
    assert archive.VERSION.entries >= 2 * service_tree.MAX_FILES

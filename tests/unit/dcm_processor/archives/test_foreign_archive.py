"""Archives that others made: taken with what they should hold, refused whole with what they should not."""

import gzip
import io
import os
import random
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from dcm_processor.archives import foreign_archive
from dcm_processor.archives.foreign_archive import unpack
from dcm_processor.errors import ArchiveError


def tar(path: Path, *entries: tarfile.TarInfo | tuple[str, bytes], format_: int = tarfile.PAX_FORMAT) -> Path:
    mode = "w" if path.name.endswith(".tar") else "w:gz"
    with tarfile.open(path, mode, format=format_) as made:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                made.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                made.addfile(info, io.BytesIO(entry[1]))
    return path


def zip_(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in entries:
            made.writestr(name, content, compress_type=method)
    return path


def special(name: str, kind: bytes, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def zipped(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def refused(path: Path, match: str) -> None:
    target = path.parent / "target"
    with pytest.raises(ArchiveError, match=match):
        unpack(path, target)
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]


def test_a_zip_of_windows_may_have_backslashes_for_slashes(tmp_path: Path) -> None:
    """PowerShell's Compress-Archive writes it so. What comes from elsewhere may have them in a name."""
    for system, made in ((0, ["lung", "lung/registry", "lung/registry/a.json"]), (3, [r"lung\registry\a.json"])):
        info = zipfile.ZipInfo("lung/registry/a.json")
        info.filename, info.create_system = r"lung\registry\a.json", system
        target = tmp_path / f"target-{system}"
        unpack(zip_(tmp_path / f"a-{system}.zip", (info, b"{}")), target)
        assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == made
    info.filename, info.create_system = r"..\evil", 0
    with pytest.raises(ArchiveError, match="leads out"):
        unpack(zip_(tmp_path / "evil.zip", (info, b"{}")), tmp_path / "target")


def test_what_macos_adds_to_an_archive_is_left_out(tmp_path: Path) -> None:
    entries = [("lung/a.py", b"x"), ("lung/._a.py", b"\0\5\26\7"), ("._lung", b"\0"), ("__MACOSX/lung/._a.py", b"\0")]
    for archive in (tar(tmp_path / "a.tar.gz", *entries), zip_(tmp_path / "a.zip", *entries)):
        target = tmp_path / f"target-{archive.suffix}"
        unpack(archive, target)
        assert [path for path in target.rglob("*") if path.is_file()] == [target / "lung" / "a.py"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
def test_what_the_usual_tools_pack_comes_out_the_same(tmp_path: Path, name: str) -> None:
    """GNU tar and zip: long names, symlinks, modes, empty folders."""
    source = tmp_path / "source" / "lung"
    (source / "empty").mkdir(parents=True)
    long = "x" * 120
    for path, content in {
        "registry/a.json": b"{}",
        f"{long}/{long}": b"long",
        "module/run": b"#!",
        "big": b"z" * 10**6,
    }.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    (source / "module" / "run").chmod(0o755)
    (source / "module" / "link").symlink_to("run")
    (tmp_path / "a").mkdir()
    archive = tmp_path / "a" / name
    if name == "a.zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for path in sorted(source.rglob("*")):
                inside = str(path.relative_to(source.parent))
                if path.is_symlink():
                    made.writestr(zipped(inside, stat.S_IFLNK | 0o777), os.readlink(path))  # noqa: PTH115 - as text
                else:
                    made.write(path, inside)
    else:
        subprocess.run(["tar", "caf", archive, "-C", source.parent, "."], check=True, timeout=60)
    unpack(archive, tmp_path / "target")
    assert subprocess.run(["diff", "-r", source.parent, tmp_path / "target"], check=False, timeout=60).returncode == 0
    assert (tmp_path / "target" / "lung" / "module" / "link").is_symlink()
    assert (tmp_path / "target" / "lung" / "module" / "run").stat().st_mode & stat.S_IXUSR


NAMES = ["../x", "a/../../x", "/etc/x", "a//../x", "..", "a/./b/../../../x"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "z" / "a.zip", tmp_path / "t" / "a.tar.gz"):
        path.parent.mkdir()
    refused(zip_(tmp_path / "z" / "a.zip", (zipped(name, 0o644), b"x")), "leads out of it")
    refused(tar(tmp_path / "t" / "a.tar.gz", (name, b"x")), "leads out of it")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE, b"Z"])
def test_devices_pipes_and_hard_links_are_refused(tmp_path: Path, kind: bytes) -> None:
    refused(tar(tmp_path / "a.tar", ("x", b""), special("y", kind, "x")), "only files, folders and symlinks")


def test_a_device_or_an_encrypted_file_in_a_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(zip_(tmp_path / "a" / "a.zip", (zipped("x", stat.S_IFCHR | 0o644), b"")), "neither a file")
    (tmp_path / "b").mkdir()
    path = zip_(tmp_path / "b" / "b.zip", ("x", b"secret"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


def test_nothing_is_written_through_a_symlink(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = special("a", tarfile.SYMTYPE, str(outside))
    for number, entries in enumerate([(link, ("a/x", b"x")), (("a/x", b"x"), link)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        refused(tar(folder / "a.tar", *entries), "cannot be made")
    assert list(outside.iterdir()) == []


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path / "a.tar", ("x", b"1"), ("x", b"2")), "comes twice")


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_archive, "FREE", 1024**2)
    zeros = bytes(50 * 1024**2)
    for name, make in {"a.zip": zip_, "a.tgz": tar}.items():
        folder = tmp_path / name
        folder.mkdir()
        refused(make(folder / name, ("x", zeros)), "more than 200 times its own size")  # type: ignore[operator]


def test_what_shrinks_a_little_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_archive, "FREE", 1024)
    unpack(zip_(tmp_path / "a.zip", ("x", random.Random(1).randbytes(10_000) * 20)), tmp_path / "target")
    assert (tmp_path / "target" / "x").stat().st_size == 200_000


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_archive, "LIMITS", foreign_archive.archive.Extent(3, 1024**3))
    entries = [(f"{number}", b"") for number in range(4)]
    for name, make in {"a.zip": zip_, "a.tar": tar}.items():
        folder = tmp_path / name
        folder.mkdir()
        refused(make(folder / name, *entries), "more than a service may be")  # type: ignore[operator]


def test_a_header_that_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    """A pax header that says it is 8 GB, of zeros that shrink to nothing."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 1024**3
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as made:
        made.write(info.tobuf(tarfile.GNU_FORMAT))
        made.write(bytes(1024**2 * 4))
    refused(path, "header of an impossible size")


def test_a_zip_s_directory_that_says_it_is_huge_is_refused_unread(tmp_path: Path) -> None:
    path = zip_(tmp_path / "a.zip", ("x", b""))
    content = path.read_bytes()
    at = content.rindex(b"PK\x05\x06")
    end_64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**6, 10**6, 10**9, 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1)
    path.write_bytes(content[:at] + end_64 + locator + content[at:])
    refused(path, "more than a service may be")


def test_a_method_that_wants_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    refused(zip_(tmp_path / "a.zip", ("x", b"x" * 100), method=zipfile.ZIP_LZMA), "another method than deflate")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_wherever_an_archive_is_cut_or_changed_it_is_refused_or_the_same(tmp_path: Path, name: str) -> None:
    """No other exception, and never a part for the whole."""
    make = zip_ if name == "a.zip" else tar
    entries = [(f"d/{number}", random.Random(number).randbytes(700)) for number in range(3)]
    whole = make(tmp_path / name, *entries).read_bytes()  # type: ignore[operator]
    chance, step = random.Random(7), max(1, len(whole) // 150)
    damaged = [whole[:at] for at in range(0, len(whole) - 1, step)]
    for _ in range(300):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] = chance.randrange(256)
        damaged.append(bytes(changed))
    (tmp_path / "x").mkdir()
    for number, content in enumerate(damaged):
        path = tmp_path / "x" / name
        path.write_bytes(content)
        target = tmp_path / "out" / str(number)
        target.parent.mkdir(exist_ok=True)
        try:
            unpack(path, target)
        except ArchiveError:
            assert not target.exists()
        else:
            if len(content) < len(whole):
                assert {p.name: p.read_bytes() for p in (target / "d").iterdir()} == {
                    each.removeprefix("d/"): data for each, data in entries
                }


def test_no_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", lambda fd, *_, **__: Full(fd, "wb"))
    with pytest.raises(OSError, match="No space left"):
        unpack(zip_(tmp_path / "a.zip", ("x", b"x")), tmp_path / "target")
    assert not (tmp_path / "target").exists()

"""An archive from somebody who is not believed: it becomes a folder of its own, or nothing at all."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcm_processor.archives import unpacking
from dcm_processor.archives.archive import DEPTH, Extent, pack, survey
from dcm_processor.archives.unpacking import unpack
from dcm_processor.errors import ArchiveCutError, ArchiveError

ROOMY = Extent(1000, 1 << 30)
END = bytes(1024)


def counted(entries: int, size: int = 0) -> bytes:
    return tarfile.TarInfo.create_pax_global_header({"DCMPROC.entries": str(entries), "DCMPROC.size": str(size)})


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", **more: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.pax_headers = kind, len(content), link, more
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def folder(name: str) -> bytes:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> bytes:
    return entry(name, tarfile.SYMTYPE, link=target)


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    """Unpack, see the refusal, and that nothing came of it anywhere."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")

    def check(*parts: bytes, entries: int, size: int = 0, error: type[Exception] = ArchiveError) -> None:
        with pytest.raises(error):
            unpack([counted(entries, size), *parts, END], tmp_path / "came", ROOMY)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["outside", "precious"]
        assert (tmp_path / "outside" / "precious").read_text() == "precious"

    return check


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "//etc/passwd", "../outside/precious", "a/../../outside/precious", "..", ".", "a/./b", "./a", "",
        "a//b", "/", "n" * 256, "/".join(["d"] * (DEPTH + 2)), "/".join(["d" * 200] * 25),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_names_that_lead_elsewhere(refused: Callable[..., None], name: str, kind: bytes) -> None:
    refused(folder("a"), entry(name, kind, link="a"), entries=2)


def test_a_name_that_only_its_extended_header_has(refused: Callable[..., None]) -> None:
    refused(entry("harmless", path="../outside/precious"), entries=1)
    refused(entry("harmless", path="a\0b"), entries=1)


@pytest.mark.parametrize(
    "kind",
    [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE,
     tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, b"Z"],
)  # fmt: skip
def test_neither_devices_nor_hard_links_nor_anything_odd(refused: Callable[..., None], kind: bytes) -> None:
    refused(entry("precious"), entry("odd", kind, link="precious"), entries=2)


@pytest.mark.parametrize(
    "links",
    [
        [link("out", "../outside")],
        [link("out", "/etc/passwd")],
        [link("nowhere", "missing")],
        [link("round", "round")],
        [link("one", "two"), link("two", "one")],
        # each stays inside as text, both together do not
        [folder("a"), folder("a/b"), link("a/b/up", ".."), link("out", "a/b/up/../../outside")],
        [link("nul", "a\0b")],
        [link("empty", "")],
        [link("long", "x" * 5000)],
    ],
)
def test_symlinks_that_lead_out(refused: Callable[..., None], links: list[bytes]) -> None:
    refused(*links, entries=len(links))


def test_nothing_is_written_through_a_symlink(refused: Callable[..., None]) -> None:
    refused(link("a", "../outside"), entry("a/precious", content=b"evil"), entries=2, size=4)
    refused(folder("b"), link("a", "b"), entry("a/file", content=b"evil"), entries=3, size=4)


def test_a_symlink_that_somebody_puts_there_meanwhile_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()

    def parts() -> Iterator[bytes]:
        yield counted(2, 4)
        yield folder("a")
        (tmp_path / "came" / "a").rmdir()
        (tmp_path / "came" / "a").symlink_to(tmp_path / "outside")
        yield entry("a/file", content=b"evil")
        yield END

    with pytest.raises(ArchiveError):
        unpack(parts(), tmp_path / "came", ROOMY)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_name_that_comes_twice(refused: Callable[..., None], kind: bytes) -> None:
    refused(entry("same", content=b"one"), entry("same", kind, link="."), entries=2, size=3)


def test_a_file_in_a_folder_that_did_not_come(refused: Callable[..., None]) -> None:
    refused(entry("missing/file"), entries=1)
    refused(entry("file"), entry("file/below"), entries=2)


def test_numbers_that_do_not_hold(refused: Callable[..., None]) -> None:
    refused(entry("a"), entry("b"), entries=1)
    refused(entry("a", content=b"1234"), entries=1, size=3)
    refused(entry("a"), entries=2, error=ArchiveCutError)
    refused(entry("a", content=b"1234"), entries=1, size=5, error=ArchiveCutError)
    refused(entry("a", size="-1"), entries=1)
    refused(entry("a", size="1e3"), entries=1)
    refused(entry("a", size="9" * 40), entries=1)


def test_more_than_the_limits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for entries, size in ((1001, 0), (1, ROOMY.size + 1)):
        with pytest.raises(ArchiveError, match="is not taken"):
            unpack([counted(entries, size)], tmp_path / "came", ROOMY)


def test_what_this_disk_has_no_room_for_is_refused_at_once(tmp_path: Path) -> None:
    huge = Extent(10, 10**18)
    with pytest.raises(OSError, match="No space left"):
        unpack([counted(1, 10**18 - 1)], tmp_path / "came", huge)
    assert not (tmp_path / "came").exists()


@pytest.mark.parametrize(
    "data",
    [
        entry("a") + END,  # an archive of somebody else's
        END,
        b"GIF89a" + bytes(1018),
        b"\x1f\x8b" + bytes(2000),
        os.urandom(4096),
        tarfile.TarInfo.create_pax_global_header({"comment": "no counts"}) + END,
        counted(-1) + END,
        tarfile.TarInfo.create_pax_global_header({"DCMPROC.entries": "٣", "DCMPROC.size": "0"}) + END,
        counted(1) + counted(1) + END,
    ],
)
def test_what_is_no_archive_of_ours(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArchiveError):
        unpack([data], tmp_path / "came", ROOMY)
    assert not (tmp_path / "came").exists()


@pytest.mark.parametrize("records", [b"x", b"99 a=b\n", b"6 a=b\n\n", b"0 a=b\n", b"5 ab\n", b"-1 a=b\n", b"6 a=b"])
def test_extended_headers_that_cannot_be_read(refused: Callable[..., None], records: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    refused(info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512), entry("a"), entries=1)


def test_an_extended_header_of_any_size_is_not_read_into_memory(refused: Callable[..., None]) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    refused(info.tobuf(tarfile.USTAR_FORMAT), entries=1)


def test_an_archive_that_goes_on_after_its_end(refused: Callable[..., None]) -> None:
    refused(entry("a"), END, bytes(1 << 20), entries=1)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    made = tmp_path / "whole"
    (made / "folder").mkdir(parents=True)
    (made / "folder" / "file").write_bytes(os.urandom(700))
    (made / "link").symlink_to("folder/file")
    return b"".join(pack(survey({"": made}, ROOMY)))


def test_wherever_a_stream_ends_early_nothing_is_left(whole: bytes, tmp_path: Path) -> None:
    """Between two entries too, where Python's tarfile sees nothing wrong."""
    for length in range(0, len(whole) - 1024, 128):
        with pytest.raises(ArchiveCutError):
            unpack([whole[:length]], tmp_path / "came", ROOMY)
        assert not (tmp_path / "came").exists()


def test_a_stream_that_breaks_leaves_nothing(whole: bytes, tmp_path: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield whole[:2048]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(breaking(), tmp_path / "came", ROOMY)
    assert not (tmp_path / "came").exists()


@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
def test_it_comes_in_pieces_of_any_size(whole: bytes, tmp_path: Path, size: int) -> None:
    assert unpack(in_pieces(whole, size), tmp_path / "came", ROOMY) == Extent(3, 700)
    assert (tmp_path / "came" / "link").read_bytes() == (tmp_path / "whole" / "folder" / "file").read_bytes()


def test_what_is_there_already_stays(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "came").mkdir()
    (tmp_path / "came" / "mine").touch()
    with pytest.raises(FileExistsError):
        unpack([whole], tmp_path / "came", ROOMY)
    assert (tmp_path / "came" / "mine").exists()


def test_a_file_larger_than_a_tar_header_can_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 8 GiB: the size stands in an extended header. Nothing is really written here."""
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "file").open("wb") as file:
        file.truncate(9 * 1024**3)
    first = next(pack(survey({"": tmp_path / "large"}, Extent(1, 1 << 40))))
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 50))
    with pytest.raises(ArchiveCutError):
        unpack([first], tmp_path / "came", Extent(1, 1 << 40))
    with pytest.raises(ArchiveError, match="is not taken"):
        unpack([first], tmp_path / "came", Extent(1, 8 * 1024**3))

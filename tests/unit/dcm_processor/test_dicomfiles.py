"""What is found in files, folders and archives; what is left out or rejected, and with which words."""

import os
import stat
import zipfile
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dcm_processor import dicomfiles
from dcm_processor.dicomfiles import DicomFile, Found, Reader, find_dicom
from dcm_processor.errors import PermanentError, UsageError
from tests.dicom import make_study


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    return make_study(tmp_path / "made", [{"Modality": "MR", "instances": 1}]).files[0]


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def plain(path: Path) -> Dataset:
    """The elements alone, without a header or an encoding."""
    dataset = Dataset()
    dataset.update(dcmread(path))
    return dataset


def read(file: DicomFile) -> Dataset:
    with Reader() as reader:
        return reader.read(file)


def reasons(found: Found) -> dict[str, str]:
    return {Path(refusal.name.rpartition(":")[2]).name: refusal.reason for refusal in found.rejected}


def left_out(found: Found) -> dict[str, str]:
    return {Path(refusal.name.rpartition(":")[2]).name: refusal.reason for refusal in found.left_out}


class TestFolders:
    def test_are_searched_at_any_depth_in_order_of_name_whatever_files_are_called(
        self, tmp_path: Path, instance: Path
    ) -> None:
        for name in ("b/2", "a/deep/er/1.dcm", "c.ima"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(instance.read_bytes())
        seen = []
        found = find_dicom([tmp_path / "in"], lambda: seen.append(1))
        assert [Path(file.name).name for file in found.files] == ["c.ima", "1.dcm", "2"]
        assert len(seen) == 3
        assert not found.left_out
        assert not found.rejected

    def test_leave_out_what_is_no_dicom(self, tmp_path: Path, instance: Path) -> None:
        """A README or a DICOMDIR in the folder is no fault of the folder."""
        (instance.parent / "README.txt").write_text("hello")
        (instance.parent / "empty").touch()
        index = dcmread(instance)
        index.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
        index.save_as(instance.parent / "DICOMDIR")
        found = find_dicom([instance.parent])
        assert [file.path for file in found.files] == [instance]
        assert not found.rejected
        assert left_out(found) == {
            "README.txt": "not DICOM",
            "empty": "empty",
            "DICOMDIR": "a DICOMDIR: an index of other files",
        }

    def test_reject_what_calls_itself_dicom_and_is_not(self, tmp_path: Path, instance: Path) -> None:
        (instance.parent / "broken.dcm").write_text("hello")
        (instance.parent / "nothing.DCM").touch()
        assert reasons(find_dicom([instance.parent])) == {"broken.dcm": "not DICOM", "nothing.DCM": "empty"}

    def test_do_not_hang_on_pipes_nor_follow_links_to_folders(self, tmp_path: Path, instance: Path) -> None:
        os.mkfifo(instance.parent / "pipe")
        (instance.parent / "loop").symlink_to(instance.parent)
        (instance.parent / "linked").symlink_to(instance)
        found = find_dicom([instance.parent])
        assert len(found.files) == 2
        assert left_out(found) == {"pipe": "not a regular file", "loop": "a link to a folder"}

    def test_say_what_cannot_be_read(self, tmp_path: Path, instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_args: object, **_keywords: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        assert reasons(find_dicom([instance.parent])) == {instance.name: "cannot be read: Permission denied"}


class TestFiles:
    def test_that_are_named_and_no_dicom_are_rejected(self, tmp_path: Path) -> None:
        """Who names a file means it."""
        (tmp_path / "notes.txt").write_text("hello")
        assert reasons(find_dicom([tmp_path / "notes.txt"])) == {"notes.txt": "not DICOM"}

    def test_that_do_not_exist_are_a_wrong_usage(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="nowhere does not exist"):
            find_dicom([tmp_path / "nowhere"])

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
    def test_keep_their_transfer_syntax(self, tmp_path: Path, instance: Path, syntax: UID) -> None:
        dataset = plain(instance)
        del dataset.PixelData
        dataset.file_meta = dcmread(instance).file_meta
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
        (file,) = find_dicom([tmp_path / "x.dcm"]).files
        assert file.transfer_syntax == syntax
        assert file.is_sendable_as_is
        assert file.sop_class == dataset.SOPClassUID

    @pytest.mark.parametrize("implicit", [True, False])
    def test_without_preamble_and_header_are_bare_datasets(
        self, tmp_path: Path, instance: Path, implicit: bool
    ) -> None:
        """As old archives keep them."""
        dataset = plain(instance)
        dataset.save_as(tmp_path / "bare", implicit_vr=implicit, little_endian=True)
        (file,) = find_dicom([tmp_path / "bare"]).files
        assert file.transfer_syntax.is_implicit_VR == implicit
        assert not file.is_sendable_as_is
        again = read(file)
        assert again.SOPInstanceUID == dataset.SOPInstanceUID
        assert again.file_meta.TransferSyntaxUID == file.transfer_syntax

    def test_whose_header_has_gaps_are_known_by_their_dataset(self, tmp_path: Path, instance: Path) -> None:
        dataset = dcmread(instance)
        del dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.save_as(tmp_path / "gaps.dcm")
        (file,) = find_dicom([tmp_path / "gaps.dcm"]).files
        assert (file.sop_class, file.is_sendable_as_is) == (dataset.SOPClassUID, False)

    def test_whose_header_names_another_instance_are_known_by_their_dataset(
        self, tmp_path: Path, instance: Path
    ) -> None:
        """As some anonymisers leave them; peers refuse a dataset that is not what its C-STORE announces."""
        dataset = dcmread(instance)
        dataset.SOPInstanceUID = "1.2.3"
        dataset.save_as(tmp_path / "other.dcm")
        (file,) = find_dicom([tmp_path / "other.dcm"]).files
        assert (file.sop_class, file.is_sendable_as_is) == (dataset.SOPClassUID, False)
        assert read(file).SOPInstanceUID == "1.2.3"

    def test_without_transfer_syntax_or_uids_are_damaged(self, tmp_path: Path, instance: Path) -> None:
        (tmp_path / "cut.dcm").write_bytes(instance.read_bytes()[:140])
        dataset = dcmread(instance)
        del dataset.file_meta.MediaStorageSOPInstanceUID, dataset.SOPInstanceUID
        dataset.save_as(tmp_path / "nameless.dcm")
        found = find_dicom([tmp_path / "cut.dcm", tmp_path / "nameless.dcm"])
        assert all(reason.startswith("damaged: ") for reason in reasons(found).values())
        assert len(found.rejected) == 2

    @pytest.mark.parametrize(
        "junk", [b"\x08\x00", b"\x08\x00\x05\x00CS", b"\x02\x00" + b"\xff" * 500, b"\x08\x00" * 3000]
    )
    def test_that_only_begin_like_dicom_are_not_dicom(self, tmp_path: Path, junk: bytes) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "junk").write_bytes(junk)
        found = find_dicom([tmp_path / "in"])
        assert not found.files
        assert len(found.left_out) + len(found.rejected) == 1

    def test_reasons_quote_no_element(self, tmp_path: Path, instance: Path, recwarn: pytest.WarningsRecorder) -> None:
        """Neither do warnings: pydicom's would show the value."""
        content = instance.read_bytes()
        (tmp_path / "x.dcm").write_bytes(content.replace(b"1.2.840.10008", b"SECRET^NAME^1"))
        found = find_dicom([tmp_path / "x.dcm"])
        assert "SECRET" not in str(found.rejected)
        assert not recwarn.list


class TestArchives:
    def test_members_are_found_and_read(self, tmp_path: Path, instance: Path) -> None:
        archive = zipped(tmp_path / "s.zip", {"s/1": instance.read_bytes(), "s/notes.txt": b"hello"})
        found = find_dicom([tmp_path / "s.zip"])
        (file,) = found.files
        assert file.name == f"{archive}:s/1"
        assert read(file).SOPInstanceUID == dcmread(instance).SOPInstanceUID
        assert left_out(found) == {"notes.txt": "not DICOM"}

    def test_in_folders_are_opened_when_they_are_called_zip(self, tmp_path: Path, instance: Path) -> None:
        """A .docx is a zip archive too; nobody means its members."""
        (tmp_path / "in").mkdir()
        zipped(tmp_path / "in" / "s.zip", {"1": instance.read_bytes()})
        zipped(tmp_path / "in" / "letter.docx", {"word.xml": b"<x/>"})
        found = find_dicom([tmp_path / "in"])
        assert [file.member for file in found.files] == ["1"]
        assert left_out(found) == {"letter.docx": "not DICOM"}

    @pytest.mark.parametrize("name", ["../up.dcm", "/etc/x.dcm", "a/../../x.dcm", "C:\\x.dcm", "..\\x.dcm"])
    def test_members_whose_names_lead_out_are_refused(self, tmp_path: Path, instance: Path, name: str) -> None:
        found = find_dicom([zipped(tmp_path / "s.zip", {name: instance.read_bytes(), "good": instance.read_bytes()})])
        assert [file.member for file in found.files] == ["good"]
        assert [refusal.reason for refusal in found.rejected] == ["refused: its name leaves the archive"]

    def test_links_and_archives_in_archives_are_left_out(self, tmp_path: Path, instance: Path) -> None:
        inner = zipped(tmp_path / "inner.zip", {"1": instance.read_bytes()})
        with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
            link = zipfile.ZipInfo("link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
            archive.write(inner, "inner.zip")
        assert left_out(find_dicom([tmp_path / "s.zip"])) == {
            "link": "a link",
            "inner.zip": "an archive within the archive: unpack it first",
        }

    def test_a_bomb_is_refused_by_its_own_figures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dicomfiles, "ARCHIVE_FREE", 1 << 20)
        archive = zipped(tmp_path / "s.zip", {"zeros.dcm": bytes(8 << 20)})
        assert "as a zip bomb does" in reasons(find_dicom([archive]))["s.zip"]

    def test_overlapping_members_are_refused(self, tmp_path: Path) -> None:
        """The trick of the small bombs: many entries of the directory share one member's bytes."""
        zipped(tmp_path / "s.zip", {"a": os.urandom(100_000)})
        with zipfile.ZipFile(tmp_path / "s.zip", "a") as archive:
            archive.filelist += [archive.filelist[0]] * 5
            archive._didModify = True  # type: ignore[attr-defined]
        assert "overlap" in reasons(find_dicom([tmp_path / "s.zip"]))["s.zip"]

    def test_a_member_that_is_larger_than_it_says_is_cut_off(
        self, tmp_path: Path, instance: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = zipped(tmp_path / "s.zip", {"1": instance.read_bytes() + bytes(100_000)})
        (file,) = find_dicom([archive]).files
        monkeypatch.setattr(dicomfiles, "MEMBER_LIMIT", 50_000)
        with pytest.raises(PermanentError, match="unpacks to more than 50,000 bytes"):
            read(file)
        assert "larger than 50,000 bytes" in reasons(find_dicom([archive]))["1"]

    def test_broken_and_encrypted_ones_are_said(self, tmp_path: Path, instance: Path) -> None:
        (tmp_path / "cut.zip").write_bytes(zipped(tmp_path / "s.zip", {"1": instance.read_bytes()}).read_bytes()[:200])
        content = bytearray((tmp_path / "s.zip").read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
        (tmp_path / "locked.zip").write_bytes(content)
        found = find_dicom([tmp_path / "cut.zip", tmp_path / "locked.zip"])
        assert reasons(found)["cut.zip"].startswith("not a usable zip archive")
        assert reasons(found)["1"].startswith("encrypted")

    def test_a_member_with_wrong_bytes_is_rejected_alone(self, tmp_path: Path, instance: Path) -> None:
        archive = zipped(tmp_path / "s.zip", {"1": instance.read_bytes(), "2": instance.read_bytes()})
        content = bytearray(archive.read_bytes())
        content[60:90] = bytes(30)
        archive.write_bytes(content)
        found = find_dicom([archive])
        assert [file.member for file in found.files] == ["2"]
        assert reasons(found)["1"].startswith("cannot be unpacked")


def test_a_file_that_is_gone_when_it_is_to_be_read_is_said(instance: Path) -> None:
    (file,) = find_dicom([instance]).files
    instance.unlink()
    with pytest.raises(PermanentError, match="cannot be read: No such file"):
        read(file)

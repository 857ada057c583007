"""What a DICOM element's value becomes in JSON, whatever the file holds."""

import io
import json
import logging
import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_store
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import DSdecimal

from dcm_processor.elements import BULK_BYTES, dataset_values, element_value, read_dataset, text_of

PYDICOM_DATA = (Path(pydicom.__file__).parent / "data", Path(next(iter(data_store.__path__))))
REAL_FILES = sorted(
    path
    for root in PYDICOM_DATA
    for path in root.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc", ".json", ".txt", ".md")
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """pydicom warns about what these files have wrong; that is not what is tested."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def element(tag: int, vr: str, value: bytes) -> bytes:
    """An element in explicit VR little endian."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def file_of(*elements: bytes, syntax: str = ExplicitVRLittleEndian) -> io.BytesIO:
    """A file with these elements, byte for byte."""
    syntax_uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, "UI", syntax_uid)
    return io.BytesIO(
        b"\0" * 128 + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + b"".join(elements)
    )


def values_of(*elements: bytes, syntax: str = ExplicitVRLittleEndian) -> dict[str, Any]:
    values = dataset_values(read_dataset(file_of(*elements, syntax=syntax)), None)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    return {keyword: value for keyword, value in values.items() if keyword != "TransferSyntaxUID"}


def saved(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """The dataset as it comes back from a file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=False)
    return read_dataset(io.BytesIO(file.getvalue()))


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b"1.5 ", 1.5),
            (b" -1e-3", -0.001),
            (b"+.5", 0.5),
            (b"5.", 5.0),
            (b"512", 512.0),
            (b"", None),
            (b"  ", None),
            (b"abc ", "abc"),
            (b"0,5 ", "0,5"),
            (b"1 000", "1 000"),
            (b"nan ", "nan"),
            (b"inf ", "inf"),
            (b"1e999 ", "1e999"),
            (b"1_0 ", "1_0"),
            (b"0x10", "0x10"),
            (b"1.5\0", 1.5),
            (b"1.5\\2 ", [1.5, 2.0]),
            (b"1\\abc\\\\3", [1.0, "abc", None, 3.0]),
        ],
    )
    def test_ds(self, text: bytes, value: Any) -> None:
        """A float; what is no finite decimal number stays the string it is; an empty one is None."""
        found = values_of(element(0x00180050, "DS", text))["SliceThickness"]
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b"12", 12),
            (b"-7", -7),
            (b"+7", 7),
            (b"007 ", 7),
            (b"1.5 ", 1.5),
            (b"1.0 ", 1),
            (b"1e2 ", 100),
            (b"", None),
            (b"abc ", "abc"),
            (b"1\\2 ", [1, 2]),
            (b"9" * 50, int("9" * 50)),
            (b"9" * 5000, "9" * 5000),
        ],
    )
    def test_is(self, text: bytes, value: Any) -> None:
        """An int; a number with a fraction stays that number."""
        found = values_of(element(0x00200013, "IS", text))["InstanceNumber"]
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
    def test_binary_numbers_in_every_byte_order(self, syntax: str) -> None:
        dataset = Dataset()
        dataset.Rows = 512  # US
        dataset.ReferencedFrameNumbers = [1, 2]  # US, several
        dataset.TagAngleSecondAxis = -5  # SS
        dataset.SimpleFrameList = [70000, 1]  # UL
        dataset.ReferencePixelX0 = -70000  # SL
        dataset.DisplayedAreaTopLeftHandCorner = [-1, 2]  # SL, several
        dataset.ExtendedOffsetTableLengths = None  # OV
        dataset.DiffusionBValue = 1000.5  # FD
        dataset.RecommendedDisplayFrameRateInFloat = 0.5  # FL
        values = dataset_values(saved(dataset, syntax), None)
        del values["TransferSyntaxUID"]
        assert values == {
            "Rows": 512,
            "ReferencedFrameNumbers": [1, 2],
            "TagAngleSecondAxis": -5,
            "SimpleFrameList": [70000, 1],
            "ReferencePixelX0": -70000,
            "DisplayedAreaTopLeftHandCorner": [-1, 2],
            "DiffusionBValue": 1000.5,
            "RecommendedDisplayFrameRateInFloat": 0.5,
        }

    def test_nan_and_infinity_are_no_json_numbers(self) -> None:
        packed = struct.pack("<3d", math.nan, math.inf, -1.0)
        assert values_of(element(0x00189087, "FD", packed)) == {"DiffusionBValue": ["nan", "inf", -1.0]}

    @pytest.mark.parametrize(("value", "shown"), [(b"512", "512"), (b"\x01\x02\x03", "0x010203"), (b"12 ", "12")])
    def test_a_binary_number_of_a_wrong_length(self, value: bytes, shown: str) -> None:
        """Some write numbers as text there; otherwise the bytes are shown as they are."""
        raw = RawDataElement(Tag(0x00280010), "US", len(value), value, 0, False, True)
        assert str(element_value(raw)) == shown

    def test_pixel_representation_decides_on_us_or_ss(self) -> None:
        """In implicit VR the file does not say (PS3.5 A.1)."""
        smallest = struct.pack("<HHI", 0x0028, 0x0106, 2) + b"\xff\xff"
        for signed, value in ((0, 65535), (1, -1)):
            representation = struct.pack("<HHI", 0x0028, 0x0103, 2) + struct.pack("<H", signed)
            found = values_of(representation, smallest, syntax=ImplicitVRLittleEndian)
            assert found["SmallestImagePixelValue"] == value

    def test_the_first_value_of_a_lut_descriptor_is_never_negative(self) -> None:
        """PS3.3 C.11.1.1: the number of entries."""
        assert values_of(element(0x00283002, "SS", struct.pack("<3h", -1, -5, 16))) == {
            "LUTDescriptor": [65535, -5, 16]
        }

    def test_a_number_under_a_vr_for_text_is_a_number(self) -> None:
        """Files from careless writers: the dictionary knows better than the file."""
        found = values_of(
            element(0x00180050, "LO", b"1.5 "), element(0x00200013, "SH", b"7 "), element(0x00280010, "LO", b"512 ")
        )
        assert found == {"SliceThickness": 1.5, "InstanceNumber": 7, "Rows": 512}


class TestText:
    def test_dates_times_names_and_uids_are_strings_even_if_they_are_junk(self) -> None:
        found = values_of(
            element(0x00080018, "UI", b"1.2.3\0"),
            element(0x00080020, "DA", b"yesterday "),
            element(0x00080030, "TM", b"101010.5"),
            element(0x00100010, "PN", b"Doe^Jane "),
            element(0x00101010, "AS", b"045Y"),
        )
        assert found == {
            "SOPInstanceUID": "1.2.3",
            "StudyDate": "yesterday",
            "StudyTime": "101010.5",
            "PatientName": "Doe^Jane",
            "PatientAge": "045Y",
        }

    def test_several_values_are_a_list_and_empty_ones_stay(self) -> None:
        found = values_of(
            element(0x00080008, "CS", b"DERIVED \\PRIMARY\\\\AXIAL "),
            element(0x0008103E, "LO", b"T1"),
            element(0x00081090, "LO", b""),
        )
        assert found == {
            "ImageType": ["DERIVED", "PRIMARY", "", "AXIAL"],
            "SeriesDescription": "T1",
            "ManufacturerModelName": "",
        }

    def test_a_backslash_is_a_character_of_long_texts(self) -> None:
        found = values_of(element(0x00080119, "UC", b"a\\b "), element(0x00104000, "LT", rb"C:\temp "))
        assert found == {"LongCodeValue": ["a", "b"], "PatientComments": r"C:\temp"}

    def test_nul_and_lone_surrogates_never_reach_a_database(self) -> None:
        """PostgreSQL refuses U+0000 in JSON, UTF-8 refuses surrogates."""
        assert values_of(element(0x0008103E, "LO", b"a\0b ")) == {"SeriesDescription": "a\ufffdb"}
        assert element_value(DataElement(Tag(0x0008103E), "LO", "a\ud800b")) == "a\ufffdb"


class TestCharacterSets:
    """PS3.3 C.12.1.1.2, PS3.5 6.1 and its annexes H to K."""

    def name(self, charset: bytes, name: bytes) -> Any:
        charset += b" " * (len(charset) % 2)
        return values_of(element(0x00080005, "CS", charset), element(0x00100010, "PN", name))["PatientName"]

    def test_latin1(self) -> None:
        assert self.name(b"ISO_IR 100", b"M\xfcller^J\xfcrgen") == "Müller^Jürgen"

    def test_utf8(self) -> None:
        expected = "Wang^XiaoDong=王^小东="
        assert self.name(b"ISO_IR 192", expected.encode()) == "Wang^XiaoDong=王^小东"

    def test_japanese(self) -> None:
        """The example of PS3.5 H.3.1."""
        found = self.name(
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        )
        assert found == "Yamada^Tarou=山田^太郎=やまだ^たろう"

    def test_japanese_with_half_width_katakana(self) -> None:
        """The example of PS3.5 H.3.2."""
        found = self.name(
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        )
        assert found == "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"

    @pytest.mark.parametrize(
        "kanji", ["そ", "ソ", "申", "十", "\N{FULLWIDTH REVERSE SOLIDUS}", "\N{FULLWIDTH LATIN SMALL LETTER C}"]
    )
    def test_japanese_whose_bytes_look_like_separators(self, kanji: str) -> None:
        """Bytes of ISO 2022 IR 87 may be 0x3D, 0x5C and 0x5E: no `=`, backslash or `^`."""
        encoded = kanji.encode("iso2022_jp")
        assert self.name(b"\\ISO 2022 IR 87", b"Sou^Ta=" + encoded + b"^" + encoded) == f"Sou^Ta={kanji}^{kanji}"
        charset = element(0x00080005, "CS", b"\\ISO 2022 IR 87 ")
        found = values_of(charset, element(0x0008103E, "LO", encoded + b"\\" + encoded))
        assert found["SeriesDescription"] == [kanji, kanji]

    def test_korean(self) -> None:
        """The example of PS3.5 I.2: the escape sequence reaches to the next `^` or `=`."""
        found = self.name(
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        )
        assert found == "Hong^Gildong=洪^吉洞=홍^길동"

    def test_chinese_whose_second_byte_is_a_backslash(self) -> None:
        word = b"\x90\x5c".decode("gb18030")
        charset = element(0x00080005, "CS", b"GB18030 ")
        description = element(0x0008103E, "LO", f"{word}\\{word} ".encode("gb18030"))
        assert values_of(charset, description)["SeriesDescription"] == [word, word]

    def test_no_character_set_is_latin1_and_a_wrong_one_loses_no_ascii(self) -> None:
        assert self.name(b"", b"M\xfcller") == "Müller"
        assert self.name(b"NO SUCH ", b"Doe^Jane") == "Doe^Jane"
        assert self.name(b"ISO_IR 192", b"M\xfcller") == "M\ufffdller"

    def test_codes_in_the_wrong_repertoire_are_read_in_the_files_own(self) -> None:
        charset = element(0x00080005, "CS", b"ISO_IR 192")
        assert values_of(charset, element(0x00180015, "CS", "SCHÄDEL".encode()))["BodyPartExamined"] == "SCHÄDEL"

    def test_items_of_a_sequence_take_the_character_set_around_them(self) -> None:
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        item = Dataset()
        item.CodeMeaning = "Schädel"
        dataset.ProcedureCodeSequence = [item]
        assert dataset_values(saved(dataset), ["ProcedureCodeSequence"]) == {
            "ProcedureCodeSequence": [{"CodeMeaning": "Schädel"}]
        }

    @pytest.mark.parametrize(
        "path", [p for p in map(str, get_charset_files()) if p.endswith(".dcm")], ids=lambda p: Path(p).name
    )
    def test_as_pydicom_reads_its_examples(self, path: str) -> None:
        expected = str(pydicom.dcmread(path).get("PatientName", ""))
        assert text_of(read_dataset(io.BytesIO(Path(path).read_bytes())), "PatientName") == expected


class TestShapes:
    def test_missing_is_no_key_and_empty_is_empty(self) -> None:
        dataset = Dataset()
        dataset.PatientName, dataset.SliceThickness, dataset.Rows, dataset.ProcedureCodeSequence = "", None, None, []
        dataset.FrameIncrementPointer = None
        values = dataset_values(
            saved(dataset), ["PatientName", "SliceThickness", "Rows", "ProcedureCodeSequence", "KVP"]
        )
        assert values == {"PatientName": "", "SliceThickness": None, "Rows": None, "ProcedureCodeSequence": []}

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    def test_sequences_are_lists_of_dicts(self, syntax: str) -> None:
        """As in an enhanced multi-frame image (PS3.3 C.7.6.16)."""
        measures = Dataset()
        measures.PixelSpacing = [0.5, 0.5]
        shared = Dataset()
        shared.PixelMeasuresSequence = [measures]
        dataset = Dataset()
        dataset.NumberOfFrames = 3
        dataset.SharedFunctionalGroupsSequence = [shared]
        values = dataset_values(saved(dataset, syntax), ["NumberOfFrames", "SharedFunctionalGroupsSequence"])
        assert values == {
            "NumberOfFrames": 3,
            "SharedFunctionalGroupsSequence": [{"PixelMeasuresSequence": [{"PixelSpacing": [0.5, 0.5]}]}],
        }

    def test_attribute_tags_are_hexadecimal(self) -> None:
        assert values_of(element(0x00280009, "AT", bytes.fromhex("54001000"))) == {"FrameIncrementPointer": "00540010"}
        assert values_of(element(0x00280009, "AT", bytes.fromhex("540010005400ab00"))) == {
            "FrameIncrementPointer": ["00540010", "005400AB"]
        }
        assert values_of(element(0x00280009, "AT", bytes.fromhex("5400"))) == {"FrameIncrementPointer": "0x5400"}

    def test_bulk_private_and_group_lengths_are_left_out(self) -> None:
        found = values_of(
            element(0x00080000, "UL", b"\x04\0\0\0"),
            element(0x00080060, "CS", b"MR"),
            element(0x00090010, "LO", b"ACME"),
            element(0x00091001, "LO", b"secret"),
            element(0x00281201, "OW", b"\0\0"),
            element(0x00420011, "OB", b"%PDF"),
            element(0x0008103E, "UT", b"x" * (BULK_BYTES + 2)),
        )
        assert found == {"Modality": "MR"}

    def test_un_is_read_by_the_dictionary(self) -> None:
        """A relay that does not know an element stores it as UN (PS3.5 6.2.2)."""
        meaning = struct.pack("<HHI", 0x0008, 0x0104, 4) + b"Head"
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(meaning)) + meaning
        found = values_of(
            element(0x0008103E, "UN", b"T1"), element(0x00081032, "UN", item), element(0x00280010, "UN", b"\0\x02")
        )
        assert found == {"SeriesDescription": "T1", "ProcedureCodeSequence": [{"CodeMeaning": "Head"}], "Rows": 512}

    def test_a_vr_that_does_not_exist_is_read_by_the_dictionary(self) -> None:
        assert values_of(element(0x0008103E, "ZZ", b"T1"))["SeriesDescription"] == "T1"

    def test_a_broken_sequence_is_left_out(self) -> None:
        found = values_of(element(0x00080060, "CS", b"MR"), element(0x00081032, "SQ", b"\x01\x02\x03\x04junk"))
        assert found["Modality"] == "MR"

    def test_sequences_without_end_are_cut(self) -> None:
        dataset = Dataset()
        for _ in range(100):
            outer = Dataset()
            outer.ContentSequence = Sequence([dataset])
            dataset = outer
        assert len(json.dumps(dataset_values(dataset, None))) < 2000

    def test_the_first_of_repeating_groups_stands_for_all(self) -> None:
        found = values_of(element(0x60000010, "US", b"\x01\0"), element(0x60020010, "US", b"\x02\0"))
        assert found == {"OverlayRows": 1}

    def test_the_file_meta_information_counts(self) -> None:
        dataset = read_dataset(file_of(element(0x00080060, "CS", b"MR")))
        assert dataset_values(dataset, ["TransferSyntaxUID"]) == {"TransferSyntaxUID": ExplicitVRLittleEndian}

    def test_datasets_made_in_python(self) -> None:
        """Elements that pydicom has converted, of every kind that it makes."""
        dataset = Dataset()
        dataset.PatientName = "Yamada^Tarou=山田^太郎"
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.SliceThickness = DSdecimal("1.5")
        dataset.PixelSpacing = ["0.5", "0.25"]
        dataset.InstanceNumber = "7"
        dataset.FrameIncrementPointer = 0x00540010
        dataset.DiffusionBValue = math.nan
        assert dataset_values(dataset, None) == {
            "ImageType": ["ORIGINAL", "PRIMARY"],
            "PatientName": "Yamada^Tarou=山田^太郎",
            "SliceThickness": 1.5,
            "InstanceNumber": 7,
            "FrameIncrementPointer": "00540010",
            "DiffusionBValue": "nan",
            "PixelSpacing": [0.5, 0.25],
        }

    def test_only_what_is_selected_and_unknown_words_are_nothing(self) -> None:
        dataset = read_dataset(file_of(element(0x00080060, "CS", b"MR"), element(0x0008103E, "LO", b"T1")))
        assert dataset_values(dataset, ["Modality", "NoSuchKeyword", "KVP", ""]) == {"Modality": "MR"}

    def test_text_of_the_first_value(self) -> None:
        dataset = Dataset()
        dataset.ImageType, dataset.SeriesNumber, dataset.SeriesDescription = ["A", "B"], 5, ""
        texts = [text_of(dataset, word) for word in ("ImageType", "SeriesNumber", "SeriesDescription", "KVP")]
        assert texts == ["A", "5", "", ""]


class TestReading:
    def test_it_stops_at_the_pixel_data(self) -> None:
        class Counted(io.BytesIO):
            furthest = 0

            def read(self, size: int | None = -1) -> bytes:
                data = super().read(size)
                self.furthest = max(self.furthest, self.tell())
                return data

        pixels = element(0x7FE00010, "OW", b"\0" * 1_000_000)
        file = Counted(file_of(element(0x00080060, "CS", b"MR"), pixels).getvalue())
        assert dataset_values(read_dataset(file), ["Modality"]) == {"Modality": "MR"}
        assert file.furthest < 1000

    def test_what_stands_before_a_fault_is_kept(self) -> None:
        """Sequences nested deeper than Python can follow, say, or a file that ends too early."""
        nested = b"\x08\0\x32\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 2000
        found = values_of(element(0x00080060, "CS", b"MR"), nested)
        assert found["Modality"] == "MR"
        whole = file_of(element(0x00080060, "CS", b"MR"), element(0x00080070, "LO", b"ACME")).getvalue()
        assert dataset_values(read_dataset(io.BytesIO(whole[:-2])), ["Modality"]) == {"Modality": "MR"}

    @pytest.mark.parametrize("content", [b"", b"not DICOM at all", b"\0" * 200, b"\0" * 128 + b"DICM", b"\xff" * 4096])
    def test_what_is_no_dicom_has_no_elements_worth_showing(self, content: bytes) -> None:
        json.dumps(dataset_values(read_dataset(io.BytesIO(content)), None), allow_nan=False)

    def test_a_fault_of_the_source_is_no_fault_of_the_file(self) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError("the disk is gone")

        with pytest.raises(OSError, match="disk"):
            read_dataset(Broken())

    @given(st.binary(max_size=400))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_after_a_good_start(self, junk: bytes) -> None:
        values = values_of(element(0x00080060, "CS", b"MR"), junk)
        assert isinstance(values, dict)

    @given(
        st.sampled_from(
            ["DS", "IS", "US", "SS", "UL", "FD", "FL", "AT", "PN", "LO", "CS", "DA", "UT", "UI", "SQ", "UN"]
        ),
        st.sampled_from(
            [0x00080005, 0x0008103E, 0x00100010, 0x00180050, 0x00200013, 0x00280010, 0x00081032, 0x00283002]
        ),
        st.binary(max_size=60),
    )
    @settings(max_examples=400, deadline=None)
    def test_any_value_under_any_vr(self, vr: str, tag: int, value: bytes) -> None:
        raw = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
        json.dumps(element_value(raw), allow_nan=False).encode()


def plain(value: Any, vr: str) -> Any:
    """What the rules make of a value as pydicom gives it."""
    if value is None:
        return None
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        return [plain(each, vr) for each in value]
    if vr == "AT":
        return f"{int(value):08X}"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, int):
        return int(value)
    return str(value).strip(" ") if vr == "CS" else str(value)


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_real_files_read_as_pydicom_reads_them(path: Path) -> None:
    """Every file that pydicom and pydicom-data ship: all elements, each value the same, all of it JSON."""
    found = dataset_values(read_dataset(io.BytesIO(path.read_bytes())), None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    reference = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    for tag in list(reference.keys()):
        keyword = pydicom.datadict.keyword_for_tag(tag)
        one = reference[tag]
        if (
            tag.is_private
            or keyword in ("", "GroupLength")
            or one.VR == "UN"
            or one.VR.startswith("O")
            or "OW" in one.VR
        ):
            continue
        if one.VR == "SQ":
            assert len(found[keyword]) == len(one.value)
            continue
        expected = plain(one.value, one.VR)
        if expected in (None, "", []):
            expected = None if one.VR in ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD") else ""
        assert found[keyword] == expected


def test_a_real_enhanced_image_is_whole() -> None:
    path = get_testdata_file("eCT_Supplemental.dcm")
    assert path is not None
    values = dataset_values(read_dataset(io.BytesIO(Path(str(path)).read_bytes())), None)
    assert values["NumberOfFrames"] == 2
    frames = values["PerFrameFunctionalGroupsSequence"]
    assert isinstance(frames, list)
    assert len(frames) == 2

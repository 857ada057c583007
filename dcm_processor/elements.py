"""The value of a DICOM element as JSON. Whatever a file holds gives a value or none, never an exception.

    text, dates, names, UIDs    a string, decoded by the Specific Character Set, without padding
    numeric VRs                 a number; what is not one (a DS of "abc", NaN) stays the string that was there
    several values              a list
    AT                          "GGGGEEEE", as in DICOM JSON (PS3.18 F.2.3)
    SQ                          a list of dicts, keyword -> value
    no value                    "", None for numeric VRs, [] for SQ
    bulk (OB, OD, OF, OL, OV, OW, UN, anything above 64 kB)    no value: left out

pydicom parses the file; values are taken from the bytes it found, since its own conversion raises on malformed ones,
puts values into warnings, and divides names and texts before decoding them, where bytes of ISO 2022 IR 87 look like `=`
and a backslash.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom import charset
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.values import convert_SQ

from dcm_processor.errors import DcmProcessorError
from dcm_processor.json_values import PADDING, JsonValue, clean, real_number, whole_number

BULK_BYTES = 64 * 1024
"""A value longer than this is bulk, whatever its VR."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_INTEGER_VRS = frozenset({"IS", "US", "SS", "UL", "SL", "UV", "SV", "US or SS"})
_NUMERIC_VRS = _INTEGER_VRS | {"DS", "FL", "FD"}
_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_UNDIVIDED_VRS = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is a character of theirs (PS3.5 6.2)
_CODE_VRS = frozenset({"AE", "CS"})  # leading spaces mean nothing there either
_BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW", "US or OW", "US or SS or OW"})
_KNOWN_VRS = _NUMERIC_VRS | _TEXT_VRS | _BULK_VRS | {"AT", "SQ"}

_PIXEL_DATA = 0x7FE00008  # Float, Double Float and Pixel Data and what follows
_LUT_DESCRIPTORS = frozenset({0x00281101, 0x00281102, 0x00281103, 0x00283002})
_MAX_DEPTH = 32  # of sequences in sequences; structured reports stay below 20


@dataclass(frozen=True)
class Context:
    """What the values of a dataset depend on beside their own bytes."""

    encodings: tuple[str, ...] = ("iso8859",)  # Python's names, from Specific Character Set (PS3.3 C.12.1.1.2)
    signed: bool = False  # Pixel Representation: what "US or SS" means
    depth: int = 0  # of sequences around


class _Bulk(Exception):  # noqa: N818 - not an error: says that a value is left out
    """The element has no value worth showing."""


def read_dataset(file: BinaryIO) -> Dataset:
    """Read a file's elements up to its pixel data, reading no more of `file` than that; private ones are not kept.

    Where an element cannot be parsed, what stands before it is returned (elements are in order of their tags, so what
    describes the study comes early).
    """
    reached: int | None = None
    fault: int | None = None

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached
        reached = int(tag)
        return reached >= _PIXEL_DATA or reached == fault

    for _ in range(2):
        try:
            file.seek(0)
            return _without_private(read_partial(file, stop, force=True))
        except (OSError, DcmProcessorError):  # of the file, not of what stands in it
            raise
        except Exception:  # noqa: BLE001 - pydicom raises whatever the bytes lead it to
            fault = reached
    return Dataset()


def _without_private(dataset: Dataset) -> Dataset:
    """No keyword names them, and of a study of many series they are the most."""
    for tag in [tag for tag in dataset.keys() if tag.is_private]:  # noqa: SIM118 - iterated, it gives elements
        del dataset[tag]
    return dataset


def dataset_values(dataset: Dataset, selected: Iterable[str] | None) -> dict[str, JsonValue]:
    """Keyword -> value of the selected elements (None: all that have a keyword), bulk left out.

    The file meta information (group 0002) counts as part of the dataset. Private elements have no keyword.
    """
    return _values(dataset, Context(), selected)


def element_value(element: DataElement | RawDataElement, context: Context = Context()) -> JsonValue:
    """The element's value; None too where it is bulk."""
    try:
        return _value(element, context)
    except _Bulk:
        return None


def text_of(dataset: Dataset, keyword: str) -> str:
    """The element's first value as text, "" if there is none."""
    value = dataset_values(dataset, (keyword,)).get(keyword)
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value)


def _values(dataset: Dataset, around: Context, selected: Iterable[str] | None = None) -> dict[str, JsonValue]:
    context = _context(dataset, around)
    values: dict[str, JsonValue] = {}
    for keyword, part, tag in _present(dataset, selected):
        if keyword in values:  # repeating groups (PS3.5 7.6): the first stands for all
            continue
        try:
            values[keyword] = _value(part.get_item(tag), context)
        except _Bulk:
            continue
    return values


def _present(dataset: Dataset, selected: Iterable[str] | None) -> Iterator[tuple[str, Dataset, BaseTag]]:
    """The wanted elements that are there, in order of their tags."""
    meta = getattr(dataset, "file_meta", None)
    parts = (meta, dataset) if isinstance(meta, Dataset) else (dataset,)
    if selected is None:
        for part in parts:
            for tag in sorted(part.keys()):
                keyword = "" if tag.is_private or tag.element == 0 else keyword_for_tag(tag)
                if keyword:
                    yield keyword, part, tag
        return
    found = {keyword: tag_for_keyword(keyword) for keyword in selected}
    wanted = sorted((tag, keyword) for keyword, tag in found.items() if tag is not None)
    for part in parts:
        yield from ((keyword, part, BaseTag(tag)) for tag, keyword in wanted if tag in part)


def _context(dataset: Dataset, around: Context) -> Context:
    names = _plain(dataset, 0x00080005)
    encodings = around.encodings
    if names is not None:
        known = [str(name) for name in (names if isinstance(names, list) else [names])]
        try:
            encodings = tuple(charset.convert_encodings(known))
        except LookupError:
            encodings = Context.encodings
    signed = _plain(dataset, 0x00280103)
    return Context(encodings, signed == 1 if isinstance(signed, int) else around.signed, around.depth)


def _plain(dataset: Dataset, tag: int) -> JsonValue:
    element = dataset.get_item(tag) if tag in dataset else None
    return None if element is None else element_value(element)


def _value(element: DataElement | RawDataElement | None, context: Context) -> JsonValue:
    if element is None:
        raise _Bulk
    vr = _vr(element, context)
    if vr in _BULK_VRS:
        raise _Bulk
    value = element.value
    if vr == "SQ":
        return _sequence(element, value, context)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None if vr in _NUMERIC_VRS else ""
    convert = _converter(vr, element.tag)
    if not isinstance(value, bytes):
        return _each(_python_values(value), convert)
    if len(value) > BULK_BYTES:
        raise _Bulk
    if vr in _BINARY:
        return _each(_unpack(value, vr, element), convert)
    if vr == "AT":
        return _each(_tags(value, element), convert)
    return _each(_texts(value, vr, context), convert)


def _vr(element: DataElement | RawDataElement, context: Context) -> str:
    """The element's VR: the file's, or the dictionary's where the file has none, none that exists, or UN."""
    vr = str(element.VR or "")
    if vr not in _KNOWN_VRS or vr == "UN":
        vr = _dictionary_vr(element.tag)
    if vr == "US or SS":
        return "SS" if context.signed else "US"
    return vr


def _dictionary_vr(tag: BaseTag) -> str:
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return vr if vr in _KNOWN_VRS else "UN"


def _converter(vr: str, tag: BaseTag) -> Callable[[object], JsonValue]:
    if vr in _TEXT_VRS and (meant := _dictionary_vr(tag)) in _NUMERIC_VRS:
        vr = "IS" if meant in _INTEGER_VRS else "DS"  # a number that the file stores under a VR for text
    if vr in _NUMERIC_VRS:
        return whole_number if vr in _INTEGER_VRS else real_number
    if vr == "AT":
        return lambda value: f"{value:08X}" if isinstance(value, int) else clean(str(value))
    if vr == "PN":
        return lambda value: _strip(value, vr).rstrip("=")  # component groups that are not there
    return lambda value: _strip(value, vr)


def _each(values: list[object], convert: Callable[[object], JsonValue]) -> JsonValue:
    return convert(values[0]) if len(values) == 1 else [convert(value) for value in values]


def _strip(value: object, vr: str) -> str:
    text = str(value).rstrip(PADDING)
    return clean(text.lstrip(PADDING) if vr in _CODE_VRS else text)


def _unpack(value: bytes, vr: str, element: Any) -> list[object]:
    """Numbers of a binary VR; of a wrong length: the text, if it is one, else the bytes in hexadecimal."""
    code = _BINARY[vr]
    count, rest = divmod(len(value), struct.calcsize("=" + code))
    if rest:
        text = value.rstrip(b" \0")
        return [text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() else f"0x{value.hex()}"]
    numbers: list[object] = list(struct.unpack(f"{_endian(element)}{count}{code}", value))
    if vr == "SS" and element.tag in _LUT_DESCRIPTORS and isinstance(numbers[0], int) and numbers[0] < 0:
        numbers[0] += 0x10000  # the first value is unsigned in any case (PS3.3 C.7.6.3.1.5)
    return numbers


def _endian(element: Any) -> str:
    return "<" if getattr(element, "is_little_endian", True) else ">"


def _tags(value: bytes, element: Any) -> list[object]:
    if len(value) % 4:
        return [f"0x{value.hex()}"]
    halves = struct.unpack(f"{_endian(element)}{len(value) // 2}H", value)
    return [group << 16 | number for group, number in zip(halves[::2], halves[1::2], strict=True)]


def _texts(value: bytes, vr: str, context: Context) -> list[object]:
    """Decoded first, then divided at backslashes."""
    text = value.decode("ascii") if value.isascii() and b"\x1b" not in value else _decode(value, vr, context.encodings)
    return [text] if vr in _UNDIVIDED_VRS else list(text.rstrip(PADDING).split("\\"))


def _decode(value: bytes, vr: str, encodings: tuple[str, ...]) -> str:
    # What ends the reach of an escape sequence (PS3.5 6.1.2.5.3).
    try:
        return charset.decode_bytes(value, encodings, {*b"\\^="} if vr == "PN" else {*b"\\\t\n\f\r"})
    except (UnicodeError, LookupError, ValueError):
        return value.decode("latin-1")


def _python_values(value: Any) -> list[object]:
    """Values of an element that was made in Python, or that pydicom has converted."""
    if isinstance(value, str | int | float) or not hasattr(value, "__iter__") or hasattr(value, "original_string"):
        return [value]
    return list(value)


def _sequence(element: Any, value: Any, context: Context) -> JsonValue:
    if context.depth >= _MAX_DEPTH:
        raise _Bulk
    if isinstance(value, bytes):
        implicit = element.is_implicit_VR or element.VR == "UN"  # PS3.5 6.2.2, note 2
        try:
            value = convert_SQ(value, implicit, element.is_little_endian or element.VR == "UN", list(context.encodings))
        except Exception:  # noqa: BLE001 - pydicom raises whatever the bytes lead it to
            raise _Bulk from None
    inside = Context(context.encodings, context.signed, context.depth + 1)
    return [_values(item, inside) for item in value or ()]

"""Numbers and texts of DICOM (PS3.5 6.2) as JSON holds them, and the order that numbers give. Pure.

Without pydicom: what only orders instances, such as a worker, need not load what parses them.
"""

import math
import re
from typing import TypeAlias

JsonValue: TypeAlias = "str | int | float | list[JsonValue] | dict[str, JsonValue] | None"

PADDING = " \0"
_BLANK = PADDING + "\t\r\n"
_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def clean(text: str) -> str:
    """What JSON, UTF-8 and PostgreSQL all can hold: without NUL and lone surrogates."""
    if text.isascii():
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole_number(value: object) -> JsonValue:
    """An int; 1.5 where somebody stored that; the string where it is no number."""
    if isinstance(value, int):
        return int(value)
    text = str(value).strip(_BLANK)
    if _INTEGER.fullmatch(text):
        return int(text)
    number = real_number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def real_number(value: object) -> JsonValue:
    """A finite float; the string where it is none."""
    text = str(value).strip(_BLANK)
    if not isinstance(value, int | float) and not _DECIMAL.fullmatch(text):
        return clean(text) or None
    number = float(value if isinstance(value, int | float) else text)
    return number if math.isfinite(number) else text


def sort_key(number: str | None, uid: str) -> tuple[int, float, str]:
    """Orders instances by (InstanceNumber, SOPInstanceUID), series by (SeriesNumber, SeriesInstanceUID).

    Numbers compare as numbers; what has none comes last.
    """
    value = whole_number(number or "")
    return (0, float(value), uid) if isinstance(value, int | float) else (1, 0.0, uid)

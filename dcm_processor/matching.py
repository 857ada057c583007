"""Which studies and series a query means: DICOM's attribute matching (PS3.4 C.2.2.2) on plans' headers. Pure.

    PatientID=ABC-*             wild card: * any characters, ? one
    StudyDate=20240101-         range: from, to, or both
    Modality=MR                 single value
    StudyInstanceUID=1.2\\1.3    list
    PatientName=                universal: every study, also one that has no such element

Of an element with several values one that matches is enough. Case counts, but for names of persons.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from dcm_processor.errors import UsageError

_DATE = r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}"
_TIME = r"[0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
_MOMENT = r"[0-9]{4}(?:[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?)?)?)?"
_WRITTEN = {"DA": (_DATE, "20240131"), "TM": (_TIME, "101530"), "DT": (_MOMENT, "20240131101530")}
"""How a date, a time and both are written in a query, and an example."""
_DIGITS = {"DA": 8, "TM": 12, "DT": 20}
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_ONE_VALUE = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is a character like others there
MODALITIES = "ModalitiesInStudy"

_Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Query:
    """Terms that must all hold: a keyword, and what tells whether a value of it matches (None: any does)."""

    terms: tuple[tuple[str, _Test | None], ...] = ()

    @classmethod
    def parse(cls, terms: Mapping[str, str]) -> Self:
        """`terms` maps keywords, or tags such as `0010,0020`, to what is looked for.

        Raises UsageError that names the term.
        """
        return cls(tuple(_term(key, text) for key, text in terms.items()))

    def matches(self, headers: Mapping[str, Any], series_id: str | None = None) -> bool:
        """Whether a study's headers match, for a job of one of its series or (None) of the study.

        What is asked of series one series must have: the job's, or any of the study's.
        """
        entries = [each for each in headers.get("series", ()) if series_id in (None, each.get("seriesId"))]
        modalities = sorted({str(each["Modality"]) for each in headers.get("series", ()) if each.get("Modality")})
        views = [{MODALITIES: modalities, **headers, **entry} for entry in entries or [{}]]
        return any(all(_holds(test, view.get(keyword)) for keyword, test in self.terms) for view in views)


def _holds(test: _Test | None, value: Any) -> bool:
    return test is None or any(test(each) for each in (value if isinstance(value, list) else [value]) if each != "")


def _term(key: str, text: str) -> tuple[str, _Test | None]:
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415 - heavy, and most programs are never asked

    keyword = _keyword(key)
    vr = dictionary_VR(keyword).split(" or ")[0]
    text = text.strip(" ")
    if text in ("", "*"):
        return keyword, None
    if vr == "SQ":
        raise UsageError(f"{keyword} is a sequence, which cannot be matched")
    wanted = [text] if vr in _ONE_VALUE else text.split("\\")
    tests = [_test(keyword, vr, each.strip(" ")) for each in wanted]
    return keyword, lambda value: any(test(value) for test in tests)


def _keyword(key: str) -> str:
    from pydicom.datadict import dictionary_keyword, tag_for_keyword  # noqa: PLC0415 - as above

    tag = re.fullmatch(r"\(?([0-9A-Fa-f]{4}),? ?([0-9A-Fa-f]{4})\)?", key)
    if tag is not None:
        try:
            return dictionary_keyword(int(tag[1] + tag[2], 16))
        except KeyError:
            raise UsageError(f"{key} is no tag of the DICOM standard; name elements by their keywords") from None
    if key and tag_for_keyword(key) is not None:
        return key
    raise UsageError(f"{key[:64]!r} is no keyword of a DICOM element, such as PatientID or StudyDate")


def _test(keyword: str, vr: str, text: str) -> _Test:
    if vr in _WRITTEN:
        low, high = _range(keyword, vr, text)
        return lambda value: low <= _padded(vr, str(value), "0") <= high
    if vr in _NUMBERS:
        try:
            number = float(text)
        except ValueError:
            raise UsageError(f"{keyword} is a number; a query for it is one too") from None
        return lambda value: isinstance(value, int | float) and value == number
    if vr == "PN":
        folded = text.casefold()
        return lambda value: any(wild(folded, form) for form in _forms(str(value).casefold()))
    if vr in _WILD:
        return lambda value: isinstance(value, str) and wild(text, value.strip(" "))
    return lambda value: isinstance(value, str) and value.rstrip(" \0") == text


def _forms(name: str) -> Iterator[str]:
    """A person's name as a whole and each of its ways to be written (PS3.5 6.2), without empty parts at its end."""
    yield name
    for group in name.split("="):
        yield group
        yield group.strip(" ").rstrip("^")


def _range(keyword: str, vr: str, text: str) -> tuple[str, str]:
    """The first and the last moment that match, as digits."""
    written, example = _WRITTEN[vr]
    if re.fullmatch(written, text):
        return _padded(vr, text, "0"), _padded(vr, text, "9")
    ends = re.fullmatch(f"({written})?-({written})?", text)
    if ends is None or ends[1] is ends[2] is None:
        raise UsageError(f"{keyword} is written like {example}, and a range of them {example}-{example}, -{example}")
    low, high = ends[1] or "", ends[2] or ""
    return _padded(vr, low, "0"), _padded(vr, high, "9")


def _padded(vr: str, text: str, by: str) -> str:
    """Digits to compare; of what is no date or time something that no range holds."""
    digits = re.sub(r"[-:.]", "", text.strip(" "))
    if digits and not (digits.isascii() and digits.isdigit()):
        return ""
    if not digits and by == "0" and text:
        return ""
    return digits.ljust(_DIGITS[vr], by)


def wild(pattern: str, text: str) -> bool:
    """Whether a text matches: `*` stands for any characters, `?` for one. Takes steps as their lengths multiplied."""
    at = place = 0
    star, retry = -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, retry, at = at, place, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            retry += 1
            at, place = star + 1, retry
        else:
            return False
    return pattern[at:].strip("*") == ""

"""What a callback reads of its headers, recorded: best effort, and never a value.

Seen are `[]`, `get`, `in`, and going through all keywords, at the top and in the entries of `series`; not what is read
of a copy, or of what stands inside a sequence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dcm_processor.contract import Headers
from dcm_processor.plan import HeaderRead, ReadFound, ReadPlace

ALL = "*"
"""The keyword of having gone through all of them."""
MOST = 500
"""Different reads that are kept of a callback."""
_LONGEST = 64  # characters of a keyword; DICOM's longest has 62
_OURS = frozenset({"patientId", "studyId", "seriesId", "seriesIds", "dcmpath", "series", "NumberOfInstances"})


class Seen(NamedTuple):
    """One keyword that was read somewhere, and whether it was there."""

    keyword: str
    place: str
    there: bool


class RecordedHeaders(Headers):
    """Headers that tell `record` of each look at them."""

    def __init__(
        self,
        values: Mapping[str, Any],
        selected: Iterable[str],
        note: Callable[[str], None],
        record: Callable[[Seen], None],
    ) -> None:
        self._place, self._record = ReadPlace.TOP, record
        super().__init__(values, selected, note)

    def _entry(self, values: dict[str, Any]) -> Headers:
        entry = RecordedHeaders.__new__(RecordedHeaders)
        dict.__init__(entry, values)
        entry._missed, entry._place, entry._record = self._missed, ReadPlace.SERIES, self._record
        return entry

    def _look(self, key: object) -> None:
        if isinstance(key, str):
            self._record(Seen(key[:_LONGEST], self._place, dict.__contains__(self, key)))

    def __getitem__(self, key: Any) -> Any:
        self._look(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._look(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self._record(Seen(ALL, self._place, True))
        return super().__iter__()

    def keys(self) -> Any:
        self._record(Seen(ALL, self._place, True))
        return super().keys()

    def values(self) -> Any:
        self._record(Seen(ALL, self._place, True))
        return super().values()

    def items(self) -> Any:
        self._record(Seen(ALL, self._place, True))
        return super().items()


class Record:
    """The looks of one callback, each once, in order; those after the first MOST are not kept."""

    def __init__(self) -> None:
        self.seen: dict[Seen, None] = {}

    def __call__(self, seen: Seen) -> None:
        if len(self.seen) < MOST:
            self.seen[seen] = None


def told(seen: Sequence[Seen], headers: Mapping[str, Any], selected: Sequence[str]) -> tuple[HeaderRead, ...]:
    """Each keyword that was read at a place, once, in order: whether it was there, and if not why.

    `headers` are the study's, `selected` is HEADER_FIELDS. What was there in one series counts as there.
    """
    there = {(each.keyword, each.place) for each in seen if each.there}
    places = dict.fromkeys((each.keyword, each.place) for each in seen)
    return tuple(
        HeaderRead(
            keyword,
            ReadPlace(place),
            ReadFound.PRESENT if (keyword, place) in there else _why_not(keyword, place, headers, selected),
        )
        for keyword, place in places
    )


def _why_not(keyword: str, place: str, headers: Mapping[str, Any], selected: Sequence[str]) -> ReadFound:
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - heavy, and needed when all was found but this

    if keyword in _OURS:
        return ReadFound.ABSENT
    if tag_for_keyword(keyword) is None:
        return ReadFound.UNKNOWN
    if keyword not in selected and ALL not in selected:
        return ReadFound.NOT_SELECTED
    if place == ReadPlace.TOP and any(keyword in entry for entry in headers["series"]):
        return ReadFound.DIFFERS
    return ReadFound.ABSENT

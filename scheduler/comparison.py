"""Orthanc's studies compared with the ledger: what neither the hook nor /changes could tell is found here.

An Orthanc restarted within StableAge never says that a study is stable, and its changes can be cleared. Its LastUpdate
of each study against the one that was seen when the study was last read (`studies.last_update`) tells all the same.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcm_processor.errors import TransientError
from dcm_processor.ledger import Lease, Ledger, events, repairs, studies
from dcm_processor.logging import get_logger
from dcm_processor.orthanc import Orthanc, StudyStatus
from dcm_processor.vocabulary import EventKind, RepairKind, StudyState

log = get_logger()

EVERY = 24 * 3600.0
"""Seconds from the beginning of one comparison to that of the next."""
PAUSE = 60.0
"""Seconds after which one that could not go on begins anew."""
PAGE = 1000
_OVERLAP = 100
"""Studies that a page has in common with the one before: so many can be deleted meanwhile and none is passed over."""


def pages(orthanc: Orthanc) -> Iterator[Sequence[StudyStatus]]:
    """All studies of Orthanc, page by page, some of them twice.

    Positions move while studies are deleted: a page that does not overlap the one before is asked for further ahead.
    """
    since, before = 0, frozenset[str]()
    while True:
        page = orthanc.statuses(since, PAGE)
        ids = frozenset(status.study_id for status in page)
        if before and not ids & before:
            since = max(0, since - PAGE)
            before = before if since else frozenset()
            continue
        if ids <= before:
            return
        yield page
        since, before = since + max(len(page) // 2, len(page) - _OVERLAP), ids


@dataclass(frozen=True)
class Differences:
    """What the ledger lacks of a page of Orthanc's studies."""

    unnoticed: Sequence[StudyStatus]  # there is more of it than any event told of
    growing: Sequence[StudyStatus]  # the same, but it is not stable yet, and nobody waits for that
    unread: Sequence[StudyStatus]  # the ledger is older than the comparison: it takes these as they are

    def __bool__(self) -> bool:
        return bool(self.unnoticed or self.growing or self.unread)


def differences(
    page: Sequence[StudyStatus], seen: Mapping[str, Mapping[Any, Any]], waiting: Collection[str]
) -> Differences:
    """Pure; `seen` are the ledger's rows of these studies (`studies.seen`), `waiting` those that an event waits for."""
    unnoticed, growing, unread = [], [], []
    for status in page:
        row = seen.get(status.study_id)
        if status.study_id in waiting or (row is not None and _is_no_difference(status, row)):
            continue
        if not status.is_stable:
            growing.append(status)
        elif row is not None and row["last_update"] is None:
            unread.append(status)
        else:
            unnoticed.append(status)
    return Differences(unnoticed, growing, unread)


def _is_no_difference(status: StudyStatus, row: Mapping[Any, Any]) -> bool:
    expected = row["stable_due_at"] is not None or row["hold_until"] is not None
    return expected or row["last_update"] == status.last_update


class Comparison:
    """Compares page by page, from the moment it is made on, every 24 h, and when told to; `step` takes one page.

    Studies that Orthanc does not hold any more are no difference.
    """

    def __init__(
        self,
        ledger: Ledger,
        orthanc: Orthanc,
        quiet_after: float,
        lease: Lease,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`quiet_after`: seconds after which a study that is not stable yet counts as stable if nobody says so."""
        self._ledger = ledger
        self._orthanc = orthanc
        self._quiet_after = quiet_after
        self._lease = lease
        self._clock = clock
        self._pages: Iterator[Sequence[StudyStatus]] | None = None
        self._next = clock()
        self._compared = self._found = 0

    def begin(self) -> None:
        """Compare all of it anew, as soon as `step` is called."""
        self._pages, self._next = None, self._clock()

    @property
    def due(self) -> bool:
        """Whether there is something to do for `step`."""
        return self._pages is not None or self._clock() >= self._next

    def step(self) -> int:
        """Compare the next page; returns how many events came of it.

        Raises TransientError where Orthanc or the ledger does not answer, and then is due again after a pause.
        """
        if self._pages is None:
            self._pages, self._compared, self._found = pages(self._orthanc), 0, 0
            self._next = self._clock() + EVERY
        try:
            page = next(self._pages, None)
            found = 0 if page is None else self._close(page)
        except TransientError:
            self._pages, self._next = None, self._clock() + PAUSE
            raise
        if page is None:
            log.info("Orthanc's studies were compared with the ledger", pages=self._compared, found=self._found)
            self._pages = None
            return 0
        self._compared += 1
        self._found += found
        return found

    def _close(self, page: Sequence[StudyStatus]) -> int:
        ids = [status.study_id for status in page]
        with self._ledger.read() as db:
            if not differences(page, studies.seen(db, ids), events.waiting_among(db, ids)):
                return 0
        now = time.time()
        with self._ledger.write(self._lease) as db:
            differ = differences(page, studies.seen(db, ids), events.waiting_among(db, ids))
            for status in differ.growing:
                events.meet(db, status.study_id, StudyState.RECEIVED, now=now)
                studies.expect_stable(db, status.study_id, now + self._quiet_after)
            for status in differ.unnoticed:
                events.record(db, EventKind.FOUND, status.study_id, None, now=now)
            # Of the unnoticed too: should planning them be given up, they are not found again before they change.
            studies.set_last_update(db, {s.study_id: s.last_update for s in (*differ.unread, *differ.unnoticed)})
            if differ.unnoticed:
                repairs.count(db, RepairKind.STUDY_UNNOTICED, len(differ.unnoticed), now=now)
        return len(differ.unnoticed)

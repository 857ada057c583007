"""Orthanc's /changes, followed from the ledger's cursor: what the hook could not tell is found here.

What the changes cannot tell either is found by comparing all studies (`scheduler/comparison.py`), in the same thread.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from dcm_processor.errors import StudyGoneError, TransientError
from dcm_processor.ledger import Lease, LeaseLostError, Ledger, events, repairs, studies
from dcm_processor.logging import get_logger
from dcm_processor.orthanc import Change, Orthanc
from dcm_processor.vocabulary import EventKind, RepairKind, StudyState
from scheduler.comparison import Comparison, pages

log = get_logger()

EVERY = 2.0
"""Seconds between two looks."""
BREATH = 0.1
"""Seconds between two pages of a comparison, for whoever else wants something of Orthanc."""
FAR = 20_000
"""Changes behind which they are not read any more: to compare all studies is less work."""

_FACT, _MEETING = "orthanc", "orthanc_meeting"
_PAGE = 1000
_QUIET_MARGIN = 10
"""Seconds beyond STABLE_AGE after which a study that grew counts as stable even if Orthanc never says so."""


class Changes(threading.Thread):
    """Follows one Orthanc in a thread of its own: Orthanc may take its time. `told` is called after new events."""

    def __init__(
        self, ledger: Ledger, orthanc: Orthanc, stable_age: int, lease: Lease, told: Callable[[], None]
    ) -> None:
        super().__init__(name="changes", daemon=True)
        self._ledger = ledger
        self._orthanc = orthanc
        self._quiet_after = stable_age + _QUIET_MARGIN
        self._lease = lease
        self._told = told
        self._comparison = Comparison(ledger, orthanc, self._quiet_after, lease)
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def run(self) -> None:
        steps = {"changes": lambda: self.follow() + self.overdue(), "studies": self._compare}
        troubled: set[str] = set()
        while not self._closed.is_set():
            for what, step in steps.items():
                try:
                    if step():
                        self._told()
                    if what in troubled:
                        log.info("Orthanc can be read again", what=what)
                    troubled.discard(what)
                except LeaseLostError:
                    return  # the main thread will see it too
                except TransientError as error:
                    if what not in troubled:
                        log.warning("Orthanc cannot be read now", what=what, error=str(error))
                    troubled.add(what)
                    break  # without its changes nothing is compared: it may be another Orthanc
                except Exception:  # the thread's edge: it must not end without a word
                    log.exception("reading Orthanc failed", what=what)
                    break
            else:
                self._closed.wait(BREATH if self._comparison.due else EVERY)
                continue
            self._closed.wait(EVERY)

    def follow(self) -> int:
        """Take in everything since the cursor; returns how many events came of it.

        An Orthanc that the ledger meets for the first time, or that is another one now, is met: what it holds is put
        down as known and not planned. For changes that are gone, or too many, there is the comparison.
        """
        with self._ledger.read() as db:
            fact = studies.fact(db, _FACT)
        if fact is None:
            self._meet(first=True)
            return 0
        recorded, done = 0, False
        while not done:
            page = self._orthanc.changes(fact["cursor"], limit=_PAGE, mark=fact["mark"])
            if not page.same_database:
                log.warning("Orthanc's changes do not go on where they ended: another or a restored database")
                self._meet(first=False)
                return recorded
            if page.gap and not 0 < self._orthanc.first_change() <= fact["cursor"]:  # else studies were deleted
                log.warning("Orthanc's changes were cleared; all its studies are compared instead")
                self._comparison.begin()
            if not page.done and (behind := self._orthanc.last_change() - fact["cursor"]) > FAR:
                log.warning("too many changes to read; all of Orthanc's studies are compared instead", behind=behind)
                self._comparison.begin()
                self._take((), {**fact, **self._position()})
                return recorded
            if page.entries or page.gap:
                fact = {**fact, "cursor": page.last, "mark": page.entries[-1].mark if page.entries else ""}
                recorded += self._take(page.entries, fact)
            done = page.done or not page.entries
        return recorded

    def overdue(self) -> int:
        """Studies that grew and went quiet without a word from Orthanc count as stable; returns how many."""
        now = time.time()
        latest = now + self._quiet_after
        with self._ledger.read() as db:
            if not studies.overdue(db, now=now, limit=1) and not studies.expected_after(db, latest):
                return 0
        with self._ledger.write(self._lease) as db:
            if put_off := studies.expect_stable_before(db, latest):
                repairs.count(db, RepairKind.DUE_TOO_LATE, put_off, now=now)
            due = studies.overdue(db, now=now)
            for study_id in due:
                events.record(db, EventKind.QUIET, study_id, None, now=now)
                studies.expect_stable(db, study_id, None)
            if due:
                repairs.count(db, RepairKind.STUDY_QUIET, len(due), now=now)
        return len(due)

    def _compare(self) -> int:
        return self._comparison.step() if self._comparison.due else 0

    def _meet(self, *, first: bool) -> None:
        """Put down as known what the ledger does not have; what it has of another Orthanc, or an older one, stands.

        Interrupted, it is taken up from the same position: what came since is new.
        """
        with self._ledger.read() as db:
            position = studies.fact(db, _MEETING)
        if (
            position is None
            or not self._orthanc.changes(position["cursor"], limit=1, mark=position["mark"]).same_database
        ):
            position = self._position()
            with self._ledger.write(self._lease) as db:
                studies.set_fact(db, _MEETING, position)
        known = 0
        for page in pages(self._orthanc):
            now = time.time()
            found = {status.study_id: status.last_update if status.is_stable else "" for status in page}
            with self._ledger.write(self._lease) as db:
                for study_id, last_update in found.items():
                    why = "was in Orthanc before the platform met it"
                    known += events.meet(db, study_id, StudyState.KNOWN, now=now, reason=why, last_update=last_update)
                if not first:
                    studies.set_last_update(db, found)
        with self._ledger.write(self._lease) as db:
            studies.set_fact(db, _FACT, {**position, "known": known, "metAt": time.time()})
            studies.set_fact(db, _MEETING, None)
        log.info("met Orthanc; the studies it held are known and not planned", known=known, cursor=position["cursor"])

    def _position(self) -> dict[str, Any]:
        """Where the changes end now: to be asked for before what they are followed from."""
        cursor = self._orthanc.last_change()
        newest = self._orthanc.changes(max(0, cursor - 1), limit=1).entries
        return {"cursor": cursor, "mark": newest[0].mark if newest and newest[0].seq == cursor else ""}

    def _take(self, entries: Iterable[Change], fact: dict[str, object]) -> int:
        grown, stable = self._grown_and_stable(entries)
        now = time.time()
        with self._ledger.write(self._lease) as db:
            for study_id in stable:
                events.record(db, EventKind.CHANGE, study_id, None, now=now)
                studies.expect_stable(db, study_id, None)
            for study_id in grown:
                events.meet(db, study_id, StudyState.RECEIVED, now=now)
                studies.expect_stable(db, study_id, now + self._quiet_after)
            studies.set_fact(db, _FACT, fact)
        return len(stable)

    def _grown_and_stable(self, entries: Iterable[Change]) -> tuple[list[str], list[str]]:
        """Studies with a NewInstance after their last StableStudy, and those with a StableStudy, each once, in order.

        A new instance's study is asked for once a series and page, not once an instance.
        """
        study_of: dict[str, str | None] = {}
        grown: dict[str, None] = {}
        stable: dict[str, None] = {}
        for change in entries:
            if change.kind == "StableStudy":
                stable[change.resource_id] = None
                grown.pop(change.resource_id, None)
            elif change.kind == "NewInstance":
                if change.resource_id not in study_of:
                    try:
                        parent = self._orthanc.parent_of(change.resource_id)
                        study_of |= dict.fromkeys(parent.instances, parent.study_id)
                    except StudyGoneError:
                        study_of[change.resource_id] = None
                if (study_id := study_of.get(change.resource_id)) is not None:
                    grown[study_id] = None
        return list(grown), list(stable)

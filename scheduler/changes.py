"""Orthanc's /changes, followed from the ledger's cursor: what the hook could not tell is found here."""

import threading
import time
from collections.abc import Callable, Iterable

import structlog

from dcm_processor.errors import StudyGoneError, TransientError
from dcm_processor.ledger import Lease, LeaseLostError, Ledger, events, studies
from dcm_processor.orthanc import Change, Orthanc
from dcm_processor.vocabulary import EventKind, StudyState

log = structlog.get_logger()

EVERY = 2.0
"""Seconds between two looks."""

_FACT = "orthanc"
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
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def run(self) -> None:
        trouble = ""
        while not self._closed.is_set():
            try:
                if self.follow() + self.overdue():
                    self._told()
                if trouble:
                    log.info("Orthanc's changes are followed again")
                trouble = ""
            except LeaseLostError:
                return  # the main thread will see it too
            except TransientError as error:
                if not trouble:
                    log.warning("Orthanc's changes cannot be followed now", error=str(error))
                trouble = str(error)
            except Exception:  # the thread's edge: it must not end without a word
                log.exception("following Orthanc's changes failed")
            self._closed.wait(EVERY)

    def follow(self) -> int:
        """Take in everything since the cursor; returns how many events came of it.

        An Orthanc that the ledger meets for the first time, or that is another one now, is met: what it holds is put
        down as known and not planned.
        """
        with self._ledger.read() as db:
            fact = studies.fact(db, _FACT)
        if fact is None:
            self._meet()
            return 0
        recorded, done = 0, False
        while not done:
            page = self._orthanc.changes(fact["cursor"], limit=_PAGE, mark=fact["mark"])
            if not page.same_database:
                log.warning("Orthanc's changes do not go on where they ended: another or a restored database")
                self._meet()
                return recorded
            if page.entries:
                fact = {**fact, "cursor": page.last, "mark": page.entries[-1].mark}
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
            studies.expect_stable_before(db, latest)
            due = studies.overdue(db, now=now)
            for study_id in due:
                events.record(db, EventKind.QUIET, study_id, None, now=now)
                studies.expect_stable(db, study_id, None)
        return len(due)

    def _meet(self) -> None:
        cursor = self._orthanc.last_change()  # first, so that nothing falls between cursor and list
        newest = self._orthanc.changes(max(0, cursor - 1), limit=1).entries
        mark = newest[0].mark if newest and newest[0].seq == cursor else ""
        known = 0
        since = 0
        while page := self._orthanc.studies_page(since, _PAGE):
            now = time.time()
            with self._ledger.write(self._lease) as db:
                for study_id in page:
                    known += events.meet(
                        db, study_id, StudyState.KNOWN, now=now, reason="was in Orthanc before the platform met it"
                    )
            since += len(page)
        with self._ledger.write(self._lease) as db:
            studies.set_fact(db, _FACT, {"cursor": cursor, "mark": mark, "known": known, "metAt": time.time()})
        log.info("met Orthanc; the studies it held are known and not planned", known=known, cursor=cursor)

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

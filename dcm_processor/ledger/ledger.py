"""Opening the ledger, its transactions, and what scheduler, dashboard and command line ask of it."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, text

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import attempts, engine, events, results, studies, views
from dcm_processor.ledger.attempts import Cancelled
from dcm_processor.ledger.leases import Lease, check, keep_leader_out
from dcm_processor.ledger.tally import Tally, tally
from dcm_processor.ledger.views import Page
from dcm_processor.process import boot_time
from dcm_processor.vocabulary import EventKind, StudyState

_FRESH = 10.0
"""Seconds for which a connection is not tried before it is used again: the leader renews its lease more often."""


class _Kept(threading.local):
    """A thread's own connection, where it leads, and when it was last used (seconds of `boot_time`)."""

    connection: Connection | None = None
    used_at = 0.0


class Ledger:
    """A connection pool to the ledger.

    `busy_timeout`: seconds to wait for another writer before LedgerUnavailableError is raised.
    """

    def __init__(self, url: str, *, busy_timeout: float = 30) -> None:
        self._engine = engine.make_engine(url, busy_timeout=busy_timeout)
        self._kept = _Kept()

    def migrate(self) -> None:
        """Bring the schema up to date; see engine.migrate."""
        engine.migrate(self._engine)

    def make_room(self) -> None:
        """Have commits take less time from the first one on; see engine.make_room."""
        engine.make_room(self._engine)

    def close(self) -> None:
        if self._kept.connection is not None:
            self._kept.connection.close()
            self._kept.connection = None
        self._engine.dispose()

    @contextmanager
    def write(self, lease: Lease | None = None) -> Iterator[Connection]:
        """One transaction that is on the disk when the block ends, or not at all.

        With a lease it is the leader's: raises LeaseLostError where another leader took over.
        """
        with (
            engine.transient_faults(),
            self._writer(leads=lease is not None) as connection,
            connection.begin(),
        ):
            if lease is not None:
                check(connection, lease)
            yield connection

    @contextmanager
    def _writer(self, *, leads: bool) -> Iterator[Connection]:
        """A connection that writes. The leader's threads keep theirs: to fetch one takes as long as what it is for."""
        if not leads:
            with self._engine.connect().execution_options(write=True) as connection:
                yield connection
            return
        kept, self._kept.connection = self._kept.connection, None
        if kept is not None and boot_time() > self._kept.used_at + _FRESH:
            kept.close()
            kept = None
        connection = kept or self._engine.connect().execution_options(write=True)
        try:
            yield connection
        except BaseException:  # which may have broken it
            connection.close()
            raise
        self._kept.connection, self._kept.used_at = connection, boot_time()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view."""
        with engine.transient_faults(), self._engine.connect() as connection, connection.begin():
            yield connection

    def check(self) -> None:
        """Raise LedgerUnavailableError unless the ledger can be written now and has its schema."""
        with self.write() as db:
            db.execute(text("UPDATE leases SET epoch = epoch WHERE name = ''"))

    # -- what others than the controller do; each a transaction of its own

    def record_event(self, kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
        """Put down that something is to be done about a study; returns the event's id once it is on the disk."""
        with self.write() as db:
            return events.record(db, kind, study_id, payload, now=time.time())

    def record_events(self, kind: EventKind, payloads: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        """An event for each study, with its payload, all or none; returns study id -> event id."""
        now = time.time()
        with self.write() as db:
            return {
                study_id: events.record(db, kind, study_id, payload, now=now) for study_id, payload in payloads.items()
            }

    def studies(
        self,
        state: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        search: Mapping[str, Any] | None = None,
    ) -> Page:
        """Studies, newest first; `search` may hold studyInstanceUID, from, to (StudyDate), modality, jobName, service.

        Raises ValueError where the cursor is none of ours.
        """
        with self.read() as db:
            return views.studies(db, state, cursor, limit, search or {})

    def known(self) -> int:
        """How many studies were in Orthanc before the platform met it, and were not processed since."""
        with self.read() as db:
            return studies.count(db, StudyState.KNOWN)

    def tally(self) -> Tally:
        """Repairs, studies, jobs and events in numbers."""
        with self.read() as db:
            return tally(db)

    def study(self, study_id: str) -> dict[str, Any] | None:
        """The study with its plans (newest first), their jobs and attempts; None where it is not known."""
        with self.read() as db:
            return views.study(db, study_id)

    def held_since(self, study_id: str) -> float | None:
        """When the study was first held back since its last plan (s since the epoch); None: it is not held back."""
        with self.read() as db:
            return events.held_since(db, study_id)

    def job_summaries(self, plan_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """plan id -> its jobs in plan order as dicts of jobName, verdict, state, reason; `count` jobs share these."""
        with self.read() as db:
            return views.job_summaries(db, plan_ids)

    def jobs(
        self,
        state: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        search: Mapping[str, Any] | None = None,
    ) -> Page:
        """Jobs, newest first, for which the terms of `views.jobs` hold.

        Raises ValueError where the cursor is none of ours.
        """
        with self.read() as db:
            return views.jobs(db, state, cursor, limit, search or {})

    def results(self, cursor: str | None = None, limit: int = 50, terms: results.Terms | None = None) -> Page:
        """Ended attempts with their named results, newest job first; see `results.search`.

        Raises ValueError where the cursor is none of ours.
        """
        with self.read() as db:
            return views.results_page(db, cursor, limit, terms or results.Terms())

    def standing(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of the jobs that are known, with what says whether they can be run again; see `views.standing`."""
        with self.read() as db:
            return views.standing(db, job_ids)

    def job(self, job_id: str) -> dict[str, Any] | None:
        """The job with its attempts; None where it is not known."""
        with self.read() as db:
            return views.job(db, job_id)

    def count_unended(self, service: str) -> dict[str, int]:
        """How many jobs of a service are in which state that has not ended; {} where there is no ledger yet."""
        try:
            with self.read() as db:
                return attempts.count_unended(db, service)
        except LedgerUnavailableError as error:
            if _is_none_yet(error):
                return {}
            raise

    def cancel_service(self, service: str) -> Cancelled:
        """Cancel every job of a service that has not started; running ones go on. Redis is to forget the attempts.

        None where there is no ledger yet. Also where none is there, what the leader is at comes before this.
        """
        try:
            with self.write() as db:
                keep_leader_out(db)
                return attempts.cancel_service(db, service, f"service {service} was removed", now=time.time())
        except LedgerUnavailableError as error:
            if _is_none_yet(error):
                return Cancelled(0)
            raise

    def pinned(self) -> set[tuple[str, str]]:
        """(service, digest) of every version that a job which has not ended needs."""
        try:
            with self.read() as db:
                return attempts.pinned(db)
        except LedgerUnavailableError as error:
            if _is_none_yet(error):
                return set()
            raise


def _is_none_yet(error: LedgerUnavailableError) -> bool:
    """Whether there is no ledger: nothing has been started yet."""
    return "no such table" in str(error) or "unable to open database file" in str(error)

"""Differences between ledger and Redis, closed: attempts Redis lost, attempts whose worker is gone."""

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

import structlog
from rq import Queue
from rq.serializers import JSONSerializer

from dcm_processor.errors import TransportUnavailableError
from dcm_processor.judgement import longest_delay
from dcm_processor.ledger import Lease, Ledger, attempts, plans
from dcm_processor.manifest import JobSettings
from dcm_processor.outcome import Outcome
from dcm_processor.transport import ANNOUNCE_INTERVAL, MARKER, Transport, answers
from dcm_processor.vocabulary import AttemptState, ExitReason
from scheduler.effects import Effects
from scheduler.outcomes import end
from scheduler.progress import deciding

log = structlog.get_logger()

LOST_AFTER = 60.0
"""Seconds without announcement, all through which Redis could be read, after which a started attempt is lost."""
BLIND_AFTER = 3 * ANNOUNCE_INTERVAL
"""Seconds between two looks after which the time between them does not count: the controller itself was away."""
QUEUED_GRACE = 10.0
"""Seconds after which a queued attempt should be in a queue, or claimed."""
SCANS = 20
"""Steps through Redis's keys in one look for those that should be gone."""


class Announcements:
    """Who was heard of when, by this controller's own monotonic clock. Pure: time and observations come in."""

    def __init__(self, lost_after: float = LOST_AFTER, blind_after: float = BLIND_AFTER) -> None:
        self._lost_after = lost_after
        self._blind_after = blind_after
        self._seen: dict[str, tuple[str | None, float]] = {}
        self._looked_at: float | None = None

    def blind(self) -> None:
        """Redis could not be read, or was emptied: every clock starts again."""
        self._looked_at = None

    def look(self, started: Iterable[str], announced: Mapping[str, str], now: float) -> list[str]:
        """Those of the `started` attempts that are lost."""
        if self._looked_at is None or now - self._looked_at > self._blind_after:
            self._seen = {}
        self._looked_at = now
        seen: dict[str, tuple[str | None, float]] = {}
        lost = []
        for attempt_id in started:
            last = self._seen.get(attempt_id)
            value = announced.get(attempt_id)
            if last is None or last[0] != value:
                last = (value, now)
            elif now - last[1] >= self._lost_after:
                lost.append(attempt_id)
            seen[attempt_id] = last
        self._seen = seen
        return lost


class Repair:
    """What the controller's clock does about attempts; see each method."""

    def __init__(
        self,
        ledger: Ledger,
        transport: Transport,
        *,
        lost_after: float = LOST_AFTER,
        clock: Callable[[], float] = time.monotonic,
        emptied: Callable[[], object] = lambda: None,
    ) -> None:
        """`emptied` is called once Redis turned out to be new or emptied: its streams count anew."""
        self._ledger = ledger
        self._transport = transport
        self._clock = clock
        self._emptied = emptied
        self._announcements = Announcements(lost_after)
        self._cursor = 0  # in Redis's keys
        self._emptied_at: float | None = None
        self._missed: set[str] = set()
        self._pushed: set[str] = set()  # told of in the log

    def attempts(self, lease: Lease, effects: Effects) -> None:
        """Push queued attempts that Redis does not know; end started ones that nobody announces; repeat cancels.

        A queued one that somebody has is started, though the report that said so was lost: from then on it can be lost.
        """
        try:
            self._look_for_emptying()
            announced = self._transport.announcements()
            with self._ledger.read() as db:
                started = attempts.in_state(db, AttemptState.STARTED)
                queued = attempts.in_state(db, AttemptState.QUEUED)
            now = time.time()
            old = {
                row["attempt_id"]: row["queue"] for row in queued if not now - QUEUED_GRACE < row["queued_at"] <= now
            }
            missing, claimed = self._missing(old)
        except TransportUnavailableError:
            self._announcements.blind()
            self._missed.clear()
            raise
        for row in queued:
            if row["attempt_id"] in announced or row["attempt_id"] in claimed:
                with deciding(self._ledger, lease, effects) as (db, _):
                    found = attempts.get(db, row["attempt_id"])
                    if found is not None and found[0]["state"] == AttemptState.QUEUED:
                        attempts.start(db, found[0], now=time.time())
        effects.cancel.extend(row["attempt_id"] for row in started if row["cancel_asked_at"] is not None)
        for attempt_id in self._announcements.look([row["attempt_id"] for row in started], announced, self._clock()):
            with deciding(self._ledger, lease, effects) as (db, own):
                found = attempts.get(db, attempt_id)
                if found is not None and found[0]["state"] == AttemptState.STARTED:
                    log.warning("attempt lost: its worker was not heard of", attemptId=attempt_id)
                    outcome = Outcome(ExitReason.LOST, error=f"no announcement for {LOST_AFTER:.0f} s")
                    end(db, found, outcome, own, now=time.time())
        self._pushed &= {row["attempt_id"] for row in queued}
        for row in queued:
            if row["attempt_id"] in missing:
                if row["attempt_id"] not in self._pushed:
                    log.warning("a queued attempt that Redis does not know is pushed", attemptId=row["attempt_id"])
                self._pushed.add(row["attempt_id"])
                effects.ready[row["plan_id"]].append(row["job_id"])

    def retries(self, lease: Lease, effects: Effects) -> None:
        """Queue the next attempt of jobs whose interval passed."""
        now = time.time()
        with self._ledger.read() as db:
            if not attempts.retries_due(db, now=now):
                return
        with deciding(self._ledger, lease, effects) as (db, own):
            rows = attempts.retries_due(db, now=now)
            attempts.queue(db, rows, now=now)
            for row in rows:
                own.ready[row["plan_id"]].append(row["job_id"])

    def clocks(self, lease: Lease) -> None:
        """Bring retries nearer that lie further ahead than they can: the clock was set back since."""
        now = time.time()
        with self._ledger.read() as db:
            retrying = attempts.retrying(db, after=now)
        latest = {row["job_id"]: now + longest_delay(JobSettings.from_json(row["settings"]).retry) for row in retrying}
        if ahead := [row["job_id"] for row in retrying if row["due_at"] > latest[row["job_id"]]]:
            with self._ledger.write(lease) as db:
                for job_id in ahead:
                    attempts.set_job(db, job_id, {"due_at": latest[job_id]})

    def plans(self, lease: Lease, effects: Effects) -> None:
        """Take every plan on that has not ended: what an interrupted controller, or another hand, left standing."""
        with self._ledger.read() as db:
            unended = plans.unended(db)
        for study_id in unended:
            with deciding(self._ledger, lease, effects) as (_, own):
                own.touched.append(study_id)

    def keys(self, effects: Effects) -> None:
        """Have Redis forget plans and attempts that have ended, where it was away when they did; some at a time.

        An ended attempt that somebody still runs is to be cancelled.
        """
        plan_ids: set[str] = set()
        announced = self._transport.announcements()
        attempt_ids = set(announced)
        for _ in range(SCANS):
            held = self._transport.held(self._cursor)
            plan_ids |= held.plan_ids
            attempt_ids |= held.attempt_ids
            self._cursor = held.cursor
            if not held.cursor:
                break
        with self._ledger.read() as db:  # after Redis: what it holds is in the ledger by now, or never will be
            ended_plans = plan_ids - plans.unended_among(db, sorted(plan_ids))
            unwanted = attempt_ids - attempts.unended_among(db, sorted(attempt_ids))
        if ended_plans or unwanted:
            log.info("Redis is to forget what has ended", plans=len(ended_plans), attempts=len(unwanted))
        effects.ended_plans.extend(ended_plans)
        effects.cancel.extend(unwanted & set(announced))
        effects.unwanted.extend(unwanted)

    def _look_for_emptying(self) -> None:
        with answers():
            made = self._transport.redis.set(MARKER, uuid.uuid4().hex, nx=True)
        if made:
            log.info("Redis is new or was emptied; running attempts get time to announce themselves")
            self._emptied()
            self._emptied_at = self._clock()
            self._announcements.blind()
            self._missed.clear()

    def _missing(self, queued: Mapping[str, str]) -> tuple[Collection[str], Collection[str]]:
        """Of queued attempts (id -> queue), those that neither a queue nor a worker has, seen so twice in a row.

        And those that are in no queue because a worker has claimed them.
        """
        if not queued:
            self._missed.clear()
            return (), ()
        present: set[str] = set()
        with answers():
            for name in set(queued.values()):
                queue = Queue(name, connection=self._transport.redis, serializer=JSONSerializer)
                present.update(cast("Sequence[str]", queue.get_job_ids()))
        absent = [attempt_id for attempt_id in queued if attempt_id not in present]
        claims = self._transport.claimed(absent)
        claimed = {attempt_id for attempt_id in absent if claims[attempt_id]}
        if self._emptied_at is not None and self._clock() - self._emptied_at < BLIND_AFTER:
            return (), claimed
        missed = set(absent) - claimed
        twice = missed & self._missed
        self._missed = missed - twice
        return twice, claimed

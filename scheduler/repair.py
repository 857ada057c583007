"""Differences between ledger and Redis, closed: attempts Redis lost, attempts whose worker is gone."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from rq import Queue
from rq.serializers import JSONSerializer

from dcm_processor import redis_memory
from dcm_processor.errors import TransportUnavailableError
from dcm_processor.judgement import longest_delay
from dcm_processor.ledger import Lease, Ledger, attempts, plans, repairs
from dcm_processor.logging import get_logger
from dcm_processor.manifest import JobSettings
from dcm_processor.outcome import Outcome
from dcm_processor.process import suspended_seconds
from dcm_processor.transport import ANNOUNCE_INTERVAL, MARKER, Transport, answers
from dcm_processor.vocabulary import AttemptState, ExitReason, RepairKind
from scheduler.effects import Effects
from scheduler.outcomes import end
from scheduler.progress import deciding, progress

log = get_logger()

BLIND_AFTER = 3 * ANNOUNCE_INTERVAL
"""Seconds between two looks after which the time between them does not count: the controller itself was away."""
SLEPT_AFTER = 1.0
"""Seconds that the machine was suspended after which the time since the last look does not count either."""
QUEUED_GRACE = 10.0
"""Seconds after which a queued attempt should be in a queue, or claimed."""
SCANS = 5
"""Steps through Redis's keys in one look for those that should be gone."""
PUSHED = 200
"""Attempts that are pushed again, or followed by their next, in one look, the oldest first."""
TOGETHER = 50
"""Of these so many are followed by their next in one transaction: the hook waits for the ledger meanwhile."""
SWEPT = 10
"""Plans looked at in one look of which something is on its way."""
SWEEP_SECONDS = 0.05
"""After which plans of which nothing is on its way are left for the next look."""


_FORGOT = "Redis was emptied, or evicted keys, while it was queued"


class Announcements:
    """Who was heard of when, by this controller's own monotonic clock. Pure: time and observations come in.

    An attempt is lost that said nothing for `lost_after` seconds, all through which Redis could be read.
    """

    def __init__(self, lost_after: float, blind_after: float = BLIND_AFTER) -> None:
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
        lost_after: float,
        clock: Callable[[], float] = time.monotonic,
        suspended: Callable[[], float] = suspended_seconds,
        emptied: Callable[[], object] = lambda: None,
    ) -> None:
        """`emptied` is called once Redis turned out to be new or emptied: its streams count anew."""
        self._ledger = ledger
        self._transport = transport
        self._clock = clock
        self._emptied = emptied
        self._lost_after = lost_after
        self._announcements = Announcements(lost_after)
        self._suspended, self._slept = suspended, suspended()
        self._cursor = 0  # in Redis's keys
        self._swept = ""  # the last study whose plan was looked at
        self._had: set[str] = set()  # queued attempts that somebody had at the last look
        self._emptied_at: float | None = None
        self._evicts = False  # told of in the log
        self._missed: set[str] = set()
        self._pushed: set[str] = set()  # told of in the log

    def attempts(self, lease: Lease, effects: Effects) -> None:
        """Push queued attempts that Redis does not know; end started ones that nobody announces; repeat cancels.

        A queued one that somebody has is started, though the report that said so was lost: from then on it can be lost.
        One that Redis forgot with everything else, or may have evicted with its claim, may have begun, and its worker
        be dead: it is lost, uncounted, and its next follows.
        """
        try:
            forgot_at = max(self._look_for_emptying(), self._look_for_eviction())
            announced = self._transport.announcements()
            with self._ledger.read() as db:
                started = attempts.started(db)
                queued = {row[0]: row for row in attempts.queued(db)}
            now = time.time()
            old = {id_: queue for id_, _, _, queue, at in queued.values() if not now - QUEUED_GRACE < at <= now}
            missing, claimed = self._missing(old)
        except TransportUnavailableError:
            self._announcements.blind()
            self._missed.clear()
            raise
        self._start_unreported(lease, effects, (announced.keys() & queued.keys()) | claimed)
        effects.cancel.extend(row["attempt_id"] for row in started if row["cancel_asked_at"] is not None)
        if self._suspended() - self._slept > SLEPT_AFTER:
            self._announcements.blind()  # so was its worker, if it is on this machine
        self._slept = self._suspended()
        lost = self._announcements.look([row["attempt_id"] for row in started], announced, self._clock())
        self._end_lost(lease, effects, lost)
        if missing:
            with self._ledger.write(lease) as db:
                repairs.count(db, RepairKind.ATTEMPT_UNKNOWN, len(missing), now=now)
        # One that was queued in the future was so before the clock was set back: what came after it is not known.
        kept = [attempt_id for attempt_id in missing if forgot_at <= queued[attempt_id][4] <= now]
        self._follow(lease, effects, [attempt_id for attempt_id in missing if attempt_id not in kept])
        self._pushed &= queued.keys()
        for attempt_id in kept:
            if attempt_id not in self._pushed:
                log.warning("a queued attempt that Redis does not know is pushed", attemptId=attempt_id)
            self._pushed.add(attempt_id)
            _, job_id, plan_id, _, _ = queued[attempt_id]
            effects.ready[plan_id].append(job_id)

    def _start_unreported(self, lease: Lease, effects: Effects, had: set[str]) -> None:
        """Of queued attempts that somebody has, start those of which that was so at the last look already."""
        for attempt_id in had & self._had:
            with deciding(self._ledger, lease, effects) as (db, _):
                found = attempts.get(db, attempt_id)
                if found is not None and found[0]["state"] == AttemptState.QUEUED:
                    attempts.start(db, found[0], now=time.time())
                    repairs.count(db, RepairKind.ATTEMPT_UNREPORTED, now=time.time())
        self._had = had

    def _follow(self, lease: Lease, effects: Effects, forgotten: Sequence[str]) -> None:
        """Have attempts that Redis forgot followed by their next ones."""
        for start in range(0, len(forgotten), TOGETHER):
            with deciding(self._ledger, lease, effects) as (db, own):
                for attempt_id in forgotten[start : start + TOGETHER]:
                    found = attempts.get(db, attempt_id)
                    if found is not None and found[0]["state"] == AttemptState.QUEUED:
                        log.warning(f"attempt lost: {_FORGOT}", attemptId=attempt_id)
                        outcome = Outcome(ExitReason.FORGOTTEN, error=_FORGOT)
                        end(db, found, outcome, own, now=time.time())

    def _end_lost(self, lease: Lease, effects: Effects, lost: Iterable[str]) -> None:
        for attempt_id in lost:
            with deciding(self._ledger, lease, effects) as (db, own):
                found = attempts.get(db, attempt_id)
                if found is not None and found[0]["state"] == AttemptState.STARTED:
                    log.warning("attempt lost: its worker was not heard of", attemptId=attempt_id)
                    outcome = Outcome(ExitReason.LOST, error=f"no announcement for {self._lost_after:.0f} s")
                    end(db, found, outcome, own, now=time.time())
                    repairs.count(db, RepairKind.ATTEMPT_LOST, now=time.time())

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
        latest = {
            row["job_id"]: now + longest_delay(JobSettings.from_json(row["settings"]).retry, row["outages"])
            for row in retrying
        }
        if ahead := [row["job_id"] for row in retrying if row["due_at"] > latest[row["job_id"]]]:
            with self._ledger.write(lease) as db:
                for job_id in ahead:
                    attempts.set_job(db, job_id, {"due_at": latest[job_id]})
                repairs.count(db, RepairKind.DUE_TOO_LATE, len(ahead), now=now)

    def plans(self, lease: Lease, effects: Effects) -> None:
        """Take on plans that stand still: an interrupted controller, or another hand, left them so.

        Those of which nothing is on its way come first; the others, whose next outcome would do it, some at a time.
        """
        with self._ledger.read() as db:
            idle = plans.idle(db)
            some = plans.unended(db, self._swept, SWEPT)
        self._swept = some[-1] if len(some) == SWEPT else ""
        until = self._clock() + SWEEP_SECONDS
        for study_id in idle:
            self._take_on(lease, effects, study_id)
            if self._clock() > until:
                break
        for study_id in some:
            self._take_on(lease, effects, study_id)

    def _take_on(self, lease: Lease, effects: Effects, study_id: str) -> None:
        own, now = Effects(), time.time()
        with self._ledger.write(lease) as db:
            if went_on := progress(db, study_id, own, now=now):
                repairs.count(db, RepairKind.PLAN_STALLED, now=now)
        if went_on:
            log.warning("a plan that stood still goes on", studyId=study_id)
        effects.add(own)

    def keys(self, lease: Lease, effects: Effects) -> None:
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
        if unwanted:
            with self._ledger.write(lease) as db:
                repairs.count(db, RepairKind.ATTEMPT_UNWANTED, len(unwanted), now=time.time())
        effects.ended_plans.extend(ended_plans)
        effects.cancel.extend(unwanted & set(announced))
        effects.unwanted.extend(unwanted)

    def _look_for_emptying(self) -> float:
        """When Redis was last found to be new or emptied, in seconds since the epoch; 0: that is not known."""
        with answers(), self._transport.redis.pipeline(transaction=True) as pipe:
            pipe.set(MARKER, f"{time.time():.3f}", nx=True)
            pipe.get(MARKER)
            made, marker = pipe.execute()
        if made:
            log.info("Redis is new or was emptied; running attempts get time to announce themselves")
            self._emptied()
            self._emptied_at = self._clock()
            self._announcements.blind()
            self._missed.clear()
        try:
            return float(marker)
        except (TypeError, ValueError):
            return 0.0

    def _look_for_eviction(self) -> float:
        """Until when Redis may have evicted keys, in seconds since the epoch; 0: it has not since it was started."""
        with answers():
            memory = redis_memory.read(self._transport.redis)
        evicts = memory is not None and memory.evicts
        if evicts and not self._evicts:
            log.warning(
                "Redis forgets what it took when it is full, and what it forgot is to be found and made again; "
                "set its maxmemory-policy to noeviction, and give it room enough",
                policy=memory and memory.policy,
                maxmemory=memory and memory.limit,
                evicted=memory and memory.evicted,
            )
        self._evicts = evicts
        return time.time() if memory is not None and memory.evicted else 0.0

    def _missing(self, queued: Mapping[str, str]) -> tuple[Sequence[str], set[str]]:
        """Of queued attempts (id -> queue), those that neither a queue nor a worker has, seen so twice in a row.

        And those that are in no queue because a worker has claimed them.
        """
        if not queued:
            self._missed.clear()
            return (), set()
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
        missed = [attempt_id for attempt_id in absent if attempt_id not in claimed]
        twice = [attempt_id for attempt_id in missed if attempt_id in self._missed][:PUSHED]
        self._missed = set(missed).difference(twice)
        return twice, claimed

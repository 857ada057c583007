"""What travels through Redis, and under which keys. Redis is transport: everything here can be lost and is made again.

    controller ── order (what an attempt needs) ──▶ dcmproc:order:<attemptId>, dcmproc:plan:<planId>
    worker ── claim ──▶ dcmproc:claim:<attemptId>        once, before an attempt starts
    worker ── announcement ──▶ dcmproc:announced         every ANNOUNCE_INTERVAL seconds while it runs
    worker ── report (started, outcome) ──▶ dcmproc:reports      resent until dcmproc:ack:<attemptId> says so
    worker ── log chunk ──▶ dcmproc:logs                 resent until dcmproc:log:<attemptId> says so
    scheduler ── wake ──▶ dcmproc:wake

All values are JSON; nothing is ever unpickled.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dcm_processor.compact_json import dumps, loads
from dcm_processor.errors import TransportUnavailableError
from dcm_processor.notes import Progress, progress_of
from dcm_processor.plan_view import added_params
from dcm_processor.redis_connection import connect
from dcm_processor.redis_line import Command, Line

PREFIX = "dcmproc:"
WAKE = PREFIX + "wake"
REPORTS = PREFIX + "reports"
LOGS = PREFIX + "logs"
ANNOUNCED = PREFIX + "announced"
MARKER = PREFIX + "marker"  # made by the controller; when it is gone, Redis was emptied

ANNOUNCE_INTERVAL = 5.0
"""Seconds between two announcements of a running attempt."""
ACK_SECONDS = 24 * 3600
"""How long an acknowledgement, or the wish to cancel, is kept for a worker that was away."""
LOG_SECONDS = 24 * 3600
"""How long it is kept how much of a log was received: a worker ships it again where that is gone, which is harmless."""
LOG_CHUNK = 64 * 1024
"""Bytes of log in one entry."""
LOG_BACKLOG = 256
"""Entries of log that may wait in Redis; a shipper holds back above that."""
_SCANNED = 1000  # keys looked at in one step


@dataclass(frozen=True)
class PlanOrder:
    """What all attempts of a plan share; `headers` are the study's (the study-level view).

    `injected` maps a job's name to what its callback injected; of a series job it is {seriesId: what}, and the name
    stands in `seriesJobs`. `services` maps every job's name to its service, in plan order. `dataId` is the id of the
    scheduler's DATA (`data_id`); "": every worker shares it. `current` maps every service to the version that was
    current when the plan was laid down in Redis: the code that others may import.
    """

    planId: str
    studyId: str
    headers: dict[str, Any]
    selected: list[str]  # HEADER_FIELDS as they were, for notes on reads that were not selected
    instances: dict[str, list[str]]  # seriesId -> Orthanc instance ids, exactly what is to be fetched
    injected: dict[str, Any] = field(default_factory=dict)
    seriesJobs: list[str] = field(default_factory=list)
    services: dict[str, str] = field(default_factory=dict)
    dataId: str = ""
    current: dict[str, str] = field(default_factory=dict)

    def added_params(self, series_id: str | None) -> dict[str, Any]:
        """What a job of the study (None) or of one of its series sees as `added_params`, by job name."""
        return added_params(self.injected, self.seriesJobs, series_id)


@dataclass(frozen=True)
class Order:
    """What one attempt needs beside its plan; lies in Redis until the attempt's outcome was accepted."""

    attemptId: str
    jobId: str
    attempt: int
    planId: str
    studyId: str
    seriesId: str | None  # None: a study job
    jobName: str
    service: str
    digest: str  # the service's version
    worker: str  # dotted name of the function
    timeout: float  # seconds, of the function alone
    memory: int | None  # bytes
    params: dict[str, Any]
    inputs: dict[str, Any]  # job name -> output folder relative to DATA, or {seriesId: folder}
    outcomes: dict[str, Any]  # dependency -> {"state", "reason"} (+ "series": {seriesId: …} of a series job)
    pythonVersion: str | None = None  # None: the Python that runs the platform
    warm: bool = True  # may be run by a process that has imported its module before


@dataclass(frozen=True)
class Report:
    """What a worker says of an attempt: `started` once (and again should it not be known), `outcome` at the end."""

    kind: str  # "started" | "outcome"
    attemptId: str
    claim: str  # the claim's token: worker name and a random part
    worker: str
    host: str
    outcome: dict[str, Any] = field(default_factory=dict)  # Outcome of dcm_processor/outcome.py as JSON

    def ended(self, outcome: dict[str, Any]) -> "Report":
        """The same attempt's `outcome`."""
        return replace(self, kind="outcome", outcome=outcome)


@dataclass(frozen=True)
class Held:
    """Plans with a key of theirs, and attempts with an order or a claim; `cursor` leads to more, 0: that was all."""

    plan_ids: Set[str]
    attempt_ids: Set[str]
    cursor: int


_Kind = TypeVar("_Kind", Order, PlanOrder)


class Transport:
    """Redis, as far as this project uses it beside RQ.

    Every method raises TransportUnavailableError where Redis does not answer, or refuses.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self.url = url
        self.redis: redis.Redis = connect(
            url,
            socket_timeout=timeout + 5,
            socket_connect_timeout=timeout,
            socket_keepalive=True,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1),
        )
        self._line = Line(self.redis)
        self._claim = self.redis.register_script(_CLAIM)
        self.refused = False  # told in the log that not all could be laid down (Effects.carry_out)

    def close(self) -> None:
        self.redis.close()

    def ask(self, *commands: Command) -> list[Any]:
        """See `Line.ask`."""
        with answers():
            return self._line.ask(*commands)

    # -- scheduler and CLI

    def wake(self, reason: str) -> None:
        """Tell the controller that the ledger holds something new."""
        with answers():
            self.redis.xadd(WAKE, {"reason": reason}, maxlen=1000, approximate=True)

    # -- controller

    @staticmethod
    def laying_down(plan: PlanOrder | None, orders: Sequence[Order]) -> Command:
        """To be asked: lay down what attempts need (None: the plan is there)."""
        command: list[str] = ["MSET"]
        for order in orders:
            command += (PREFIX + "order:" + order.attemptId, dumps(vars(order)))
        if plan is not None:
            command += (PREFIX + "plan:" + plan.planId, dumps(vars(plan)))
        return tuple(command)

    def forget_attempts(self, attempt_ids: Iterable[str], *, acknowledge: bool) -> None:
        """Remove what belongs to ended attempts; `acknowledge` tells their worker that the outcome was taken.

        No transaction: a full Redis refuses the acknowledgement, and is to have the room all the same.
        """
        with answers(), self.redis.pipeline(transaction=False) as pipe:
            for attempt_id in attempt_ids:
                pipe.delete(PREFIX + "order:" + attempt_id, PREFIX + "claim:" + attempt_id)
                pipe.hdel(ANNOUNCED, attempt_id)
                if acknowledge:
                    pipe.delete(PREFIX + "cancel:" + attempt_id)
                    pipe.set(PREFIX + "ack:" + attempt_id, "1", ex=ACK_SECONDS)
            pipe.execute()

    @staticmethod
    def pushing(plan_id: str, queue_key: str, attempt_ids: Sequence[str]) -> Command:
        """To be asked: put attempts on a queue of RQ; answered by 0, and not done, where what they share is gone."""
        return ("EVAL", _PUSH, 2, PREFIX + "plan:" + plan_id, queue_key, *attempt_ids)

    def forget_plan(self, plan_id: str) -> None:
        with answers():
            self.redis.delete(PREFIX + "plan:" + plan_id)

    def held(self, cursor: int) -> "Held":
        """Some of the plans and attempts that something is held of; begin with 0."""
        plan_ids: set[str] = set()
        attempt_ids: set[str] = set()
        with answers():
            cursor, keys = cast("Any", self.redis.scan(cursor, match=PREFIX + "*:*", count=_SCANNED))
        for key in keys:
            kind, _, name = key.decode().removeprefix(PREFIX).partition(":")
            if kind in ("order", "claim"):
                attempt_ids.add(name)
            elif kind == "plan":
                plan_ids.add(name)
        return Held(plan_ids, attempt_ids, int(cursor))

    def request_cancel(self, attempt_ids: Iterable[str]) -> None:
        """Ask the workers that run these attempts to end them."""
        with answers(), self.redis.pipeline(transaction=False) as pipe:
            for attempt_id in attempt_ids:
                pipe.set(PREFIX + "cancel:" + attempt_id, "1", ex=ACK_SECONDS)
            pipe.execute()

    def announcements(self) -> dict[str, str]:
        """attemptId -> a text that changes with every announcement."""
        with answers():
            found = cast("dict[bytes, bytes]", self.redis.hgetall(ANNOUNCED))
        return {key.decode(): value.decode() for key, value in found.items()}

    def claimed(self, attempt_ids: Sequence[str]) -> dict[str, bool]:
        """Which of the attempts somebody claimed."""
        if not attempt_ids:
            return {}
        with answers():
            values = cast("list[bytes | None]", self.redis.mget([PREFIX + "claim:" + i for i in attempt_ids]))
        return {i: value is not None for i, value in zip(attempt_ids, values, strict=True)}

    def read(
        self, positions: Mapping[str, str], *, block_ms: int, count: int = 500
    ) -> dict[str, list[tuple[str, dict[str, bytes]]]]:
        """Entries after `positions` (stream -> last id read, "0" for all), waiting up to `block_ms` for the first."""
        [found] = self.ask(("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *positions, *positions.values()))
        return {
            name.decode(): [(entry.decode(), _fields(fields)) for entry, fields in entries]
            for name, entries in dict(found or ()).items()  # RESP2 has pairs there
        }

    def drop(self, stream: str, entry_ids: Sequence[str]) -> None:
        """Remove entries that were dealt with."""
        if entry_ids:
            with answers():
                self.redis.xdel(stream, *entry_ids)

    # -- worker

    def order(self, attempt_id: str) -> tuple[Order, PlanOrder] | None:
        """What the attempt needs, or None: nobody wants that attempt (any more)."""
        with answers():
            text = cast("bytes | None", self.redis.get(PREFIX + "order:" + attempt_id))
            if text is None:
                return None
            order = _known(Order, loads(text))
            plan = cast("bytes | None", self.redis.get(PREFIX + "plan:" + order.planId))
        return (order, _known(PlanOrder, loads(plan))) if plan is not None else None

    def claim(self, report: Report) -> bool:
        """Claim an attempt and say `started`, in one step; False: somebody else has it, or nobody wants it any more.

        Nobody does of one whose outcome was taken, or that is to be cancelled, though it was pushed again since.
        """
        with answers():
            return bool(
                self._claim(
                    keys=[
                        PREFIX + "order:" + report.attemptId,
                        PREFIX + "claim:" + report.attemptId,
                        REPORTS,
                        ANNOUNCED,
                        PREFIX + "ack:" + report.attemptId,
                        PREFIX + "cancel:" + report.attemptId,
                    ],
                    args=[report.claim, dumps(vars(report)), report.attemptId],
                )
            )

    def announce(self, report: Report, count: int, progress: Progress | None = None) -> bool:
        """Say that the attempt still runs and how far it is; True: cancel it.

        Should Redis have been emptied, that restores the claim.
        """
        said = f"{report.claim}/{count}" + (f"\n{dumps(progress.to_json())}" if progress else "")
        with answers(), self.redis.pipeline(transaction=False) as pipe:
            pipe.hset(ANNOUNCED, report.attemptId, said)
            pipe.set(PREFIX + "claim:" + report.attemptId, report.claim)
            pipe.exists(PREFIX + "cancel:" + report.attemptId)
            return bool(pipe.execute()[-1])

    def report(self, report: Report) -> None:
        self.ask(("XADD", REPORTS, "*", "report", dumps(vars(report))))

    def backlog(self, stream: str) -> int:
        """Entries of a stream that nobody has dealt with."""
        with answers():
            return int(self.redis.xlen(stream))

    def acknowledged(self, attempt_id: str) -> bool:
        with answers():
            return bool(self.redis.exists(PREFIX + "ack:" + attempt_id))

    def plans_among(self, plan_ids: Collection[str]) -> set[str]:
        """Those of the plans that something is held of: they have not ended."""
        asked = list(plan_ids)
        with answers(), self.redis.pipeline(transaction=False) as pipe:
            for plan_id in asked:
                pipe.exists(PREFIX + "plan:" + plan_id)
            return {plan_id for plan_id, there in zip(asked, pipe.execute(), strict=True) if there}

    def given_up(self, attempt_id: str) -> bool:
        """Whether the attempt was to be ended, as the scheduler asks also where it counts as lost."""
        with answers():
            return bool(self.redis.exists(PREFIX + "cancel:" + attempt_id))

    # -- logs

    def log_received(self, attempt_id: str) -> int:
        """Bytes of the attempt's log that lie in the scheduler's LOGS."""
        with answers():
            return int(cast("Any", self.redis.get(PREFIX + "log:" + attempt_id)) or 0)

    def log_room(self) -> bool:
        """Whether another chunk of log may go into Redis."""
        with answers():
            return self.redis.xlen(LOGS) < LOG_BACKLOG

    def send_log(self, attempt_id: str, offset: int, chunk: bytes) -> None:
        with answers():
            self.redis.xadd(LOGS, {"attemptId": attempt_id, "offset": str(offset), "chunk": chunk})

    def log_taken(self, attempt_id: str, size: int) -> None:
        with answers():
            self.redis.set(PREFIX + "log:" + attempt_id, str(size), ex=LOG_SECONDS)


def _fields(flat: Sequence[bytes]) -> dict[str, bytes]:
    """A stream's entry, of which Redis tells names and values in turn."""
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _known(kind: type[_Kind], fields: Mapping[str, Any]) -> _Kind:
    """Without the fields that a newer controller has added, while hosts are updated one after the other."""
    return kind(**{name: value for name, value in fields.items() if name in kind.__dataclass_fields__})


def parse_report(entry: Mapping[str, bytes]) -> Report:
    """The report in an entry of REPORTS; its outcome is still to be judged (`Outcome.from_json`).

    Raises ValueError or TypeError where somebody put something else there.
    """
    report = Report(**loads(entry.get("report", b"null")))
    texts = (report.attemptId, report.claim, report.worker, report.host)
    if report.kind not in ("started", "outcome") or not all(isinstance(text, str) for text in texts):
        raise ValueError("no report")
    return report


def said_progress(client: redis.Redis, attempt_ids: Sequence[str]) -> dict[str, Progress]:
    """How far those of the attempts are that run and say so, as of their last announcements.

    `client` is any that reads. Raises TransportUnavailableError.
    """
    if not attempt_ids:
        return {}
    with answers():
        said = cast("list[bytes | None]", client.hmget(ANNOUNCED, list(attempt_ids)))
    found = {i: progress_of((text or b"").partition(b"\n")[2]) for i, text in zip(attempt_ids, said, strict=True)}
    return {attempt_id: progress for attempt_id, progress in found.items() if progress is not None}


class answers:  # noqa: N801 - reads as a phrase: `with answers():`
    """Turn the client's errors into TransportUnavailableError, those of a Redis that answers and refuses too."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, redis.RedisError | OSError):
            raise TransportUnavailableError(reason(error)) from error


def reason(error: BaseException) -> str:
    """Why Redis cannot be used, of an error of its client; no value of what was asked stands in it."""
    if isinstance(error, redis.OutOfMemoryError):
        return "Redis is full and takes nothing: make room there, or give it more (maxmemory)"
    if isinstance(error, redis.ResponseError):  # of a pipeline's the client's text begins with the command
        return f"Redis refuses: {str(error).rpartition('of pipeline caused error: ')[2]}"
    return f"Redis does not answer: {type(error).__name__}: {error}"


_CLAIM = """
-- KEYS: order, claim, reports, announced, ack, cancel   ARGV: token, report, attemptId
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[5], KEYS[6]) > 0 then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[1] then return 1 end -- ours: the answer to the first try got lost
if not redis.call('SET', KEYS[2], ARGV[1], 'NX') then return 0 end
redis.call('HSET', KEYS[4], ARGV[3], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'report', ARGV[2])
return 1
"""

_PUSH = """
-- KEYS: plan, queue   ARGV: attemptIds
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, attempt in ipairs(ARGV) do redis.call('RPUSH', KEYS[2], attempt) end
return 1
"""

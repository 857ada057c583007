"""One plan taken as far as it goes now: what may run, what never will, and what that makes of its study."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection

from dcm_processor.advance import Node, advance
from dcm_processor.ledger import Lease, Ledger, attempts, plans, studies
from dcm_processor.vocabulary import JobState, OnDependencyFailure, Stage, StudyState, Verdict
from scheduler.effects import Effects
from scheduler.enqueue import orders_of

JobRow = Mapping[Any, Any]

_CARRIED = "as in an earlier run"
_FEW = 100  # series; of more, all of the plan is looked at once


@dataclass(frozen=True)
class Decision:
    """What is to be done about a plan's jobs (by id), and where its study then stands."""

    ready: list[str]
    skipped: tuple[tuple[str, str], ...]
    ended: bool
    study: StudyState
    reason: str | None


def decide(jobs: Sequence[JobRow], *, blocked: bool) -> Decision:
    """Pure; `jobs` in plan order, `blocked` while an earlier plan of the study still runs something."""
    scheduled = [job for job in jobs if job["verdict"] == Verdict.SCHEDULED]
    states = {job["job_id"]: JobState(job["state"]) for job in scheduled}
    decided = advance([_node(job) for job in scheduled], states)
    ready = [] if blocked else list(decided.ready)
    states |= dict.fromkeys((job_id for job_id, _ in decided.skipped), JobState.SKIPPED)
    ended = not decided.ready and all(state.ended for state in states.values())
    study, reason = _verdict(jobs, states) if ended else (StudyState.RUNNING, None)
    return Decision(ready, decided.skipped, ended, study, reason)


def apply(decision: Decision, jobs: Sequence[dict[str, Any]], *, now: float) -> None:
    """Have rows of jobs say what was decided: the ready ones are queued with their next attempt."""
    by_id = {job["job_id"]: job for job in jobs}
    for job_id, reason in decision.skipped:
        by_id[job_id].update(state=JobState.SKIPPED, reason=reason, ended_at=now)
    for job_id in decision.ready:
        by_id[job_id].update(state=JobState.QUEUED, attempt=by_id[job_id]["attempt"] + 1)


@contextmanager
def deciding(ledger: Ledger, lease: Lease, effects: Effects) -> Iterator[tuple[Connection, Effects]]:
    """A transaction of the leader, and what follows from it: that is added to `effects` once it is committed.

    The plans of the studies it touched are taken on within it, each once.
    """
    own = Effects()
    with ledger.write(lease) as db:
        yield db, own
        for study_id in dict.fromkeys([*own.touched, *own.finished]):
            finished = own.finished[study_id] if study_id not in own.touched else ()
            progress(db, study_id, own, finished, now=time.time())
    effects.add(own)


def progress(db: Connection, study_id: str, effects: Effects, finished: Sequence[JobRow] = (), *, now: float) -> bool:
    """Take the study's active plan on, in one transaction: skip what never will run, queue what may, end what ended.

    Where it is known that nothing has changed but that `finished` jobs have, only what these concern is looked at.
    Doing it again changes nothing. Returns whether there was something to do.
    """
    series = _concerned(db, finished)
    # No plan is made in a transaction that takes outcomes: the one of a job that finished was committed before.
    whole = plans.small(db, study_id, finished[0]["plan_id"]) if finished and not series else None
    plan, rows = whole or (plans.active(db, study_id), [])
    if plan is None:
        return False
    if plan["runs"] and not plan["waits"]:
        studies.set_state(db, study_id, StudyState.RUNNING, now=now)  # others run, and nobody waits for this one
        return False
    if any(job["plan_id"] != plan["plan_id"] for job in finished):
        series = set()
    rows = _taken_over(db, rows or plans.outline(db, plan["plan_id"], series))
    blocked = bool(plan["blocked"])
    decision = decide_within(rows, finished, blocked=blocked) if series else decide(rows, blocked=blocked)
    attempts.skip(db, decision.skipped, now=now)
    ready = set(decision.ready)
    attempts.queue(db, [row for row in rows if row["job_id"] in ready], now=now)
    state, reason = decision.study, decision.reason
    if decision.ended and (unplanned := studies.unplanned(db, study_id)) is not None:
        state, reason = unplanned
    if (state, reason) != (plan["state"], plan["reason"]):
        studies.set_state(db, study_id, state, reason=reason, now=now)
    ends = decision.ended and plan["ended_at"] is None
    if ends:
        plans.end(db, plan["plan_id"], now=now)
        effects.ended_plans.append(plan["plan_id"])
    if ready:
        apply(decision, rows, now=now)
        made = [row for row in rows if row["job_id"] in ready] if whole else plans.jobs_by_id(db, study_id, ready)
        effects.orders.append(orders_of(rows, made))
    return bool(ready or decision.skipped or ends)


def _concerned(db: Connection, finished: Sequence[JobRow]) -> set[str]:
    """The series that alone are concerned where these jobs finished; none: all of their plan is.

    As long as a job of the same name has not ended for another series, no job of the study as a whole that depends on
    it may run, and no later stage begins.
    """
    series = {job["series_id"] for job in finished}
    if len(series) > _FEW or None in series:
        return set()
    names = {(job["plan_id"], job["job_name"]) for job in finished}
    return series if all(plans.others_go_on(db, plan_id, name) for plan_id, name in names) else set()


def decide_within(jobs: Sequence[JobRow], finished: Sequence[JobRow], *, blocked: bool) -> Decision:
    """`decide` for series' jobs alone, of the stage that goes on; the study's own are there as what these wait for."""
    stages = {job["settings"]["stage"] for job in finished}
    open_ones = {job["job_id"] for job in jobs if job["series_id"] is not None and job["settings"]["stage"] in stages}
    known = [job if job["job_id"] in open_ones else {**job, "dependencies": []} for job in jobs]
    decision = decide(known, blocked=blocked)
    return Decision(
        ready=[job_id for job_id in decision.ready if job_id in open_ones],
        skipped=tuple(each for each in decision.skipped if each[0] in open_ones),
        ended=False,
        study=StudyState.RUNNING,
        reason=None,
    )


def carried(job: JobRow) -> str:
    """The reason of a job that stands in another plan as it ended in its own."""
    why = str(job["reason"] or job["job_id"])
    return why if why.startswith(_CARRIED) else f"{_CARRIED}: {why}"


def _taken_over(db: Connection, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plan's jobs, after those that wait for a run of an earlier plan have taken over its end where it came.

    One that finished, or was cancelled, is their end too; after any other they run themselves.
    """
    waiting = [job for job in jobs if job["state"] == JobState.WAITING and job["reused_from"] is not None]
    ends = plans.ended_among(db, [job["reused_from"] for job in waiting])
    for job in waiting:
        if (end := ends.get(job["reused_from"])) is None:
            continue
        values: dict[str, Any] = {"reused_from": None, "reason": None}
        if end["state"] in (JobState.FINISHED, JobState.CANCELLED):
            values = {key: end[key] for key in ("state", "started_at", "ended_at")} | {"reason": carried(end)}
        attempts.set_job(db, job["job_id"], values)
        job.update(values)
    return jobs


def _node(job: JobRow) -> Node:
    settings = job["settings"]
    depends = tuple(job["dependencies"])
    return _made(job["job_id"], job["job_name"], settings["stage"], depends, settings["onDependencyFailure"])


@lru_cache(1024)
def _made(job_id: str, job_name: str, stage: str, dependencies: tuple[str, ...], on_failure: str) -> Node:
    """Kept, since a job's successor waits for those of all of its plan."""
    return Node(job_id, job_name, Stage(stage), dependencies, OnDependencyFailure(on_failure))


def _verdict(jobs: Sequence[JobRow], states: Mapping[str, JobState]) -> tuple[StudyState, str | None]:
    """A study failed where a job failed, was cancelled, or could not be decided about."""
    bad = [
        job["job_name"]
        for job in jobs
        if states.get(job["job_id"]) in (JobState.FAILED, JobState.CANCELLED) or job["verdict"] == Verdict.ERRORED
    ]
    if bad:
        names = ", ".join(dict.fromkeys(bad))
        return StudyState.FAILED, f"not finished: {names}"
    if not states:
        return StudyState.FINISHED, "no job applies"
    return StudyState.FINISHED, None

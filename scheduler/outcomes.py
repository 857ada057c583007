"""What workers report, taken into the ledger: an attempt started, an attempt ended. Each attempt ends once."""

import random
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from dcm_processor.judgement import Tries, judge
from dcm_processor.ledger import attempts, plans, repairs, results
from dcm_processor.logging import get_logger
from dcm_processor.manifest import Retry
from dcm_processor.outcome import Outcome
from dcm_processor.plan_view import result_folder
from dcm_processor.transport import Report
from dcm_processor.vocabulary import AttemptState, ExitReason, JobState, RepairKind
from scheduler.effects import Effects

log = get_logger()

_LINE, _TEXT = 2_000, 100_000


def take(db: Connection, report: Report, effects: Effects, *, now: float) -> None:
    """Take one report, inside the caller's transaction."""
    found = attempts.get(db, report.attemptId)
    if found is None:
        log.warning("a report of an attempt that the ledger does not know", attemptId=report.attemptId)
        effects.accepted.append(report.attemptId)
        return
    attempt = found[0]
    state = AttemptState(attempt["state"])
    if report.kind == "started":
        if state is AttemptState.QUEUED or (state is AttemptState.STARTED and attempt["worker"] is None):
            attempts.start(db, attempt, worker=report.worker, host=report.host, now=now)
        elif state is not AttemptState.STARTED:
            effects.cancel.append(report.attemptId)
        return
    if state not in (AttemptState.QUEUED, AttemptState.STARTED):
        repairs.count(db, RepairKind.OUTCOME_OLD, now=now)
        effects.accepted.append(report.attemptId)  # it ended before: sent twice, or a lost one that came back
        return
    left_out: list[str] = []
    outcome = Outcome.from_json(report.outcome, left_out.append)
    if left_out:
        log.warning("parts of an outcome cannot be, and are left out", attemptId=report.attemptId, parts=left_out)
    end(
        db,
        found,
        outcome,
        effects,
        now=now,
        worker=report.worker,
        host=report.host,
    )


def end(
    db: Connection,
    found: tuple[Mapping[str, Any], Mapping[str, Any]],
    outcome: Outcome,
    effects: Effects,
    *,
    now: float,
    worker: str | None = None,
    host: str | None = None,
) -> None:
    """End the current attempt of a job (`found` holds both), whoever says so; its study's plan is to be taken on.

    A lost one's worker may come back: it is asked to end what it runs.
    """
    attempt, job = found
    attempt_id = attempt["attempt_id"]
    retry = Retry.model_validate(job["settings"]["retry"])
    tries = Tries(job["failures"], job["transients"], job["losses"], job["outages"])
    judgement = judge(outcome, tries, retry, random.random())  # noqa: S311 - jitter, no secret
    state, reason = judgement.job, judgement.reason
    if not state.ended and not plans.is_active(db, job["plan_id"]):
        state, reason = JobState.SUPERSEDED, "superseded while it ran"
    if state is not JobState.FINISHED and job["cancel_asked_at"] is not None:
        state, reason = JobState.CANCELLED, "cancelled by hand"
    values: dict[str, Any] = {
        "exit_reason": outcome.exitReason,
        "error": _shortened(outcome.error, _LINE),
        "traceback": _shortened(outcome.traceback, _TEXT),
        "phases": outcome.phases,
        "details": outcome.details,
    }
    if worker is not None and attempt["worker"] is None:
        values |= {"worker": worker[:128], "host": (host or "")[:128]}
    if attempt["started_at"] is None:
        values["started_at"] = min((moments[0] for moments in outcome.phases.values()), default=None)
    attempts.end(db, attempt_id, judgement.attempt, values, now=now)
    results.add(db, attempt_id, outcome.results)
    job_values: dict[str, Any] = {"state": state, "reason": _shortened(reason, _LINE)}
    if judgement.counter:
        job_values[judgement.counter] = job[judgement.counter] + 1
    if judgement.counter != "outages":
        job_values["outages"] = 0
    if state is JobState.RETRYING:
        job_values["due_at"] = now + judgement.delay
    elif state.ended:
        job_values["ended_at"] = now
        if job["started_at"] is None:
            job_values["started_at"] = values.get("started_at") or now
    if outcome.exitReason is ExitReason.DONE:
        effects.publish.append((attempt_id, result_folder(job)))
    attempts.set_job(db, job["job_id"], job_values)
    if judgement.attempt is AttemptState.LOST and worker is None:
        effects.unwanted.append(attempt_id)
        effects.cancel.append(attempt_id)
    else:
        effects.accepted.append(attempt_id)
    effects.told.append(
        {
            "jobId": job["job_id"],
            "planId": job["plan_id"],
            "studyId": job["study_id"],
            "attempt": attempt["attempt"],
            "exitReason": outcome.exitReason,
            "jobState": state,
        }
    )
    effects.goes_on(job, finished=state is JobState.FINISHED)


def _shortened(text: str | None, most: int) -> str | None:
    if text is None or len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[…]\n{text[-most // 2 :]}"

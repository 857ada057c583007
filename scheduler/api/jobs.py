"""Jobs: listed, shown, read the logs of, run again, and cancelled."""

import re
from collections import defaultdict
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.alias_generators import to_camel
from werkzeug.exceptions import Conflict, RequestedRangeNotSatisfiable

from dcm_processor.errors import NotKnownError
from dcm_processor.live import add_progress
from dcm_processor.registry import ServiceRegistry
from dcm_processor.vocabulary import EventKind, JobState, Level, Verdict
from scheduler.api.lists import Asked, Cursor, Limit, bad_cursor
from scheduler.api.models import AcceptedJobs, BulkAccepted, Job, JobPage, RefusedJob
from scheduler.api.operation import operation
from scheduler.joblog import read_log
from scheduler.parts import parts, record_all_and_wake, record_and_wake

jobs = Blueprint("jobs", __name__)

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_UNKNOWN = "the ledger knows no such job; a study's jobs stand in /api/v1/studies/<studyId>"


class JobsQuery(Asked):
    """What `GET /jobs` may be asked; all terms must hold."""

    model_config = ConfigDict(alias_generator=to_camel)

    state: JobState | None = Field(default=None, description="Only jobs in this state.")
    service: str | None = Field(default=None, min_length=1, max_length=64, description="Only jobs of this service.")
    job_name: str | None = Field(default=None, min_length=1, max_length=64, description="Only jobs of this name.")
    since: AwareDatetime | None = Field(
        default=None, description="Only jobs that ended then or later: RFC 3339, such as `2026-01-31T06:00:00Z`."
    )
    current: bool = Field(
        default=False, description="Only jobs of their study's newest plan; those of earlier ones cannot run again."
    )
    cursor: Cursor = None
    limit: Limit = 50


class JobSearch(JobsQuery):
    """Which jobs to find. What a reason says travels in the body, since addresses end up in logs."""

    reason: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="What their reason says, or a part of it; case is ignored.",
    )


class LogQuery(Asked):
    """Which part of which log."""

    attempt: int | None = Field(
        default=None, ge=1, le=1_000_000, description="The attempt; without it the current one."
    )
    offset: int = Field(default=0, ge=0, le=2**53, description="Bytes to leave out: 0, or the last `X-Next-Offset`.")


class Jobs(Asked):
    """Jobs, by their identifiers."""

    job_ids: list[Annotated[str, Field(max_length=300)]] = Field(
        alias="jobIds", min_length=1, max_length=1000, description="Identifiers of jobs, 1,000 at most."
    )


@jobs.get("/jobs")
@operation("List jobs", answer=JobPage, query=JobsQuery, problems=(400,))
def list_jobs(query: JobsQuery) -> JobPage:
    """Jobs of all plans, newest first."""
    return _page("query", query)


@jobs.post("/jobs/search")
@operation("Find jobs", answer=JobPage, body=JobSearch, body_optional=True, body_limit=16384, problems=(400, 413, 415))
def search_jobs(body: JobSearch) -> JobPage:
    """Jobs for which all terms hold, newest first: `{"state": "failed", "reason": "CUDA"}` are dead letters."""
    return _page("body", body)


@jobs.get("/jobs/<job_id>")
@operation("Show a job", answer=Job, problems=(404,))
def show_job(job_id: str) -> Job:
    """The job with its attempts."""
    job = _known(job_id)
    add_progress(parts().redis, [job])
    return Job.model_validate(job)


@jobs.get("/jobs/<job_id>/log")
@operation(
    "Read a job's log",
    query=LogQuery,
    problems=(400, 404, 416),
    content="text/plain; charset=utf-8",
    headers={
        "X-Next-Offset": "Bytes of the log up to the end of this answer: the `offset` to go on from.",
        "X-Log-Complete": "`true` where nothing will follow this answer, else `false`.",
        "X-Log-Attempt": "The attempt whose log it is; absent before the first.",
    },
)
def show_log(job_id: str, query: LogQuery) -> Response:
    """What an attempt wrote to stdout and stderr, from `offset` on, 1 MiB at most, byte for byte: an answer may begin
    or end inside a character. To follow a job, keep `attempt` and ask from `X-Next-Offset` on until `X-Log-Complete`.
    """
    job = _known(job_id)
    number = query.attempt or job["attempt"]
    attempt = next((attempt for attempt in job["attempts"] if attempt["attempt"] == number), None)
    if attempt is None and query.attempt is not None:
        raise NotKnownError(f"the job has no attempt {query.attempt}; it has had {job['attempt']}")
    part = read_log(parts().settings.logs, job, attempt, query.offset)
    if query.offset > part.size:
        raise RequestedRangeNotSatisfiable(description=f"The log has {part.size} bytes so far", length=part.size)
    response = Response(part.content, content_type="text/plain; charset=utf-8")
    response.headers["X-Next-Offset"] = str(query.offset + len(part.content))
    response.headers["X-Log-Complete"] = "true" if part.complete else "false"
    if attempt is not None:
        response.headers["X-Log-Attempt"] = str(number)
    return response


@jobs.post("/jobs/<job_id>/rerun")
@operation("Run a job again", answer=AcceptedJobs, status=202, problems=(404, 409))
def rerun_job(job_id: str) -> AcceptedJobs:
    """Run the job and its dependents again: same headers and params, today's version; its dependencies are reused.

    Of that version's settings.json too, but for params and for what makes the plan (dependsOn, stage, level and order).
    """
    job = _known(job_id)
    if why := _why_no_rerun(parts().ledger.standing([job_id])[job_id], parts().store.load()):
        raise Conflict(why)
    return _record(EventKind.RERUN, job["studyId"], [job_id])


@jobs.post("/jobs/rerun")
@operation("Run jobs again", answer=BulkAccepted, status=202, body=Jobs, problems=(400, 413, 415))
def rerun_jobs(body: Jobs) -> BulkAccepted:
    """Each as `/jobs/<jobId>/rerun`, those of a study together. What cannot be run again is said; the rest goes on.

    For more than 1,000: find them (`/jobs/search` with `current`), and ask for so many at a time, a study's together.
    """
    refused: list[RefusedJob] = []
    together: dict[str, list[str]] = defaultdict(list)
    asked = list(dict.fromkeys(body.job_ids))
    known = parts().ledger.standing([job_id for job_id in asked if _JOB_ID.fullmatch(job_id)])
    services = parts().store.load()
    for job_id in asked:
        if (job := known.get(job_id)) is None:
            refused.append(RefusedJob(job_id=job_id, status=404, reason=_UNKNOWN))
        elif why := _why_no_rerun(job, services):
            refused.append(RefusedJob(job_id=job_id, status=409, reason=why))
        else:
            together[job["studyId"]].append(job_id)
    payloads = {study_id: {"jobIds": job_ids} for study_id, job_ids in together.items()}
    event_ids = record_all_and_wake(EventKind.RERUN, payloads) if payloads else {}
    return BulkAccepted(
        accepted=[
            AcceptedJobs(study_id=study_id, event_id=event_id, job_ids=together[study_id])
            for study_id, event_id in event_ids.items()
        ],
        refused=refused,
    )


@jobs.post("/jobs/<job_id>/cancel")
@operation("Cancel a job", answer=AcceptedJobs, status=202, problems=(404, 409))
def cancel_job(job_id: str) -> AcceptedJobs:
    """End the job, running or not; its dependents are skipped."""
    job = _known(job_id)
    if job["state"] is None:
        raise Conflict(f"The job was not scheduled ({job['verdict']}): there is nothing to cancel")
    if JobState(job["state"]).ended:
        raise Conflict(f"The job is {job['state']}: there is nothing to cancel")
    return _record(EventKind.CANCEL, job["studyId"], [job_id])


def _page(where: str, asked: JobsQuery) -> JobPage:
    terms = asked.model_dump(by_alias=True, exclude_none=True, exclude={"state", "cursor", "limit", "since"})
    if asked.since is not None:
        terms["since"] = asked.since.timestamp()
    try:
        page = parts().ledger.jobs(asked.state, asked.cursor, asked.limit, terms)
    except ValueError:
        raise bad_cursor(where) from None
    add_progress(parts().redis, page.items)
    return JobPage.model_validate({"items": page.items, "nextCursor": page.next_cursor})


def _known(job_id: str) -> dict[str, Any]:
    found = parts().ledger.job(job_id) if _JOB_ID.fullmatch(job_id) else None
    if found is None:
        raise NotKnownError(_UNKNOWN)
    return found


def _why_no_rerun(job: dict[str, Any], services: ServiceRegistry) -> str | None:
    if job["verdict"] != Verdict.SCHEDULED:
        return f"The job was not scheduled ({job['verdict']}); run its study again to have the callbacks asked anew"
    if not JobState(job["state"]).ended:
        return f"The job is {job['state']}; it can be run again once it has ended, or be cancelled"
    if job["planId"] != job["newestPlanId"]:
        return f"The study has a later plan, {job['newestPlanId']}; run the job of that plan again"
    if services.same(job["service"], job["jobName"], Level(job["level"])) is None:
        return (
            f"Service {job['service']} is not installed any more, or not with this job; install it again (`bash "
            "service.sh install`) to run the job, or run the study again to have it planned without"
        )
    return None


def _record(kind: EventKind, study_id: str, job_ids: list[str]) -> AcceptedJobs:
    event_id = record_and_wake(kind, study_id, {"jobIds": job_ids})
    return AcceptedJobs(study_id=study_id, event_id=event_id, job_ids=job_ids)

"""`dcm-processor job`: single jobs, through the scheduler's HTTP API."""

import codecs
import sys
import time
from typing import Any

import click

from dcm_processor.cli.client import Client, checked, no_job
from dcm_processor.cli.context import settings
from dcm_processor.cli.output import (
    json_option,
    local_time,
    printable,
    printable_log,
    seconds_between,
    show_json,
    show_table,
)
from dcm_processor.vocabulary import JobState

_JOB = click.argument("job_id", metavar="JOB")
_BETWEEN_LOOKS = 0.5  # seconds
_NOT_KNOWN = 404  # HTTP's status


@click.group()
def job() -> None:
    """List, show, rerun and cancel jobs, and read their logs.

    A JOB is named by its identifier, as `study show` gives it.
    """


@job.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@json_option
def list_(state: str | None, limit: int, *, as_json: bool) -> None:
    """List jobs of all studies, newest first."""
    found = list(Client(settings()).pages("/jobs", {"state": state}, limit))
    if as_json:
        show_json(found)
        return
    rows = [
        (
            each["jobName"],
            each["state"] or each["verdict"],
            each["attempt"] or "",
            local_time(each["startedAt"]),
            seconds_between(each["startedAt"], each["endedAt"]),
            each["reason"],
            each["jobId"],
        )
        for each in found
    ]
    show_table(("JOB", "STATE", "ATTEMPT", "STARTED", "TOOK", "REASON", "ID"), rows, "no jobs")


@job.command()
@_JOB
@json_option
def show(job_id: str, *, as_json: bool) -> None:
    """Show a job with its attempts, and with what went wrong."""
    found = Client(settings()).get(f"/jobs/{checked(job_id)}")
    if as_json:
        show_json(found)
        return
    reason = f": {found['reason']}" if found["reason"] else ""
    click.echo(printable(f"job {found['jobName']}: {found['state'] or found['verdict']}{reason}"))
    for label, value in _facts(found):
        click.echo(printable(f"  {label:<10} {value}"))
    if found["attempts"]:
        rows = [
            (
                each["attempt"],
                each["state"],
                each["exitReason"],
                local_time(each["startedAt"]),
                seconds_between(each["startedAt"], each["endedAt"]),
                each["host"],
                each["error"],
            )
            for each in found["attempts"]
        ]
        show_table(("ATTEMPT", "STATE", "EXIT", "STARTED", "TOOK", "HOST", "ERROR"), rows, "")
    last = found["attempts"][-1]["traceback"] if found["attempts"] else None
    for title, text in (("callback's output", found["callbackOutput"]), ("traceback", last or found["traceback"])):
        if text:
            click.echo(printable(f"\n{title}:\n{text.rstrip()}"))


@job.command()
@_JOB
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt's; without it the current one's.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document on stdout.")
def log(job_id: str, *, follow: bool, attempt: int | None, as_json: bool) -> None:
    """Print what a job wrote to stdout and stderr."""
    client = Client(settings())
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces: list[str] = []
    part = client.log_part(job_id, 0, attempt)
    while part.content or (follow and not part.complete):
        text = decoder.decode(part.content)
        if as_json:
            pieces.append(text)
        else:
            click.echo(printable_log(text) if sys.stdout.isatty() else text, nl=False)
        if not part.content:
            time.sleep(_BETWEEN_LOOKS)
        part = client.log_part(job_id, part.next_offset, part.attempt)
    if as_json:
        show_json({"jobId": job_id, "attempt": part.attempt, "complete": part.complete, "log": "".join(pieces)})


@job.command()
@click.argument("job_ids", metavar="JOB…", nargs=-1, required=True)
@json_option
def rerun(job_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Run jobs and their dependents again: same headers and params, today's version of their service."""
    answer = Client(settings()).post("/jobs/rerun", {"jobIds": list(job_ids)})
    if as_json:
        show_json(answer)
    for accepted in [] if as_json else answer["accepted"]:
        click.echo(f"accepted; `dcm-processor study show {accepted['studyId']}` shows what comes of it")
    for refused in answer["refused"]:
        name, reason = refused["jobId"], refused["reason"]
        told = no_job(name) if refused["status"] == _NOT_KNOWN else f"{name}: {reason}"
        click.echo(f"dcm-processor: {printable(told)}", err=True)
    raise SystemExit(1 if answer["refused"] else 0)


@job.command()
@_JOB
@json_option
def cancel(job_id: str, *, as_json: bool) -> None:
    """End a job, running or not; its dependents are skipped."""
    accepted = Client(settings()).post(f"/jobs/{checked(job_id)}/cancel")
    if as_json:
        show_json(accepted)
    else:
        click.echo(f"accepted; `dcm-processor job show {job_id}` shows what comes of it")


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("study", found["studyId"]),
        ("series", found["seriesId"]),
        ("plan", found["planId"]),
        ("service", f"{found['service']}, version {found['version'][:12]}"),
        ("queue", found["queue"]),
        ("reused", found["reusedFrom"]),
        ("retry at", local_time(found["dueAt"])),
    ]
    return [(label, value) for label, value in facts if value]

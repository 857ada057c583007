"""`dcm-processor job`: single jobs, through the scheduler's HTTP API."""

import codecs
import sys
import time
from typing import Any

import click

from dcm_processor.cli.client import checked
from dcm_processor.cli.context import scheduler
from dcm_processor.cli.dead_letters import ENDED, chosen, filter_options, search_terms, show_accepted, show_refused
from dcm_processor.cli.output import (
    json_option,
    local_time,
    printable,
    printable_log,
    seconds_between,
    show_json,
    show_table,
)
from dcm_processor.errors import UsageError
from dcm_processor.notes import in_words
from dcm_processor.vocabulary import JobState

_JOB = click.argument("job_id", metavar="JOB")
_BETWEEN_LOOKS = 0.5  # seconds


@click.group()
def job() -> None:
    """List, show, rerun and cancel jobs, and read their logs.

    A JOB is named by its identifier, as `study show` gives it.

    \b
    Examples:
      dcm-processor job list --state failed
    """


@job.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@filter_options
@click.option("--current", is_flag=True, help="Only jobs of their study's newest plan.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@json_option
def list_(state: str | None, limit: int, *, current: bool, as_json: bool, **terms: str | None) -> None:
    """List jobs of all studies, newest first.

    \b
    Examples:
      dcm-processor job list
      dcm-processor job list --state failed --service lungs --since 24h
    """
    search = {"state": state, "current": current, **search_terms(**terms)}
    found = list(scheduler().found("/jobs/search", search, limit))
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
            in_words(each["attempts"][-1] if each["attempts"] else None) or each["reason"],
            each["jobId"],
        )
        for each in found
    ]
    show_table(("JOB", "STATE", "ATTEMPT", "STARTED", "TOOK", "REASON", "ID"), rows, "no jobs")


@job.command()
@_JOB
@json_option
def show(job_id: str, *, as_json: bool) -> None:
    """Show a job with its attempts, and with what went wrong.

    \b
    Examples:
      dcm-processor job show c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c-0e791b9c7b8c-1-dcm2nii
    """
    found = scheduler().get(f"/jobs/{checked(job_id)}")
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
        current = found["attempts"][-1]
        if progress := in_words(current):
            click.echo(printable(f"  {'progress':<10} {progress}"))
        for each in current["results"]:
            click.echo(printable(f"  {each['name']} = {each['value']} {each['unit'] or ''}".rstrip()))
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
    """Print what a job wrote to stdout and stderr.

    \b
    Examples:
      dcm-processor job log c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c-0e791b9c7b8c-1-dcm2nii --follow
    """
    client = scheduler()
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
@click.argument("job_ids", metavar="[JOB…]", nargs=-1)
@click.option("--state", type=click.Choice(ENDED), help="All that ended so; `failed` where another filter is given.")
@filter_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask before jobs that were not named run again.")
@json_option
def rerun(job_ids: tuple[str, ...], state: str | None, *, yes: bool, as_json: bool, **terms: str | None) -> None:
    """Run jobs and their dependents again: same headers and params, today's version of their service.

    Either JOBs by name, or all that the filters find in the newest plans; how many is said, and asked, before.

    \b
    Examples:
      dcm-processor job rerun c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c-0e791b9c7b8c-1-dcm2nii
      dcm-processor job rerun --service lungs --reason CUDA --since 2d --yes
    """
    client = scheduler()
    search = search_terms(**terms)
    if bool(job_ids) == bool(search or state):
        raise UsageError("name jobs, or say by --state, --service, --job, --since or --reason which; not both")
    if search or state:
        together = chosen(client, {"state": state or JobState.FAILED, "current": True, **search}, ask=not yes)
    else:
        together = [list(job_ids)]
    accepted: list[Any] = []
    refused: list[Any] = []
    try:
        for ids in together:
            answer = client.post("/jobs/rerun", {"jobIds": ids})
            accepted += answer["accepted"]
            refused += answer["refused"]
    finally:  # what was accepted before something failed runs all the same
        if as_json:
            show_json({"accepted": accepted, "refused": refused})
        show_accepted(accepted, quiet=as_json)
        show_refused(refused)
    raise SystemExit(1 if refused else 0)


@job.command()
@_JOB
@json_option
def cancel(job_id: str, *, as_json: bool) -> None:
    """End a job, running or not; its dependents are skipped.

    \b
    Examples:
      dcm-processor job cancel c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c-0e791b9c7b8c-1-dcm2nii
    """
    accepted = scheduler().post(f"/jobs/{checked(job_id)}/cancel")
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

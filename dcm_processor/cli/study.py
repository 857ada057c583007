"""`dcm-processor study`: what the ledger knows of studies, through the scheduler's HTTP API."""

from collections.abc import Iterable
from typing import Any

import click

from dcm_processor.cli.context import scheduler
from dcm_processor.cli.output import json_option, local_time, printable, seconds_between, show_json, show_table
from dcm_processor.errors import PermanentError
from dcm_processor.notes import in_words
from dcm_processor.vocabulary import AttemptState, StudyState, Verdict

_STUDY = click.argument("study")
_LAST = 15  # entries of a history
_MOST_RESULTS = 40
_RETURNED = {True: "True", False: "False", None: ""}
_FOUND = {
    "present": "present",
    "absent": "absent in this study",
    "notSelected": "not selected by HEADER_FIELDS",
    "differs": "not at the top: the series differ",
    "unknown": "no DICOM keyword",
}


@click.group()
def study() -> None:
    """List, show, explain and rerun studies.

    A STUDY is named by Orthanc's identifier or by its StudyInstanceUID.

    \b
    Examples:
      dcm-processor study list
      dcm-processor study show c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c
    """


@study.command("list")
@click.option("--state", type=click.Choice([state.value for state in StudyState]), help="Only studies in this state.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@json_option
def list_(state: str | None, limit: int, *, as_json: bool) -> None:
    """List studies, newest first.

    \b
    Examples:
      dcm-processor study list
      dcm-processor study list --state failed --json
    """
    found = list(scheduler().pages("/studies", {"state": state}, limit))
    if as_json:
        show_json(found)
        return
    rows = [
        (
            each["studyId"],
            each["state"],
            _in_short(each),
            each["studyDate"],
            " ".join(each["modalities"]),
            each["description"],
            local_time(each["changedAt"]),
        )
        for each in found
    ]
    columns = ("STUDY", "STATE", "JOBS", "DATE", "MODALITIES", "DESCRIPTION", "CHANGED")
    show_table(columns, rows, "no studies yet; send one with `dcm-processor send PATH`")


@study.command()
@_STUDY
@json_option
def show(study: str, *, as_json: bool) -> None:
    """Show a study with the jobs of its newest plan, and what happened to it lately (all of it: --json).

    \b
    Examples:
      dcm-processor study show c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c
      dcm-processor study show 1.2.840.113619.2.55.3 --json
    """
    client = scheduler()
    found = client.get(f"/studies/{client.study_id(study)}")
    if as_json:
        show_json(found)
        return
    reason = f": {found['reason']}" if found["reason"] else ""
    click.echo(printable(f"study {found['studyId']}: {found['state']}{reason}"))
    about = [found["studyDate"], " ".join(found["modalities"]), found["description"], found["studyInstanceUID"]]
    click.echo(printable("  ".join(part for part in about if part)))
    if found["unplanned"] and found["unplanned"] != found["reason"]:
        click.echo(printable(f"what it holds now has no plan: {found['unplanned']}"))
    if found["plans"]:
        _show_plan(*found["plans"])
    else:
        click.echo("no plan" if found["state"] == StudyState.UNPLANNED else "no plan yet")
    _show_history(found["history"])


def _show_plan(plan: dict[str, Any], *earlier: dict[str, Any]) -> None:
    """The newest plan with its jobs."""
    click.echo(printable(f"plan {plan['planId']}, {local_time(plan['createdAt'])} ({plan['reason']})"))
    rows = [
        (
            job["jobName"],
            _short(job["seriesId"]),
            job["state"] or job["verdict"],
            job["attempt"] or "",
            seconds_between(job["startedAt"], job["endedAt"]),
            in_words(job["attempts"][-1] if job["attempts"] else None) or job["reason"],
            job["jobId"],
        )
        for job in plan["jobs"]
    ]
    show_table(("JOB", "SERIES", "STATE", "ATTEMPT", "TOOK", "REASON", "ID"), rows, "no service is installed")
    _show_results(plan["jobs"])
    for fault in plan["faults"]:
        click.echo(f"warning: {printable(fault)}", err=True)
    if earlier:
        click.echo(f"earlier plans: {len(earlier)}; --json shows them")


def _show_results(jobs: list[dict[str, Any]]) -> None:
    """What the plan's jobs found and named, as far as it is few lines."""
    rows = [
        (job["jobName"], _short(job["seriesId"]), result["name"], result["value"], result["unit"])
        for job in jobs
        for attempt in job["attempts"][-1:]
        for result in attempt["results"]
        if attempt["state"] == AttemptState.FINISHED
    ]
    if rows:
        click.echo()
        show_table(("JOB", "SERIES", "RESULT", "VALUE", "UNIT"), rows[:_MOST_RESULTS], "")
    if len(rows) > _MOST_RESULTS:
        click.echo(f"and {len(rows) - _MOST_RESULTS} more results; `dcm-processor result list` has all")


def _show_history(history: list[dict[str, Any]]) -> None:
    """What happened, oldest first; for a request that changed nothing this is the only place to say so."""
    click.echo()
    if len(history) > _LAST:
        click.echo(f"what happened before: {len(history) - _LAST} entries; --json shows them")
    rows = [(local_time(entry["at"]), entry["what"], entry["text"]) for entry in history[-_LAST:]]
    show_table(("WHEN", "WHAT", "WHY, AND WHAT CAME OF IT"), rows, "")


@study.command()
@_STUDY
@click.option("--reads", is_flag=True, help="Also what each callback reads of the headers, and what is not there.")
@json_option
def explain(study: str, *, reads: bool, as_json: bool) -> None:
    """Show the plan a study would get now, and why. Callbacks are asked; nothing is written or enqueued.

    RETURNED is what the callback said, and PARAMS what it injected for later jobs. With --reads each callback is
    watched: which keywords it looks at, and why one is not there. That is best effort: what it reads of a copy is not
    seen.

    \b
    Examples:
      dcm-processor study explain c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c
      dcm-processor study explain c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c --reads
    """
    client = scheduler()
    query = {"reads": "true"} if reads else None
    found = client.get(f"/studies/{client.study_id(study)}/explain", query)
    held = found["ending"] == "held"
    if as_json:
        show_json(found)
        raise SystemExit(1 if found["reason"] and not held else 0)
    if held:
        click.echo(printable(found["reason"]))
        click.echo("the plan it would get all the same, as by `study rerun --force`:")
    elif found["reason"]:
        raise PermanentError(f"the study would get no plan: {found['reason']}")
    click.echo(printable(f"{len(found['seriesIds'])} series, {found['numberOfInstances']} instances"))
    rows = [
        (
            job["jobName"],
            _short(job["seriesId"]),
            job["verdict"],
            _RETURNED[job["applies"]],
            " ".join(job["injected"]),
            job["queue"],
            ", ".join(dict.fromkeys(each["jobName"] for each in job["dependencies"])),
            job["reason"],
        )
        for job in found["jobs"]
    ]
    columns = ("JOB", "SERIES", "VERDICT", "RETURNED", "PARAMS", "QUEUE", "AFTER", "REASON")
    show_table(columns, rows, "no service is installed")
    for job in found["jobs"]:
        _show_callback(job)
    if reads:
        _show_reads(found["jobs"])
    for fault in found["faults"]:
        click.echo(f"warning: {printable(fault)}", err=True)


@study.command()
@_STUDY
@click.option("-j", "--job", "jobs", multiple=True, help="Only jobs of this name, with their dependents; repeatable.")
@click.option("--force", is_flag=True, help="Also if the study is held back since it is not complete.")
@json_option
def rerun(study: str, jobs: tuple[str, ...], *, force: bool, as_json: bool) -> None:
    """Plan a study anew with the services of today, and run its jobs.

    \b
    Examples:
      dcm-processor study rerun c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c
      dcm-processor study rerun c5ea2cc5-0e791b9c-7b8cd277-91bfc636-f431e78c --job dcm2nii
    """
    client = scheduler()
    study_id = client.study_id(study)
    body = {"jobs": list(jobs)} if jobs else {}
    accepted = client.post(f"/studies/{study_id}/rerun", {**body, "force": force})
    if as_json:
        show_json(accepted)
    else:
        click.echo(f"accepted; `dcm-processor study show {study_id}` shows what comes of it")


def _show_callback(job: dict[str, Any]) -> None:
    """What there is to read of a callback that failed or said something."""
    texts = [job["callbackOutput"], job["traceback"] if job["verdict"] == Verdict.ERRORED else None]
    for text in filter(None, texts):
        click.echo(printable(f"\n{job['jobName']} {_short(job['seriesId'])}".rstrip() + ":"))
        click.echo(printable(text.rstrip("\n")))


def _show_reads(jobs: Iterable[dict[str, Any]]) -> None:
    """What callbacks looked at, a line a keyword."""
    click.echo("\nwhat callbacks read of the headers (best effort):")
    rows = [
        (job["jobName"], _short(job["seriesId"]), read["keyword"], read["place"], _FOUND[read["found"]])
        for job in jobs
        for read in job["reads"] or ()
    ]
    show_table(("JOB", "SERIES", "KEYWORD", "WHERE", "FOUND"), rows, "nothing")


def _in_short(found: dict[str, Any]) -> str | None:
    """How many jobs stand where; why there are none, or none of the newest revision."""
    counts = ", ".join(f"{count} {state}" for state, count in found["jobs"].items())
    reason: str | None = found["reason"]
    return reason if found["state"] in (StudyState.UNPLANNED, StudyState.WAITING) or not counts else counts


def _short(series_id: str | None) -> str:
    return (series_id or "")[:8]

"""`dcm-processor service replay`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dcm_processor.cli.context import scheduler, settings
from dcm_processor.cli.number import Number
from dcm_processor.cli.output import json_option, local_time, printable, show_json, show_table
from dcm_processor.cli.service.document import FOLDER
from dcm_processor.errors import ManifestError
from dcm_processor.manifest import Defaults
from dcm_processor.plan import order
from dcm_processor.rehearsal.children import Question, asking
from dcm_processor.rehearsal.sources import Source, read_source, together
from dcm_processor.replay import Replay
from dcm_processor.settings import Settings

_SHOWN = 20  # studies, or errors


@click.command()
@click.argument("path", type=FOLDER)
@click.option("--days", type=Number(min=0, max=36_500), default=30, show_default=True, help="How far back.")
@click.option("--name", help="The service's name; without it what its functions are called by.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="Most studies."
)
@json_option
def replay(path: Path, days: float, name: str | None, limit: int, *, as_json: bool) -> None:
    """Ask the callbacks of a service that is not installed about studies of the past: which it would have taken.

    They are asked on this machine, in processes of their own, with the headers that the scheduler's ledger keeps of
    each study's newest plan. Nothing is installed, written or enqueued. `added_params` is empty: no other service is
    asked; and whether a job's dependencies would have run is not looked at.

    Exit status 1 where a callback failed.

    \b
    Examples:
      dcm-processor service replay volume --days 30
      dcm-processor service replay volume --days 365 --limit 500 --json
    """
    chosen = settings(beside_scheduler=True)
    source = _checked(path, chosen, name)
    jobs, folders = order(together([source])[0]), {source.name: source.registry}
    found = Replay()
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    with _progress() as told, asking() as ask:
        for study in scheduler().pages("/headers", {"since": since}, limit):
            question = Question(jobs, study["headers"], study["selected"], folders, chosen.CALLBACK_TIMEOUT)
            found.add(study, ask(question))
            told(found, study)
    if as_json:
        show_json(_document(source, days, found))
    else:
        _show(found)
    raise SystemExit(1 if found.failed else 0)


def _checked(path: Path, chosen: Settings, name: str | None) -> Source:
    """Raises ManifestError with all that is wrong."""
    source = read_source(path, Defaults(chosen.DEFAULT_LEVEL, chosen.DEFAULT_PRIORITY, chosen.QUEUES), name)
    if source.faults:
        raise ManifestError("\n".join(map(str, source.faults)))
    return source


@contextmanager
def _progress() -> Iterator[Any]:
    """How far it is, on a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking for headers")

        def told(found: Replay, study: Mapping[str, Any]) -> None:
            now = f"{len(found.items)} studies asked about, back to {local_time(study['plannedAt'])}"
            progress.update(task, description=now)

        yield told


def _show(found: Replay) -> None:
    click.echo(f"{len(found.items)} studies, {len(found.taken)} would have been taken, {found.failed} callbacks failed")
    rows = [(job, count.studies, count.runs, count.failed) for job, count in found.jobs.items()]
    show_table(("JOB", "STUDIES", "RUNS", "FAILED"), rows, "no study was planned in this time")
    if found.taken:
        click.echo()
        taken = [
            (item["studyId"], local_time(item["plannedAt"]), ", ".join(_names(item))) for item in found.taken[:_SHOWN]
        ]
        show_table(("TAKEN", "PLANNED", "JOBS"), taken, "")
        if len(found.taken) > _SHOWN:
            click.echo(f"and {len(found.taken) - _SHOWN} more; --json has all")
    for (job, error), count in found.errors.most_common(_SHOWN):
        click.echo(printable(f"{count} times {job}: {error}"), err=True)


def _names(item: Mapping[str, Any]) -> dict[str, None]:
    return dict.fromkeys(job["jobName"] for job in item["jobs"] if job["applies"])


def _document(source: Source, days: float, found: Replay) -> dict[str, Any]:
    return {
        "service": source.name,
        "version": source.digest,
        "days": days,
        "studies": len(found.items),
        "taken": len(found.taken),
        "failed": found.failed,
        "jobs": [{"jobName": name, **asdict(count)} for name, count in found.jobs.items()],
        "items": found.items,
    }

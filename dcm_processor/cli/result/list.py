"""`dcm-processor result list`."""

import sys
from datetime import UTC, datetime, timedelta

import click

from dcm_processor.cli.context import scheduler
from dcm_processor.cli.number import Number
from dcm_processor.cli.output import show_json, show_table
from dcm_processor.cli.result import table

_ALL = 10**9
_COLUMNS = 8
"""Names that a terminal has room for."""


@click.command("list")
@click.option("--service", required=True, help="The service whose jobs' results to list.")
@click.option("--job", "job_name", help="Only jobs of this name.")
@click.option("--name", "names", multiple=True, help="Only results of this name; repeatable.")
@click.option("--days", type=Number(min=0, max=100_000), help="Only of attempts that ended within so many days.")
@click.option("--all", "all_attempts", is_flag=True, help="Also of attempts that failed, and of earlier runs.")
@click.option("--long", "long", is_flag=True, help="One row a result, with its unit; else one row a job.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=_ALL, help="Of how many jobs at most; without it all."
)
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values, UTF-8, for pandas or a spreadsheet.")
@click.option("--json", "form", flag_value="json", help="For programs: one JSON document on stdout.")
@click.option("--table", "form", flag_value="table", default="table", help="For people; what comes without an option.")
def list_(
    *,
    service: str,
    job_name: str | None,
    names: tuple[str, ...],
    days: float | None,
    limit: int,
    form: str,
    all_attempts: bool,
    long: bool,
) -> None:
    """List the named results of a service's jobs, newest first.

    One row a job (a study, or a series of one) and one column a result name. What counts is the newest run of a job
    that finished, for each study and series.

    \b
    Examples:
        dcm-processor result list --service lungs
        dcm-processor result list --service lungs --days 30 --csv > lungs.csv
        dcm-processor result list --service lungs --name volume --long --json
    """
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat() if days is not None else None
    terms = {"service": service, "jobName": job_name, "since": since, "named": True, "allAttempts": all_attempts}
    terms |= {"name": names[0]} if len(names) == 1 else {}
    items = table.only(scheduler().found("/results/search", terms, limit), names)
    if form == "json":
        show_json(items)
        return
    if form == "csv":
        text = table.csv_text(table.long(items) if long else table.wide(items))
        click.echo(text.encode(), nl=False)  # UTF-8 whatever the locale is
    else:
        _show(items, long=long, all_attempts=all_attempts)
    if not long and (differing := table.units_that_differ(items)):
        names_shown = ", ".join(differing[:10])
        click.echo(f"warning: results of one name have several units, which `--long` shows: {names_shown}", err=True)


def _show(items: list[table.Row], *, long: bool, all_attempts: bool) -> None:
    about = (*table.SHORT, "attempt", "state") if all_attempts else table.SHORT
    names = list(dict.fromkeys(result["name"] for item in items for result in item["results"]))
    if not long and sys.stdout.isatty() and len(names) > _COLUMNS:
        items = table.only(items, names[:_COLUMNS])
        click.echo(f"{len(names) - _COLUMNS} more names; `--name`, `--long` and `--csv` show them", err=True)
    columns, rows = table.long(items, about) if long else table.wide(items, about)
    heads = [name.upper() if name in table.ABOUT else name for name in columns]
    empty = "no job of this service has named a result; docs/services.md says how: dcm_processor_job.result"
    show_table(heads, [[table.shown(value) for value in row] for row in rows], empty)

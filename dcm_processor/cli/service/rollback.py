"""`dcm-processor service rollback`."""

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, printable, show_json
from dcm_processor.store import Store


@click.command(
    epilog="\b\nExamples:\n  dcm-processor service rollback lung\n  dcm-processor service rollback lung --to 3f2a9c"
)
@click.argument("name")
@click.option("--to", metavar="VERSION", help="A version that is kept, by the first digits of its digest.")
@json_option
def rollback(name: str, to: str | None, *, as_json: bool) -> None:
    """Go back to the version that was current before. Jobs that run, or wait, keep the version they were planned with.

    A second rollback goes forward again. The last three versions before the current one are kept.
    """
    rolled = Store.of(settings()).rollback(name, to)
    warnings = [str(warning) for warning in rolled.warnings]
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        show_json({"name": name, "version": rolled.digest, "before": rolled.before, "warnings": warnings})
    else:
        click.echo(f"service {name}: version {rolled.before[:12]} → {rolled.digest[:12]}, from the next study on")

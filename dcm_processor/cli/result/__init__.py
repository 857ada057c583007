"""`dcm-processor result`: what jobs found and left, through the scheduler's HTTP API. One module a verb."""

import click

from dcm_processor.cli.lazy import LazyGroup

_VERBS = {
    "list": "List the named results of a service's jobs: a table, CSV or JSON.",
    "get": "Get the files that jobs left, of studies that match a query.",
}


@click.group(cls=LazyGroup, package=__name__, lazy=_VERBS)
def result() -> None:
    """List what jobs found, and get the files that they left.

    \b
    Examples:
      dcm-processor result list --service lungs
      dcm-processor result get --query PatientID=ABC-* -o results
    """

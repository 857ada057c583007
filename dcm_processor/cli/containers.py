"""`dcm-processor containers`: what run.sh asks where everything runs in containers; Compose does the rest."""

import click

from dcm_processor import containers as stack
from dcm_processor.cli import stack_display as display
from dcm_processor.cli.context import settings
from dcm_processor.errors import UsageError


@click.group()
def containers() -> None:
    """For run.sh: make ready what containers mount, and say what runs.

    \b
    Examples:
      dcm-processor containers prepare
    """
    if settings().MODE != "containers":
        raise UsageError("this is for containers: run.sh calls it in one (MODE=containers)")


@containers.command()
@click.option("--workers-only", is_flag=True, help="Workers of another host's installation alone.")
def prepare(*, workers_only: bool) -> None:
    """Have folders, secrets and configurations in BASEDIR.

    \b
    Examples:
      dcm-processor containers prepare
      dcm-processor containers prepare --workers-only
    """
    if workers_only:
        stack.prepare_workers(settings())
    else:
        stack.prepare(settings())


@containers.command()
@click.option("--workers", type=click.IntRange(min=0), required=True, help="How many run.")
def started(workers: int) -> None:
    """Wait until studies are planned; then put down what runs, and say it.

    \b
    Examples:
      dcm-processor containers started --workers 4
    """
    state, known = stack.started(settings(), workers)
    display.console().print(display.summary(settings(), state, known))

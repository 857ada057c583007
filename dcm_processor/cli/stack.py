"""`dcm-processor stack`: local mode, up, down and status; run.sh is a thin wrapper around it."""

import json
import signal
import sys
from dataclasses import asdict

import click

from dcm_processor.cli import stack_display as display
from dcm_processor.cli.context import settings
from dcm_processor.errors import UsageError
from dcm_processor.local.stack import Stack


class Scale(click.ParamType[int]):
    """`worker=N`, as Compose takes it."""

    name = "worker=N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        service, _, number = str(value).partition("=")
        if service != "worker" or not number.isdecimal() or int(number) > 999:
            self.fail("only workers can be scaled, as in worker=4", param, ctx)
        return int(number)


@click.group()
def stack() -> None:
    """Local mode: everything as processes of this machine.

    \b
    Examples:
      dcm-processor stack status
    """


@stack.command()
@click.option("--scale", type=Scale(), help="How many workers; without it as many as run, 1 at a start.")
@click.option("--demo", is_flag=True, help="Then send the sample studies and show what ran.")
@click.option("--force", is_flag=True, help="The demo also where other studies or services are.")
@click.pass_context
def up(ctx: click.Context, scale: int | None, demo: bool, force: bool) -> None:
    """Start what does not run, wait until all of it answers, and say what runs where.

    \b
    Examples:
      dcm-processor stack up
      dcm-processor stack up --scale worker=4
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: nothing half-started stays
    stack = Stack(settings())
    with display.Progress(display.console(stderr=True)) as progress:
        done = stack.up(scale, demo=demo, watch=progress)
    display.console().print(display.summary(settings(), done.state, done.known, done.changed))
    if demo:
        try:
            ctx.invoke(_demo(), force=force, started_by_us=done.started, as_json=False)
        except UsageError:  # it refused: a stack that was started for it alone, with its STABLE_AGE, must not stay
            if done.started:
                stack.down()
            raise


@stack.command()
def down() -> None:
    """Stop everything; what waits and what ran is kept.

    \b
    Examples:
      dcm-processor stack down
    """
    ended = Stack(settings()).down()
    for process in ended.killed:
        click.echo(f"process {process.pid} ({process.name}) did not end by itself and was killed", err=True)
    click.echo("stopped; nothing is lost: the next start goes on" if ended.ran else "nothing runs")


@stack.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """Say what runs; exit status 1 where nothing does.

    \b
    Examples:
      dcm-processor stack status
      dcm-processor stack status --json
    """
    found = Stack(settings()).status()
    if as_json:
        state, programs = found or (None, [])
        shown = {
            "running": found is not None,
            "stack": state and asdict(state),
            "programs": [asdict(p) for p in programs],
        }
        click.echo(json.dumps(shown))
    elif found is None:
        click.echo("nothing runs; `bash run.sh --local` starts it")
    else:
        display.console().print(display.programs(*found))
    raise SystemExit(0 if found else 1)


def _demo() -> click.Command:
    from dcm_processor.cli.demo import demo  # noqa: PLC0415 - DICOM and phantoms, half a second that only a demo needs

    return demo

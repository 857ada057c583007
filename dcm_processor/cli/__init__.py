"""The command line: `dcm-processor NOUN VERB …`, one module a noun, imported when it is asked for.

What a command prints for programs (`--json`, tables through a pipe) goes to stdout, progress and warnings to stderr.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import importlib
import os
import sys
from typing import Any

import click

from dcm_processor.errors import DcmProcessorError, UsageError

_NOUNS = {  # imported only where they are used: `--help` need not wait for what one noun needs
    "service": "Install, remove, back up and list services.",
    "study": "Studies: list, show, explain, run again.",
    "job": "Jobs: list, show, read logs, run again, cancel.",
    "completeness": "Rules that hold studies back: check.",
    "send": "Send DICOM files, folders and zip archives, as a scanner does.",
    "demo": "Send sample studies and show what becomes of them.",
    "secret": "Passwords and tokens: rotate, list.",
    "stack": "Start and stop everything on this machine.",
    "containers": "For run.sh: what containers find when they start.",
}


class _Nouns(click.Group):
    """The nouns, and what they share: errors of ours are one clear line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _NOUNS:
            return None
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_NOUNS.items()))

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit; wrong usage is one line as well."""
        try:
            status = super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            from dcm_processor.cli.misuse import told  # noqa: PLC0415 - difflib, which `--help` need not wait for

            click.echo(f"dcm-processor: {told(error)}", err=True)
            sys.exit(error.exit_code)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except DcmProcessorError as error:
            click.echo(f"dcm-processor: {error}", err=True)
            ctx.exit(2 if isinstance(error, UsageError) else 1)


@click.group(cls=_Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dcm-processor", prog_name="dcm-processor")
def main() -> None:
    """Runs every matching DICOM study through your Python functions."""

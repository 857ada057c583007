"""`dcm-processor service install`."""

from pathlib import Path

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.cli.service.document import source_option
from dcm_processor.cli.service.environment_display import see_to_environments, wait_option
from dcm_processor.cli.service.installing import Done, all_or, document, install_from, warnings_of
from dcm_processor.sources.source import parse
from dcm_processor.store import Store, check_name

_EXAMPLES = """\b
Examples:
  dcm-processor service install lung -p path/to/lung
  dcm-processor service install lung -p lung-1.2.tar.gz
  dcm-processor service install -p git+https://example.org/services.git@v1.2
  dcm-processor service install lung -p git+ssh://git@example.org/services.git@main#subdirectory=lung"""


@click.command(epilog=_EXAMPLES)
@click.argument("name", required=False)
@source_option(required=True)
@click.option("--upgrade", is_flag=True, help="Lock its requirements anew, to the newest versions they allow.")
@wait_option
@json_option
def install(name: str | None, source: str, *, upgrade: bool, wait: bool | None, as_json: bool) -> None:
    """Install a service, or another version of it. Jobs that run, or wait, keep the version they were planned with.

    Without NAME all services of the source are installed, or none, called as their settings.json says.
    """
    if name is not None:
        check_name(name)
    store = Store.of(settings())
    done = install_from(store, parse(source, Path.cwd()), all_or(name), upgrade=upgrade)
    documents = [document(each, warnings_of(store, each)) for each in done]
    if as_json:
        show_json(documents if name is None else documents[0])
    else:
        for each in done:
            _say(each)
    see_to_environments(settings(), store, [each.name for each in done], wanted=wait)


def _say(done: Done) -> None:
    word = "installed" if done.installed.changed else "already installed"
    commit = f", commit {done.origin.commit[:12]}" if done.origin.commit else ""
    click.echo(f"service {done.name}: {word}, version {done.installed.digest[:12]}{commit}")
    for job in done.installed.jobs:
        state = ", disabled" if job.disabled else ""
        click.echo(f"  job {job.job_name} (level {job.level}, stage {job.stage}, queue {job.priority}{state})")

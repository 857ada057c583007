"""`dcm-processor service install`."""

import contextlib
import os
from pathlib import Path

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, printable, show_json
from dcm_processor.cli.service.document import FOLDER, job_document
from dcm_processor.cli.service.environment_display import progress_line
from dcm_processor.errors import LedgerUnavailableError, ServiceError
from dcm_processor.manifest import Fault
from dcm_processor.requirements_lock import Locks
from dcm_processor.store import KEPT, SCRIPT, SCRIPT_NOT_RUN, Store


@click.command()
@click.argument("name")
@click.option("-p", "--path", "source", type=FOLDER, required=True, help="The folder that holds registry/ and module/.")
@click.option("--upgrade", is_flag=True, help="Lock its requirements anew, to the newest versions they allow.")
@json_option
def install(name: str, source: Path, *, upgrade: bool, as_json: bool) -> None:
    """Install a service, or another version of it. Jobs that run, or wait, keep the version they were planned with."""
    store = Store.of(settings())
    with progress_line() as progress:
        installed = store.install(name, source, locks=Locks(settings(), os.environ, upgrade, progress))
    if installed.changed:
        _delete_old_versions(store, name)
    warnings = [str(warning) for warning in installed.warnings]
    if not settings().runs_scripts and store.script(name, installed.digest) is not None:
        warnings.append(str(Fault(name, f"module/{SCRIPT}", "", SCRIPT_NOT_RUN)))
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        jobs = [job_document(job) for job in installed.jobs]
        document = {"name": name, "version": installed.digest, "changed": installed.changed, "jobs": jobs}
        show_json({**document, "warnings": warnings})
        return
    word = "installed" if installed.changed else "already installed"
    click.echo(f"service {name}: {word}, version {installed.digest[:12]}")
    for job in installed.jobs:
        state = ", disabled" if job.disabled else ""
        click.echo(f"  job {job.job_name} (level {job.level}, stage {job.stage}, queue {job.priority}{state})")


def _delete_old_versions(store: Store, name: str) -> None:
    """Delete what no plan needs any more; what cannot be done now, the controller does later."""
    [versions] = [each.versions for each in store.services() if each.name == name]
    if len(versions) <= KEPT + 1:
        return
    from dcm_processor.ledger import Ledger  # noqa: PLC0415 - the heaviest import here, and seldom needed

    with (
        contextlib.suppress(LedgerUnavailableError, ServiceError),
        contextlib.closing(Ledger(settings().database_url)) as ledger,
    ):
        store.collect(ledger.pinned())

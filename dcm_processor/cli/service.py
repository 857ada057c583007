"""`dcm-processor service`: works on the installation's files, whether anything runs or not."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, local_time, printable, show_json, show_table
from dcm_processor.errors import LedgerUnavailableError, ServiceError, TransportUnavailableError
from dcm_processor.manifest import Fault, JobSettings
from dcm_processor.store import KEPT, SCRIPT, SCRIPT_NOT_RUN, InstalledService, Store
from dcm_processor.vocabulary import JobState

_FOLDER = click.Path(path_type=Path)


@click.group()
def service() -> None:
    """Install, remove, back up and list services."""


@service.command()
@click.argument("name")
@click.option(
    "-p", "--path", "source", type=_FOLDER, required=True, help="The folder that holds registry/ and module/."
)
@json_option
def install(name: str, source: Path, *, as_json: bool) -> None:
    """Install a service, or another version of it. Jobs that run, or wait, keep the version they were planned with."""
    store = Store.of(settings())
    installed = store.install(name, source)
    if installed.changed:
        _delete_old_versions(store, name)
    warnings = [str(warning) for warning in installed.warnings]
    if not settings().runs_scripts and store.script(name, installed.digest) is not None:
        warnings.append(str(Fault(name, f"module/{SCRIPT}", "", SCRIPT_NOT_RUN)))
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        jobs = [_job(job) for job in installed.jobs]
        document = {"name": name, "version": installed.digest, "changed": installed.changed, "jobs": jobs}
        show_json({**document, "warnings": warnings})
        return
    word = "installed" if installed.changed else "already installed"
    click.echo(f"service {name}: {word}, version {installed.digest[:12]}")
    for job in installed.jobs:
        state = ", disabled" if job.disabled else ""
        click.echo(f"  job {job.job_name} (level {job.level}, stage {job.stage}, queue {job.priority}{state})")


@service.command()
@click.argument("name")
@click.option("-b", "--backup", "target", type=_FOLDER, help="First back it up to this folder, as `backup` does.")
@json_option
def remove(name: str, target: Path | None, *, as_json: bool) -> None:
    """Remove a service. Its jobs that have not started are cancelled; what runs goes on."""
    from dcm_processor.ledger import Ledger  # noqa: PLC0415 - the heaviest import here, and only this verb needs it

    store = Store.of(settings())
    store.installed_digest(name)
    ledger = Ledger(settings().database_url)
    with contextlib.closing(ledger):
        unended = ledger.count_unended(name)
        running = unended.pop(JobState.STARTED, 0)
        if unended:
            states = ", ".join(f"{count} {state}" for state, count in sorted(unended.items()))
            total = sum(unended.values())
            click.echo(f"jobs that have not started, and will be cancelled: {total} ({states})", err=as_json)
        if running:
            click.echo(f"jobs that run, and go on with the files they have: {running}", err=as_json)
        place = store.backup(name, target) if target is not None else None
        store.remove(name)
        cancelled = ledger.cancel_service(name)
    if cancelled.jobs:
        _forget(cancelled.attempts)
    if as_json:
        document = {"name": name, "removed": True, "cancelled": cancelled.jobs, "running": running}
        show_json({**document, "backup": place and str(place)})
        return
    click.echo(f"service {name}: removed" + (f", backed up to {place}" if place else ""))


@service.command()
@click.argument("name")
@click.option("-b", "--backup", "target", type=_FOLDER, required=True, help="The folder that gets a sub-folder NAME.")
@json_option
def backup(name: str, target: Path, *, as_json: bool) -> None:
    """Write a service's registry/ and module/ to a folder from which it can be installed again."""
    store = Store.of(settings())
    place = store.backup(name, target)
    if as_json:
        show_json({"name": name, "version": store.installed_digest(name), "backup": str(place)})
    else:
        click.echo(f"service {name}: backed up to {place}")


@service.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the installed services."""
    found = Store.of(settings()).services()
    if as_json:
        show_json([_document(each) for each in found])
        return
    rows = [
        (
            each.name,
            each.digest[:12],
            local_time(each.installed_at),
            ", ".join(job.job_name for job in each.jobs),
            "; ".join(map(str, each.faults)) or "in order",
        )
        for each in found
    ]
    empty = "no service is installed; `bash init.sh` installs the base ones"
    show_table(("SERVICE", "VERSION", "INSTALLED", "JOBS", "STATE"), rows, empty)


def _document(found: InstalledService) -> dict[str, Any]:
    """A service in the words of the HTTP API."""
    return {
        "name": found.name,
        "version": found.digest or None,
        "installedAt": datetime.fromtimestamp(found.installed_at, UTC).isoformat(timespec="seconds"),
        "versions": list(found.versions),
        "jobs": [_job(job) for job in found.jobs],
        "faults": [str(fault) for fault in found.faults],
    }


def _job(job: JobSettings) -> dict[str, Any]:
    return {
        "jobName": job.job_name,
        "description": job.description,
        "level": job.level,
        "stage": job.stage,
        "priority": job.priority,
        "dependsOn": list(job.depends_on),
        "timeout": job.timeout,
        "disabled": job.disabled,
    }


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


def _forget(attempt_ids: Sequence[str]) -> None:
    """Have no worker start these, and the controller look at the ledger now; it does both by its clock if we cannot."""
    from dcm_processor.transport import Transport  # noqa: PLC0415 - only a removal with jobs waiting needs it

    with (
        contextlib.suppress(TransportUnavailableError),
        contextlib.closing(Transport(settings().redis_url)) as transport,
    ):
        transport.forget_attempts(attempt_ids, acknowledge=False)
        transport.wake("service removed")

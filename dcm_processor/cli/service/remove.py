"""`dcm-processor service remove`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.cli.service.document import FOLDER
from dcm_processor.errors import LedgerUnavailableError, ServiceError, TransportUnavailableError
from dcm_processor.ledger import Ledger
from dcm_processor.store import Store
from dcm_processor.transport import Transport
from dcm_processor.vocabulary import JobState


@click.command()
@click.argument("name")
@click.option("-b", "--backup", "target", type=FOLDER, help="First back it up to this folder, as `backup` does.")
@json_option
def remove(name: str, target: Path | None, *, as_json: bool) -> None:
    """Remove a service. Its jobs that have not started are cancelled; what runs goes on.

    \b
    Examples:
      dcm-processor service remove lungs
      dcm-processor service remove lungs -b backups
    """
    store = Store.of(settings())
    ledger = Ledger(settings().database_url)
    with contextlib.closing(ledger):
        unended = ledger.count_unended(name)
        running = unended.pop(JobState.STARTED, 0)
        installed = name in store.current()
        if target is not None or not unended:  # else it may be gone: a removal that was cut short has left its jobs
            store.installed_digest(name)
        if unended:
            states = ", ".join(f"{count} {state}" for state, count in sorted(unended.items()))
            total = sum(unended.values())
            click.echo(f"jobs that have not started, and will be cancelled: {total} ({states})", err=as_json)
        if running:
            click.echo(f"jobs that run, and go on with the files they have: {running}", err=as_json)
        place = store.backup(name, target) if target is not None else None
        if installed:
            store.remove(name)
        try:
            cancelled = ledger.cancel_service(name)
        except LedgerUnavailableError as error:
            raise ServiceError(f"service {name} is removed, but not its jobs: {error}; try that again") from error
    if cancelled.jobs:
        _forget(cancelled.attempts)
    if as_json:
        document = {"name": name, "removed": True, "cancelled": cancelled.jobs, "running": running}
        show_json({**document, "backup": place and str(place)})
        return
    how = "removed" if installed else "was removed before, and its jobs are cancelled now"
    click.echo(f"service {name}: {how}" + (f", backed up to {place}" if place else ""))


def _forget(attempt_ids: Sequence[str]) -> None:
    """Have no worker start these, and the controller look at the ledger now; it does both by its clock if we cannot."""
    with (
        contextlib.suppress(TransportUnavailableError),
        contextlib.closing(Transport(settings().redis_url)) as transport,
    ):
        transport.forget_attempts(attempt_ids, acknowledge=False)
        transport.wake("service removed")

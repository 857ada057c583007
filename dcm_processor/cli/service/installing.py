"""What `service install` and `service update` share: from a source to services, and what is said of it."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import printable
from dcm_processor.cli.service.document import job_document
from dcm_processor.cli.service.environment_display import progress_line
from dcm_processor.environments.requirements_lock import Locks
from dcm_processor.errors import LedgerUnavailableError, ServiceError
from dcm_processor.installed import Installed
from dcm_processor.manifest import Fault
from dcm_processor.sources.fetching import fetched
from dcm_processor.sources.found_services import choose, refuse_missing
from dcm_processor.sources.origin import Origin
from dcm_processor.sources.source import Repository, Source
from dcm_processor.store import KEPT, SCRIPT, SCRIPT_NOT_RUN, Store

Chosen = Callable[[Path], Mapping[str, Path]]
"""Which services of a source's top folder are meant: their folders, by name."""


@dataclass(frozen=True)
class Done:
    """A service that was installed: from where, and where it came from before."""

    name: str
    installed: Installed
    origin: Origin
    before: Origin | None


def all_or(name: str | None) -> Chosen:
    """All services of a source, or the one of that name."""
    return lambda top: choose(top, name)


def install_from(store: Store, source: Source, chosen: Chosen, *, upgrade: bool = False) -> list[Done]:
    """Install what is meant of a source, all or nothing, and say what is odd on stderr.

    Raises ServiceError, UsageError.
    """
    if isinstance(source, Repository) and not source.encrypted:
        click.echo(f"warning: {source} is not encrypted: whoever is on the way can change what comes", err=True)
    before = {each.name: each.origin for each in store.services()}
    with progress_line() as progress:
        if isinstance(source, Repository):
            progress(f"fetching {source}")
        with fetched(source, settings(), os.environ) as files:
            folders = chosen(files.top)
            refuse_missing(files.top, folders, files.missing)
            installed = store.install_all(folders, files.origin, locks=Locks(settings(), os.environ, upgrade, progress))
    done = [Done(name, each, files.origin, before.get(name)) for name, each in installed.items()]
    if any(each.installed.changed for each in done):
        _delete_old_versions(store, [each.name for each in done])
    return done


def warnings_of(store: Store, done: Done) -> list[str]:
    """What is odd with a service that was installed; said on stderr, too."""
    warnings = [str(warning) for warning in done.installed.warnings]
    if not settings().runs_scripts and store.script(done.name, done.installed.digest) is not None:
        warnings.append(str(Fault(done.name, f"module/{SCRIPT}", "", SCRIPT_NOT_RUN)))
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return warnings


def document(done: Done, warnings: list[str]) -> dict[str, Any]:
    """What was done, for programs."""
    return {
        "name": done.name,
        "version": done.installed.digest,
        "before": done.installed.before,
        "changed": done.installed.changed,
        "source": done.origin.source,
        "commit": done.origin.commit,
        "jobs": [job_document(job) for job in done.installed.jobs],
        "warnings": warnings,
    }


def _delete_old_versions(store: Store, names: list[str]) -> None:
    """Delete what no plan needs any more; what cannot be done now, the controller does later."""
    if all(len(each.versions) <= KEPT + 1 for each in store.services() if each.name in names):
        return
    from dcm_processor.ledger import Ledger  # noqa: PLC0415 - the heaviest import here, and seldom needed

    with (
        contextlib.suppress(LedgerUnavailableError, ServiceError),
        contextlib.closing(Ledger(settings().database_url)) as ledger,
    ):
        store.collect(ledger.pinned())

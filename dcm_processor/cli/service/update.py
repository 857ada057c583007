"""`dcm-processor service update`."""

from collections.abc import Mapping
from pathlib import Path

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.cli.service.document import source_option
from dcm_processor.cli.service.environment_display import see_to_environments, wait_option
from dcm_processor.cli.service.installing import Chosen, Done, document, install_from, warnings_of
from dcm_processor.errors import ServiceError, UsageError
from dcm_processor.installed import InstalledService
from dcm_processor.sources.found_services import choose
from dcm_processor.sources.source import parse
from dcm_processor.store import Store

_EXAMPLES = """\b
Examples:
  dcm-processor service update lung
  dcm-processor service update lung -p git+https://example.org/services.git@v1.3
  dcm-processor service update"""


@click.command(epilog=_EXAMPLES)
@click.argument("name", required=False)
@source_option(required=False)
@click.option("--upgrade", is_flag=True, help="Lock its requirements anew, to the newest versions they allow.")
@wait_option
@json_option
@click.pass_context
def update(
    ctx: click.Context, name: str | None, source: str | None, *, upgrade: bool, wait: bool | None, as_json: bool
) -> None:
    """Install a service anew from where it came from, or from SOURCE, and say what changed.

    Without NAME all services are updated: those that came from SOURCE, or each from its own. One whose source cannot be
    had stays as it is; the others go on.
    """
    store = Store.of(settings())
    if name is not None:
        store.installed_digest(name)
    services = [each for each in store.services() if name in (None, each.name)]
    documents, failed = [], False
    for asked, names in _by_source(services, source, named=name is not None).items():
        try:
            done = install_from(
                store, parse(asked, Path.cwd()), _installed(names, strict=name is not None), upgrade=upgrade
            )
        except (ServiceError, UsageError) as error:
            if name is not None:
                raise
            click.echo(f"{', '.join(names)}: not updated: {error}", err=True)
            failed = True
            continue
        for each in done:
            documents.append(document(each, warnings_of(store, each)))
            if not as_json:
                click.echo(_said(each))
        if source is None and (gone := [each for each in names if each not in {one.name for one in done}]):
            click.echo(f"{', '.join(gone)}: not updated: {asked} no longer holds it", err=True)
            failed = True
    if as_json:
        show_json(documents if name is None else documents[0])
    see_to_environments(settings(), store, [each["name"] for each in documents], wanted=wait)
    if failed:
        ctx.exit(1)


def _by_source(services: list[InstalledService], source: str | None, *, named: bool) -> Mapping[str, list[str]]:
    """The services that come from each source: each is asked once."""
    if source is not None:
        return {str(parse(source, Path.cwd())): [each.name for each in services]}
    asked: dict[str, list[str]] = {}
    for each in services:
        if each.origin is not None:
            asked.setdefault(each.origin.source, []).append(each.name)
        elif named:
            raise UsageError(f"nobody put down where service {each.name} came from; say it with -p SOURCE")
        else:
            click.echo(f"{each.name}: nobody put down where it came from; update it with -p SOURCE", err=True)
    return asked


def _installed(names: list[str], *, strict: bool) -> Chosen:
    """Of a source's services those of these names; `strict`: all of them must be there."""

    def chosen(top: Path) -> Mapping[str, Path]:
        if strict or len(names) == 1:
            return {name: folder for name in names for folder in choose(top, name).values()}
        found = {name: folder for name, folder in choose(top, None).items() if name in names}
        if not found:
            raise UsageError(f"the source holds none of the services {', '.join(names)}")
        return found

    return chosen


def _said(done: Done) -> str:
    old, new = done.before.commit if done.before else None, done.origin.commit
    if not done.installed.changed:
        what = f"already current, version {done.installed.digest[:12]}"
    else:
        what = f"version {(done.installed.before or 'none')[:12]} → {done.installed.digest[:12]}"
    if new is None:
        return f"service {done.name}: {what}"
    commit = f"commit {new[:12]}" if old in (None, new) else f"commit {old[:12]} → {new[:12]}"
    return f"service {done.name}: {what}, {commit}"

"""`dcm-processor service backup`."""

from pathlib import Path

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.cli.service.document import FOLDER
from dcm_processor.store import Store


@click.command()
@click.argument("name")
@click.option("-b", "--backup", "target", type=FOLDER, required=True, help="The folder that gets a sub-folder NAME.")
@json_option
def backup(name: str, target: Path, *, as_json: bool) -> None:
    """Write a service's registry/ and module/ to a folder from which it can be installed again.

    \b
    Examples:
      dcm-processor service backup lungs -b backups
    """
    store = Store.of(settings())
    place = store.backup(name, target)
    if as_json:
        show_json({"name": name, "version": store.installed_digest(name), "backup": str(place)})
    else:
        click.echo(f"service {name}: backed up to {place}")

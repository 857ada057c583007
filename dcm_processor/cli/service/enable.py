"""`dcm-processor service enable`."""

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.store import Store


@click.command()
@click.argument("name")
@json_option
def enable(name: str, *, as_json: bool) -> None:
    """Have a disabled service asked again.

    \b
    Examples:
      dcm-processor service enable lungs
    """
    changed = Store.of(settings()).enable(name)
    if as_json:
        show_json({"name": name, "enabled": True, "changed": changed})
    else:
        click.echo(f"service {name}: {'enabled, from the next study on' if changed else 'enabled already'}")

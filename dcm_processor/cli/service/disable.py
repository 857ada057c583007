"""`dcm-processor service disable`."""

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.store import Store


@click.command()
@click.argument("name")
@json_option
def disable(name: str, *, as_json: bool) -> None:
    """Have a service asked for no new plan. Jobs that were planned go on; it stays so until `service enable`.

    Neither a restart nor an update changes it; plans say of its jobs that they are disabled.

    \b
    Examples:
      dcm-processor service disable lungs
    """
    changed = Store.of(settings()).disable(name)
    if as_json:
        show_json({"name": name, "enabled": False, "changed": changed})
    else:
        click.echo(f"service {name}: {'disabled, from the next study on' if changed else 'disabled already'}")

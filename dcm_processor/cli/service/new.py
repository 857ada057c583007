"""`dcm-processor service new`."""

from pathlib import Path

import click

from dcm_processor import template
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.cli.service.document import FOLDER


@click.command()
@click.argument("name")
@click.option("-o", "--output", type=FOLDER, default=".", help="The folder to make it in; without it this one.")
@json_option
def new(name: str, output: Path, *, as_json: bool) -> None:
    """Make a folder NAME with a service that runs as it is, to be changed into what you need.

    \b
    Examples:
      dcm-processor service new volume
      dcm-processor service test volume
    """
    made = template.write(name, output)
    if as_json:
        files = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
        show_json({"name": name, "path": str(made), "files": files})
        return
    click.echo(f"service {name}: made in {made}")
    click.echo(f"next: dcm-processor service test {made}")

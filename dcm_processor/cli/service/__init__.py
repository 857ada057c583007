"""`dcm-processor service`: works on the installation's files, whether anything runs or not. One module a verb."""

import click

from dcm_processor.cli.lazy import LazyGroup

_VERBS = {
    "new": "Make a service from the template.",
    "validate": "Say all that is wrong with services, and draw their plan.",
    "test": "Run a service on a folder of DICOM, with nothing running.",
    "replay": "Ask a service that is not installed about studies of the past.",
    "install": "Install a service, or another version of it.",
    "update": "Install services anew from where they came from.",
    "remove": "Remove a service.",
    "backup": "Write a service to a folder from which it can be installed again.",
    "rollback": "Go back to an earlier version of a service.",
    "disable": "Have a service asked for no new plan.",
    "enable": "Have a disabled service asked again.",
    "list": "List the installed services.",
}


@click.group(cls=LazyGroup, package=__name__, lazy=_VERBS)
def service() -> None:
    """Install, update, roll back, disable, back up, remove and list services.

    \b
    Examples:
      dcm-processor service install lungs -p path/to/lungs
      dcm-processor service list
    """

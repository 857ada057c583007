"""What every command shares: the settings, read once, and the way to the scheduler."""

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dcm_processor.errors import UsageError
from dcm_processor.settings import Settings, checkout_from_environment

if TYPE_CHECKING:
    from dcm_processor.cli.client import Client


def settings(*, beside_scheduler: bool = False) -> Settings:
    """The installation's settings, read at the first call within one command.

    Raises SettingsError, and UsageError where the user named another scheduler than this installation's: what asks
    for settings works on what is here, unless it says that it speaks to a scheduler as well. (An address in the
    environment is only for commands that speak to one.)
    """
    root = click.get_current_context().find_root()
    if not beside_scheduler and root.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        raise UsageError("this works on what is on this machine, not through a scheduler; leave --url out")
    return _settings(root)


def scheduler(*, timeout: float = 75) -> "Client":
    """A client of the scheduler that the user named (--url), or of this installation's; `timeout` in seconds.

    Raises UsageError or SettingsError where address or token are not usable.
    """
    from dcm_processor.cli.access import Access  # noqa: PLC0415 - commands on files need no HTTP
    from dcm_processor.cli.client import Client  # noqa: PLC0415

    root = click.get_current_context().find_root()
    url, token_file = root.params["url"], root.params["token_file"]
    if url is not None:
        return Client(Access.elsewhere(url, token_file, _settings(root)), timeout=timeout)
    if token_file is not None:
        raise UsageError("--token-file goes with --url; this installation's own token is in BASEDIR/secrets")
    return Client(Access.here(_settings(root)), timeout=timeout)


def scheduler_elsewhere() -> "Client | None":
    """A client of the scheduler that the user named; None where it is this installation's."""
    return None if click.get_current_context().find_root().params["url"] is None else scheduler()


def _settings(root: click.Context) -> Settings:
    if root.obj is None:
        root.obj = Settings.load(checkout_from_environment())
    assert isinstance(root.obj, Settings)
    return root.obj

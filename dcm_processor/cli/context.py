"""What every command shares: the settings, read once."""

import click

from dcm_processor.settings import Settings, checkout_from_environment


def settings() -> Settings:
    """The installation's settings, read at the first call within one command.

    Raises SettingsError.
    """
    root = click.get_current_context().find_root()
    if root.obj is None:
        root.obj = Settings.load(checkout_from_environment())
    assert isinstance(root.obj, Settings)
    return root.obj

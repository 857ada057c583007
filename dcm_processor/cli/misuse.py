"""Wrong usage of the command line, told in one line: what, why, what to do."""

import click

from dcm_processor.json_text import shown
from dcm_processor.names import did_you_mean


def told(error: click.UsageError) -> str:
    """The error's line; a mistyped command or option comes with the nearest right one."""
    context = error.ctx
    if context is None:
        return _line(error.format_message())
    command = context.command
    match error:
        case click.NoSuchCommand():
            known = command.list_commands(context) if isinstance(command, click.Group) else []
            what = f"there is no command {shown(error.command_name)}{did_you_mean(error.command_name, known)}"
        case click.NoSuchOption():
            known = [name for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts)]
            options = [name for name in known if name.startswith("-")]
            what = f"there is no option {shown(error.option_name)}{did_you_mean(error.option_name, options)}"
        case _:
            what = _line(error.format_message())
    return f"{what}{' ' if what.endswith('?') else '; '}`{context.command_path} --help` shows what there is"


def _line(text: str) -> str:
    """click's sentence as a part of ours."""
    line = " ".join(text.split()).rstrip(".")
    return line[:1].lower() + line[1:]

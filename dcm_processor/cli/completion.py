"""`dcm-processor completion`: what a shell needs to complete our commands by the Tab key."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_DCM_PROCESSOR_COMPLETE"  # as click derives it from the program's name


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that has a shell (bash 4.4 or newer, zsh, fish) complete commands and options.

    It asks `dcm-processor` itself, so it never needs to be made again. `dcm-processor` must be on PATH.

    \b
    Examples:
      dcm-processor completion bash > ~/.local/share/bash-completion/completions/dcm-processor
      dcm-processor completion zsh > ~/.zfunc/_dcm-processor
      dcm-processor completion fish > ~/.config/fish/completions/dcm-processor.fish

    For zsh, ~/.zshrc has `fpath+=~/.zfunc` before `autoload -Uz compinit && compinit`.
    """
    known = get_completion_class(shell)
    assert known is not None
    click.echo(known(ctx.find_root().command, {}, "dcm-processor", _VARIABLE).source())

"""Every `--help` has examples, and what they show exists: commands, options and arguments."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dcm_processor.cli import main
from dcm_processor.settings import CHECKOUT

DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def contexts(command: click.Command, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Each command there is, with those above it."""
    name = command.name if parent else "dcm-processor"
    context = click.Context(command, info_name=name, parent=parent)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, child
            yield from contexts(found, context)


ALL = {context.command_path: context for context in contexts(main)}


def parse(words: list[str]) -> None:
    """Have click read a command line, and run nothing.

    Raises click.UsageError for what does not exist.
    """
    command: click.Command = main
    context = main.make_context("dcm-processor", list(words))
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(found.name, rest, parent=context)


def examples(text: str) -> list[str]:
    found = re.search(r"^ *Examples:\n((?: +dcm-processor .*\n?)+)", text, re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


@pytest.mark.parametrize("path", ALL)
def test_every_help_has_examples_that_exist(path: str) -> None:
    context = ALL[path]
    found = examples(context.command.get_help(context))
    assert found, f"`{path} --help` has no examples"
    assert any(line.startswith(path + " ") or line == path for line in found) or path == "dcm-processor"
    for line in found:
        parse(shlex.split(line.partition(" > ")[0])[1:])


def test_an_example_that_does_not_exist_is_found() -> None:
    for wrong in ("study lst", "study list --nonsense", "job rerun --state lost", "study show"):
        with pytest.raises(click.UsageError):
            parse(wrong.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_documents_show_exist(document: Path) -> None:
    """Indented lines with a whole command; what follows two spaces, `|` or `>` is no part of it."""
    for line in re.findall(r"^    (?:\$ )?(?:\.venv/bin/)?(dcm-processor .*)$", document.read_text(), re.MULTILINE):
        whole = re.split(r" {2,}| [|>] ", line)[0]
        if "…" not in whole:
            parse(shlex.split(whole)[1:])


@pytest.mark.parametrize(
    "path", [path for path, context in ALL.items() if not isinstance(context.command, click.Group)]
)
def test_whatever_has_output_has_json(path: str) -> None:
    silent = {"stack up", "stack down", "containers prepare", "containers started", "completion"}
    options = {name for parameter in ALL[path].command.params for name in parameter.opts}
    assert ("--json" in options) != (path.removeprefix("dcm-processor ") in silent)

"""`dcm-processor completeness`: the rules that hold studies back, whether anything runs or not."""

from pathlib import Path

import click

from dcm_processor import completeness_file
from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, printable, show_json, show_table
from dcm_processor.completeness import Rule
from dcm_processor.errors import RulesError


@click.group()
def completeness() -> None:
    """Rules that hold studies back until they are complete.

    \b
    Examples:
      dcm-processor completeness check
    """


@completeness.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@json_option
def check(file: Path | None, *, as_json: bool) -> None:
    """Check the rules in force, or those of FILE before they are: every fault, or what they expect.

    \b
    Examples:
      dcm-processor completeness check
      dcm-processor completeness check new-rules.json --json
    """
    chosen = settings() if file is None else settings().model_copy(update={"COMPLETENESS": file})
    try:
        rules = completeness_file.rules(chosen)
    except RulesError as error:
        if as_json:
            show_json({"file": str(chosen.completeness), "rules": [], "faults": list(error.faults)})
        for fault in error.faults:
            click.echo(f"dcm-processor: {printable(fault)}", err=True)
        raise SystemExit(1) from None
    if as_json:
        documents = [rule.model_dump(mode="json") for rule in rules]
        show_json({"file": str(chosen.completeness), "rules": documents, "faults": []})
        return
    rows = [(rule.name, _match(rule), _expected(rule), f"{rule.limit:g} s") for rule in rules]
    empty = f"no rules: {chosen.completeness} does not exist, or is an empty list"
    show_table(("RULE", "OF SERIES WITH", "AT LEAST", "FOR AT MOST"), rows, empty)


def _match(rule: Rule) -> str:
    return ", ".join(f"{keyword} {' or '.join(patterns)}" for keyword, patterns in rule.match.items())


def _expected(rule: Rule) -> str:
    numbers = [(rule.series, "series"), (rule.instances, "instances")]
    counts = [f"{number} {word}" for number, word in numbers if number is not None]
    return ", ".join([*counts, *(f'a series "{pattern}"' for pattern in rule.descriptions)])

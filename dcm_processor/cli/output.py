"""How commands show what they found: tables for people, tabs through a pipe, JSON for programs.

Text that came from elsewhere (a study's description, a callback's output) never reaches a terminal with its control
characters, and never as markup.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

json_option = click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document on stdout.")

_STYLES = {
    "finished": "green",
    "failed": "red",
    "errored": "red",
    "unplanned": "red",
    "cancelled": "yellow",
    "skipped": "yellow",
    "started": "cyan",
    "running": "cyan",
}


def show_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table that fits the terminal, or `empty`; tab-separated lines, header first, where stdout is no terminal."""
    lines = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [columns, *lines]:
            click.echo("\t".join(" ".join(cell.split()) for cell in line))
    elif not lines:
        click.echo(empty)
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for line in lines:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in line))
        Console().print(table)


def printable(value: object) -> str:
    """The value as text without control characters (line ends stay); None as nothing."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() or char == "\n" else " " if char == "\t" else "\ufffd" for char in text)


def local_time(moment: str | float | None) -> str:
    """A moment (RFC 3339, or seconds since the epoch) on this machine's clock; nothing for None."""
    if moment is None:
        return ""
    when = datetime.fromisoformat(moment) if isinstance(moment, str) else datetime.fromtimestamp(moment).astimezone()
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_between(begin: str | None, end: str | None) -> str:
    """How long something took, or has taken so far: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if begin is None:
        return ""
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    seconds = max(0.0, (until - datetime.fromisoformat(begin)).total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def printable_log(text: str) -> str:
    """A log as a terminal may have it: lines, tabs and carriage returns stay, colours go, controls are made visible."""
    return "".join(char if char in "\n\r\t" else printable(char) for char in _COLOURS.sub("", text))

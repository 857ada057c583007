"""Named results as tables: wide, one row a job with a column for each name, or long, one row a result. Pure.

Rows are those of the API's `/results/search`.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ABOUT = (
    "PatientID", "StudyInstanceUID", "StudyDate", "StudyDescription", "SeriesInstanceUID", "SeriesNumber",
    "SeriesDescription", "jobName", "endedAt", "attempt", "state",
)  # fmt: skip
"""The first columns of both: what the row is about."""
SHORT = ("PatientID", "StudyDate", "SeriesDescription", "jobName")
"""Those of them that a person needs."""
_CLASH = " (result)"
_FORMULA = "=+-@\t\n"  # what a spreadsheet takes for the beginning of one

Row = Mapping[str, Any]
Table = tuple[list[str], list[list[Any]]]


def wide(items: Sequence[Row], about: Sequence[str] = ABOUT) -> Table:
    """A row a job; the columns of names stand in the order in which they come up first. A row without one has None."""
    names = list(dict.fromkeys(result["name"] for item in items for result in item["results"]))
    columns = [*about, *(name + _CLASH if name in ABOUT else name for name in names)]
    rows = []
    for item in items:
        values = {result["name"]: result["value"] for result in item["results"]}
        rows.append([*(item[key] for key in about), *(values.get(name) for name in names)])
    return columns, rows


def long(items: Sequence[Row], about: Sequence[str] = ABOUT) -> Table:
    """A row a result, with its unit."""
    rows = [
        [*(item[key] for key in about), result["name"], result["value"], result["unit"]]
        for item in items
        for result in item["results"]
    ]
    return [*about, "name", "value", "unit"], rows


def only(items: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """The rows with results of these names alone, without those that have none; no names: all."""
    if not names:
        return list(items)
    kept = ({**item, "results": [each for each in item["results"] if each["name"] in names]} for item in items)
    return [item for item in kept if item["results"]]


def units_that_differ(items: Iterable[Row]) -> list[str]:
    """Names that do not have the same unit everywhere."""
    units: dict[str, set[str | None]] = {}
    for item in items:
        for result in item["results"]:
            units.setdefault(result["name"], set()).add(result["unit"])
    return [name for name, found in units.items() if len(found) > 1]


def csv_text(table: Table) -> str:
    """Comma-separated values (RFC 4180, lines end with a line feed) that no spreadsheet takes for formulas.

    Numbers are written as Python does, so that they come back as they were; None is an empty field. A text that would
    begin a formula gets an apostrophe before it; a carriage return in a text becomes a line feed, since readers take it
    for the end of a row.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns, rows = table
    writer.writerow(columns)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return file.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(tuple(_FORMULA)) else text


def shown(value: Any, unit: str | None = None) -> str:
    """A value as people read it: six digits of a number with a fraction, its unit behind it."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}" if unit else text

"""Named results as tables and as CSV."""

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor.cli.result import table


def item(patient: str = "P1", **values: Any) -> dict[str, Any]:
    about = dict.fromkeys(table.ABOUT) | {"PatientID": patient, "jobName": "job", "attempt": 1, "state": "finished"}
    return {**about, "results": [{"name": name, "value": value, "unit": "ml"} for name, value in values.items()]}


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_wide_has_a_row_a_job_and_a_column_a_name() -> None:
    columns, rows = table.wide([item(volume=1.5, side="L"), item("P2", volume=2), item("P3", mass=3)], ("PatientID",))
    assert columns == ["PatientID", "volume", "side", "mass"]
    assert rows == [["P1", 1.5, "L", None], ["P2", 2, None, None], ["P3", None, None, 3]]


def test_long_has_a_row_a_result_with_its_unit() -> None:
    columns, rows = table.long([item(volume=1.5, side="L")], ("PatientID",))
    assert columns == ["PatientID", "name", "value", "unit"]
    assert rows == [["P1", "volume", 1.5, "ml"], ["P1", "side", "L", "ml"]]


def test_a_name_that_a_column_has_already_is_told_from_it() -> None:
    columns, _ = table.wide([item(StudyDate=1)])
    assert len(columns) == len(set(columns))
    assert columns[-1] == "StudyDate (result)"


def test_only_some_names_are_kept_and_rows_without_go() -> None:
    kept = table.only([item(a=1, b=2), item(b=3)], ["a"])
    assert [[each["name"] for each in row["results"]] for row in kept] == [["a"]]


def test_units_that_differ_are_known() -> None:
    other = item(volume=1)
    other["results"][0]["unit"] = "l"
    assert table.units_that_differ([item(volume=1, side="L"), other]) == ["volume"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_no_text_begins_a_formula(text: str) -> None:
    (row,) = read(table.csv_text(table.wide([item(text, volume=text)])))
    kept = text.replace("\r", "\n")
    assert (row["PatientID"], row["volume"]) == (f"'{kept}", f"'{kept}")


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()), min_size=1))
def test_what_is_written_comes_back(values: list[Any]) -> None:
    """Numbers exactly; texts but for the apostrophe before a formula."""
    named = {f"n{place}": value for place, value in enumerate(values)}
    (row,) = csv.DictReader(io.StringIO(table.csv_text(table.wide([item(**named)])), newline=""))
    for name, value in named.items():
        if isinstance(value, str):
            assert row[name].removeprefix("'") == value.replace("\r\n", "\n").replace("\r", "\n").removeprefix("'")
            assert row[name][:1] not in set("=+-@\t\r\n")
        else:
            assert row[name] == ("" if value is None else str(value))


def test_a_number_is_read_easily() -> None:
    assert [table.shown(value) for value in (1 / 3, 12, True, "L", None)] == ["0.333333", "12", "True", "L", ""]

"""The id of DATA: made once, and never mistaken."""

from pathlib import Path

import pytest

from dcm_processor import data_id


def test_it_is_made_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert data_id.read(data) == ""
    made = data_id.make(data)
    assert len(made) == 32
    assert data_id.make(data) == data_id.read(data) == made
    assert [path.name for path in data.iterdir()] == [data_id.FILE]
    assert data_id.make(tmp_path / "other") != made


@pytest.mark.parametrize("content", [b"", b"abc\n", b"\xff\x00", b"g" * 32, b"0" * 33])
def test_what_is_no_id_is_none_and_replaced(tmp_path: Path, content: bytes) -> None:
    """A power failure, or a job that wrote there."""
    (tmp_path / data_id.FILE).write_bytes(content)
    assert data_id.read(tmp_path) == ""
    assert len(data_id.make(tmp_path)) == 32


def test_what_a_controller_left_that_was_killed_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f"{data_id.FILE}.new").write_text("0" * 32)
    assert data_id.make(tmp_path) != "0" * 32


def test_a_place_where_it_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        data_id.make(tmp_path / "data")

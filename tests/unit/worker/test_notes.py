"""The files of a job's notes, whatever the job made of them."""

import json
import os
from pathlib import Path

import pytest

from dcm_processor.job_helper.dcm_processor_job import MAX_BYTES, PROGRESS, RESULTS
from dcm_processor.notes import NamedResult, Progress
from worker import notes

LINE = json.dumps({"name": "volume", "value": 3, "unit": None}).encode() + b"\n"


def test_what_was_noted_is_found(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_bytes(LINE)
    (tmp_path / PROGRESS).write_text(json.dumps({"fraction": 0.5, "text": "half", "at": 5.0}))
    assert notes.results(tmp_path) == ((NamedResult("volume", 3),), 0)
    assert notes.progress(tmp_path) == Progress(0.5, "half", 5.0)


def test_nothing_noted_is_nothing(tmp_path: Path) -> None:
    assert notes.results(tmp_path / "gone") == ((), 0)
    assert notes.progress(tmp_path) is None


@pytest.mark.parametrize("kind", ["pipe", "symlink", "folder", "device"])
def test_what_is_no_file_is_neither_waited_for_nor_followed(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(LINE)
    for name in (RESULTS, PROGRESS):
        if kind == "pipe":
            os.mkfifo(tmp_path / name)
        elif kind == "folder":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).symlink_to(secret if kind == "symlink" else "/dev/zero")
    assert notes.results(tmp_path) == ((), 0)
    assert notes.progress(tmp_path) is None


def test_of_a_huge_file_no_more_is_read_than_there_may_be(tmp_path: Path) -> None:
    with (tmp_path / RESULTS).open("wb") as file:
        file.write(LINE)
        file.truncate(100 * 1024**3)  # sparse: 100 GB of zeros
    assert notes.results(tmp_path) == ((NamedResult("volume", 3),), 0)
    (tmp_path / PROGRESS).write_bytes(b" " * MAX_BYTES)
    assert notes.progress(tmp_path) is None

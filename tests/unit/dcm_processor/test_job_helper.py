"""The helper that jobs import: what it takes and refuses, what it writes, and that it needs nothing else."""

import ast
import json
import math
import os
import subprocess
import sys
import threading
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcm_processor import job_helper
from dcm_processor.job_helper import dcm_processor_job as helper
from dcm_processor.job_helper.dcm_processor_job import progress, result
from tests.waiting import wait_until

SOURCE = Path(helper.__file__ or "")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(helper.NOTES, str(tmp_path))
    return tmp_path


def written(notes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (notes / helper.RESULTS).read_text().splitlines()]


def said(notes: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((notes / helper.PROGRESS).read_text())
    return found


def test_it_needs_nothing_but_the_standard_library_of_an_old_python() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    imported = {a.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_it_lies_alone_in_its_folder() -> None:
    """The folder is on PYTHONPATH of whatever a job starts."""
    names = {path.name for path in job_helper.FOLDER.iterdir()} - {"__pycache__"}
    assert names == {"__init__.py", job_helper.NAME}


def test_outside_the_platform_both_do_nothing_but_refuse_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(helper.NOTES, raising=False)
    monkeypatch.chdir(tmp_path)
    progress(0.5, "half")
    result("volume", 3.5, unit="ml")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="NaN"):
        result("volume", math.nan)


class Side(IntEnum):
    LEFT = 1


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (True, True), (3, 3), (-3.25, -3.25), ("left", "left"), ("", ""), (Side.LEFT, 1), (2**63 - 1, 2**63 - 1),
        (np.float32(0.5), 0.5), (np.int16(7), 7), (np.bool_(True), True), (np.array([2.5]), 2.5), (np.str_("a"), "a"),
    ],
)  # fmt: skip
def test_numbers_and_texts_are_kept_as_they_are(notes: Path, value: Any, kept: object) -> None:
    result("volume", value, unit="ml")
    (line,) = written(notes)
    assert line == {"name": "volume", "value": kept, "unit": "ml"}
    assert type(line["value"]) is type(kept)


@pytest.mark.parametrize(
    ("name", "value", "unit", "says"),
    [
        ("v", math.nan, None, "NaN"), ("v", math.inf, None, "infinite"), ("v", np.float64("nan"), None, "NaN"),
        ("v", 2**63, None, "whole number"), ("v", "x" * 1001, None, "1000"), ("v", "a\0b", None, "NUL"),
        ("v", "\ud800", None, "UTF-8"), ("v", None, None, "NoneType"), ("v", [1], None, "list"),
        ("v", np.array([1, 2]), None, "ndarray"), ("v", b"x", None, "bytes"), ("v", 1j, None, "complex"),
        ("", 1, None, "1 to 64"), ("x" * 65, 1, None, "1 to 64"), (7, 1, None, "1 to 64"),
        ("=SUM(A1)", 1, None, "begins"), ("-v", 1, None, "begins"), (" v", 1, None, "begins"), ("v ", 1, None, "ends"),
        ("a\nb", 1, None, "printable"), ("\ud800", 1, None, "printable"),
        ("v", 1, "", "unit"), ("v", 1, "x" * 33, "unit"), ("v", 1, "m\nl", "unit"), ("v", 1, 3, "unit"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_and_leaves_nothing(
    notes: Path, name: Any, value: Any, unit: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        result(name, value, unit)
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize("name", ["Volumen_µl", "left lung (V20) [%]", "1st", "_private", "体積"])
def test_a_name_may_be_what_people_write(notes: Path, name: str) -> None:
    result(name, 1)
    assert written(notes)[0]["name"] == name


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(-0.1, ""), (1.1, ""), (math.nan, ""), (True, ""), ("0.5", ""), (0.5, None), (0.5, "x" * 201), (0.5, "\ud800")],
)
def test_what_is_no_progress_is_refused(notes: Path, fraction: Any, text: Any) -> None:
    with pytest.raises(ValueError, match="progress takes"):
        progress(fraction, text)
    assert list(notes.iterdir()) == []


def test_progress_in_a_tight_loop_is_cheap_and_its_end_is_told(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[object] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (moved.append(paths), replace(*paths)))
    monkeypatch.setattr(helper.time, "monotonic", lambda: 100.0)
    for number in range(10_000):
        progress(number / 10_000, str(number))
    assert said(notes)["text"] == "0"
    for _ in range(100):
        progress(1, "done")
    assert (said(notes)["fraction"], said(notes)["text"]) == (1.0, "done")
    assert len(moved) == 2


def test_progress_fails_no_job_where_it_cannot_be_written(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(helper.NOTES, str(notes / "gone"))
    progress(0.5)


def test_a_result_that_cannot_be_written_is_said(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(helper.NOTES, str(notes / "gone"))
    with pytest.raises(FileNotFoundError):
        result("volume", 1)


def test_more_names_than_there_may_be_are_refused_in_all_processes_together(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "MAX_RESULTS", 3)
    result("first", 1)
    environ = {**os.environ, "PYTHONPATH": str(job_helper.FOLDER)}
    script = "from dcm_processor_job import result; result('second', 2)"
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)
    result("third", 3)
    with pytest.raises(ValueError, match="3 named results"):
        result("fourth", 4)
    result("second", 22)  # which there is already
    assert [line["name"] for line in written(notes)] == ["first", "second", "third", "second"]


def test_more_than_a_megabyte_is_refused(notes: Path) -> None:
    def until_refused() -> None:
        for _ in range(2000):
            result("text", "x" * 1000)

    with pytest.raises(ValueError, match="1 MB"):
        until_refused()
    assert (notes / helper.RESULTS).stat().st_size <= helper.MAX_BYTES


def test_a_line_that_a_full_disk_cut_spoils_no_other(notes: Path) -> None:
    (notes / helper.RESULTS).write_text('{"name": "half", "val')
    result("whole", 1)
    assert (notes / helper.RESULTS).read_text().splitlines()[1:] == ['{"name": "whole", "value": 1, "unit": null}']


def test_a_symlink_in_the_files_place_is_not_followed(notes: Path) -> None:
    (notes / "victim").write_text("")
    (notes / helper.RESULTS).symlink_to(notes / "victim")
    with pytest.raises(OSError, match="symbolic"):
        result("volume", 1)
    assert (notes / "victim").read_text() == ""


def test_threads_write_whole_lines(notes: Path) -> None:
    threads = [threading.Thread(target=lambda n=n: [result(f"t{n}", i) for i in range(50)]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written(notes)) == 400


def test_threads_see_what_each_other_wrote(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that read on at the same moment counted the same bytes twice, and never saw those that they passed over."""
    monkeypatch.setattr(helper, "MAX_RESULTS", 3)
    result("first", 1)
    both, pread = threading.Barrier(2), os.pread

    def together(*where: int) -> bytes:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return pread(*where)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", together)
        threads = [threading.Thread(target=result, args=(name, 2)) for name in ("second", "third")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {each["name"] for each in written(notes)} == {"first", "second", "third"}
    with pytest.raises(ValueError, match="3 named results"):
        result("fourth", 4)


def test_a_fork_in_the_middle_of_another_threads_turn_has_turns_of_its_own(notes: Path) -> None:
    with helper._turn:
        child = os.fork()
        if child == 0:
            try:
                result("of the child", 1)
            finally:
                os._exit(0)
        wait_until(lambda: os.waitpid(child, os.WNOHANG)[0], 10, "the child has ended")
    assert written(notes)[0]["name"] == "of the child"


def test_a_line_that_another_process_is_writing_is_read_once_it_is_whole(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "MAX_RESULTS", 2)
    result("first", 1)
    with (notes / helper.RESULTS).open("ab") as other:
        other.write(b'{"name": "second", "value": 2}\n')
    pieces = iter([(notes / helper.RESULTS).read_bytes()[helper._written.read : -9], b""])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *_: next(pieces))
        result("first", 3)
    with pytest.raises(ValueError, match="2 named results"):
        result("third", 3)


def test_a_process_that_was_forked_for_another_job_begins_anew(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm runner's parent lives from job to job."""
    monkeypatch.setattr(helper, "MAX_RESULTS", 1)
    result("volume", 1)
    progress(1)
    other = notes / "other"
    other.mkdir()
    monkeypatch.setenv(helper.NOTES, str(other))
    result("other", 2)
    progress(0.1)
    assert (written(other)[0]["name"], said(other)["fraction"]) == ("other", 0.1)

"""`dcm-processor result get`: files that jobs left, through the scheduler's real HTTP side into a folder here."""

import fcntl
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dcm_processor.cli.result import get
from dcm_processor.ledger import results, schema
from dcm_processor.notes import NamedResult
from tests.integration.cli.conftest import Here
from tests.unit.dcm_processor.cli.conftest import Cli

ENDED = {"state": "finished", "started_at": 1.0, "ended_at": 2_000_000_000.0}
SERIES = "0f5b1b1c-00000000-00000000-00000000-00000000"
STUDY = "ABC-1_20240131_00000001"


def ran(stand: Here, number: int, text: str = "one", run: int = 1, **elements: Any) -> str:
    """A study with a job of its own and one of its series, which left files; returns the study's id."""
    study = stand.study(number) if run == 1 else "-".join([f"{number:08x}"] * 5)
    of_series = {"series_id": SERIES, "settings": {"stage": "main", "level": "series"}}
    each = {"job_name": "each", **of_series, "tries": [ENDED]}
    jobs = stand.plan(study, {"job_name": "lungs", "tries": [ENDED]}, each, run=run)
    entry = {"seriesId": SERIES, "NumberOfInstances": 1, "SeriesNumber": 2, "SeriesDescription": "nativ"}
    headers = {"PatientID": f"ABC-{number}", "StudyDate": "20240131", **elements, "series": [entry]}
    with stand.ledger.write() as db:
        db.execute(update(schema.plans).where(schema.plans.c.study_id == study).values(headers=headers))
        results.add(db, f"{jobs[0]}-1", [NamedResult("volume", 4810.5, "ml")])
    for place in ("lungs", f"each/{SERIES}"):
        folder = stand.settings.data / "results" / study / place
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "deep" / "mask.txt").write_text(text)
    return study


def files(folder: Path) -> dict[str, str]:
    """Visible files below a folder."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if "/." not in f"/{name}"}


def test_what_matches_is_put_into_readable_folders(here: Here, cli: Cli, tmp_path: Path) -> None:
    for number in (1, 2):
        ran(here, number, text=f"text {number}")
    out = tmp_path / "out"
    said = cli.done("result", "get", "--query", "PatientID=ABC-?", "StudyDate=20240101-20240131", "-o", out)
    assert "results of 4 jobs" in said
    assert files(out) == {
        f"{STUDY}/lungs/deep/mask.txt": "text 1",
        f"{STUDY}/2_nativ_0f5b1b1c/each/deep/mask.txt": "text 1",
        "ABC-2_20240131_00000002/lungs/deep/mask.txt": "text 2",
        "ABC-2_20240131_00000002/2_nativ_0f5b1b1c/each/deep/mask.txt": "text 2",
    }
    told = json.loads((out / STUDY / ".lungs.json").read_text())
    assert (told["PatientID"], told["results"]) == ("ABC-1", [{"name": "volume", "value": 4810.5, "unit": "ml"}])


@pytest.mark.parametrize(
    ("terms", "count"),
    [
        (["-q", "PatientID=ABC-1"], 2), (["-q", "PatientID=ABC-1", "--job", "lungs"], 1), (["-q", "PatientID=X*"], 0),
        (["--service", "temp"], 4), (["--service", "none"], 0), (["-q", "PatientID=", "-q", "SeriesDescription=n*"], 4),
    ],
)  # fmt: skip
def test_terms_must_all_hold_and_a_dry_run_gets_nothing(
    here: Here, cli: Cli, tmp_path: Path, terms: list[str], count: int
) -> None:
    for number in (1, 2):
        ran(here, number)
    out = tmp_path / "out"
    assert len(cli.done("result", "get", *terms, "--dry-run", "-o", out).splitlines()) == count
    assert not out.exists()


def test_what_is_there_is_not_got_again_and_a_rerun_takes_its_place(here: Here, cli: Cli, tmp_path: Path) -> None:
    study = ran(here, 1)
    out = tmp_path / "out"
    command = ("result", "get", "-q", "PatientID=ABC-1", "-o", out, "--json")
    assert {each["came"] for each in json.loads(cli.done(*command))} == {"fetched"}
    here.asked.clear()
    assert {each["came"] for each in json.loads(cli.done(*command))} == {"there"}
    assert [path for path in here.asked if study in path] == []
    mine = out / STUDY / "lungs" / "deep"
    (mine / "old.txt").write_text("of the run before")
    ran(here, 1, text="two", run=2)
    assert {each["came"] for each in json.loads(cli.done(*command))} == {"fetched"}
    assert set(files(out).values()) == {"two"}
    assert [path.name for path in (out / STUDY).iterdir() if "arriving" in path.name] == []


def test_results_that_are_deleted_are_told_and_no_fault(here: Here, cli: Cli, tmp_path: Path) -> None:
    study = ran(here, 1)
    (here.settings.data / "results" / study / "lungs").rename(tmp_path / "away")
    assert "1 gone from the scheduler" in cli.done("result", "get", "--service", "temp", "-o", tmp_path / "out")


def test_an_answer_that_breaks_off_leaves_nothing_half_and_the_next_get_goes_on(
    here: Here, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(here, 1)
    exchange = importlib.import_module("scheduler.api.exchange")
    whole = exchange.pack

    def broken(contents: Any) -> Iterator[bytes]:
        blocks = b"".join(whole(contents))
        yield blocks[: len(blocks) // 2]
        raise RuntimeError("the scheduler dies here")

    monkeypatch.setattr(get, "_PAUSES", (0.01,))
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(exchange, "pack", broken)
        result = cli("result", "get", "--service", "temp", "-o", out)
    assert result.exit_code == 1
    assert "2 failed; try again to go on" in result.stdout
    assert files(out) == {}
    assert "2 got" in cli.done("result", "get", "--service", "temp", "-o", out)
    assert len(files(out)) == 2


def test_what_a_get_that_was_killed_left_goes_with_the_next(here: Here, cli: Cli, tmp_path: Path) -> None:
    """Killed while files came, or between the two renames."""
    ran(here, 1)
    out = tmp_path / "out"
    (out / STUDY / ".lungs.arriving-0badcafe" / "half").mkdir(parents=True)
    (out / STUDY / ".lungs.json.arriving-0badcafe").write_text("{")
    known = {"studyId": "-".join(["00000001"] * 5), "jobName": "lungs", "attemptId": None}
    (out / STUDY / ".lungs.json").write_text(json.dumps(known))
    assert "2 got" in cli.done("result", "get", "--service", "temp", "-o", out)
    assert sorted(path.name for path in (out / STUDY).iterdir()) == [".lungs.json", "2_nativ_0f5b1b1c", "lungs"]


def test_a_folder_of_somebody_elses_is_left_alone(here: Here, cli: Cli, tmp_path: Path) -> None:
    ran(here, 1)
    mine = tmp_path / "out" / STUDY / "lungs"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    result = cli("result", "get", "--service", "temp", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "was not made by `result get`" in result.stderr
    assert (mine / "thesis.txt").read_text() == "mine"
    assert "1 got" in result.stdout


def test_two_at_once_do_not_write_to_one_folder(here: Here, cli: Cli, tmp_path: Path) -> None:
    ran(here, 1)
    lock = os.open(tmp_path / ".dcm-processor-get", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert "another `result get`" in cli.refused("result", "get", "--service", "temp", "-o", tmp_path)
    finally:
        os.close(lock)


def test_hostile_elements_lead_nowhere_else(here: Here, cli: Cli, tmp_path: Path) -> None:
    ran(here, 1, PatientID="../../../evil", StudyDescription="/etc/\0passwd")
    out = tmp_path / "deep" / "out"
    cli.done("result", "get", "--service", "temp", "-o", out)
    assert {path.name for path in out.iterdir()} == {".dcm-processor-get", "evil_20240131_etc_passwd_00000001"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say which results"), (("-q", "PatientID"), "KEY=VALUE"), (("-q", "A=1", "A=2"), "asked for twice"),
        (("-q", "PatientId=1"), "no keyword"), (("-q", "StudyDate=2024"), "20240131"),
    ],
)  # fmt: skip
def test_a_query_that_means_nothing_is_wrong_usage(
    here: Here, cli: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in cli.refused("result", "get", *arguments, "-o", tmp_path / "out", status=2)

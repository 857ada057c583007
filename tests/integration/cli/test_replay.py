"""`dcm-processor service replay`: a service that is not installed, on headers that a scheduler's ledger keeps."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dcm_processor.ledger import kept_headers, schema
from tests.integration.cli.conftest import Here
from tests.integration.scheduler.api.stand import Installation
from tests.unit.dcm_processor.cli.conftest import Cli

CALLBACK = """
def callback(headers, added_params, **kwargs):
    if headers["Modality"] == "XX":
        raise ValueError("the patient is " + headers["PatientName"])
    return headers["Modality"] == "CT" and not added_params
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    for part in ("registry", "module"):
        (folder / part).mkdir(parents=True)
    jobs = [{"jobName": "volume"}, {"jobName": "each", "level": "series"}]
    entries = [{**job, "worker": "volume.worker", "callback": "volume.callback"} for job in jobs]
    (folder / "registry" / "settings.json").write_text(json.dumps(entries))
    (folder / "registry" / "callback.py").write_text(CALLBACK)
    (folder / "module" / "worker.py").write_text("def worker(): pass\n")
    return folder


@pytest.fixture
def studies(here: Here) -> list[str]:
    """Planned studies of modality CT, MR, CT and XX, oldest first."""
    made = []
    for number, modality in enumerate(["CT", "MR", "CT", "XX"], start=1):
        made.append(here.study(number))
        here.plan(made[-1], {"job_name": "temp"})
        series: list[dict[str, Any]] = [
            {"seriesId": f"s{n}", "NumberOfInstances": 1, "Modality": modality} for n in (1, 2)
        ]
        headers = {"studyId": made[-1], "seriesIds": ["s1", "s2"], "Modality": modality, "PatientName": "DOE^JOHN"}
        keep(here, made[-1], {**headers, "series": series})
    return made


def keep(here: Installation, study: str, headers: dict[str, Any]) -> None:
    with here.ledger.write() as db:
        values = {"headers": headers, "selected": ["Modality", "PatientName"]}
        db.execute(update(schema.plans).where(schema.plans.c.study_id == study).values(values))


LONG = ("--days", "36500")


def test_it_says_which_studies_it_would_have_taken_and_what_it_raised(
    here: Here,
    cli: Cli,
    studies: list[str],
    volume: Path,
) -> None:
    result = cli("service", "replay", volume, *LONG)
    assert result.exit_code == 1
    said = [line.split("\t") for line in result.stdout.splitlines()]
    assert said[0] == ["4 studies, 2 would have been taken, 3 callbacks failed"]
    assert said[1:4] == [["JOB", "STUDIES", "RUNS", "FAILED"], ["each", "2", "4", "2"], ["volume", "2", "2", "1"]]
    assert [(line[0], line[2]) for line in said[6:]] == [(studies[2], "each, volume"), (studies[0], "each, volume")]
    assert "2 times each: the callback raised ValueError (callback.py, line 4)" in result.stderr
    assert "DOE" not in result.output
    assert here.events() == []
    assert here.wakes == []


def test_for_programs_every_study_is_there(cli: Cli, studies: list[str], volume: Path) -> None:
    told = json.loads(cli("service", "replay", volume, *LONG, "--json").stdout)
    assert (told["service"], told["studies"], told["taken"], told["failed"]) == ("volume", 4, 2, 3)
    assert [item["studyId"] for item in told["items"]] == studies[::-1]
    assert [item["taken"] for item in told["items"]] == [False, True, False, True]
    assert "the patient is" in told["items"][0]["jobs"][0]["traceback"]


def test_pages_that_are_large_end_early_and_nothing_is_left_out(
    cli: Cli,
    studies: list[str],
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_headers, "MOST", 10)
    told = json.loads(cli("service", "replay", volume, *LONG, "--json").stdout)
    assert [item["studyId"] for item in told["items"]] == studies[::-1]
    told = json.loads(cli("service", "replay", volume, *LONG, "--json", "--limit", "2").stdout)
    assert [item["studyId"] for item in told["items"]] == studies[:1:-1]


def test_only_the_newest_plan_of_each_study_and_of_so_many_days_counts(
    here: Here, cli: Cli, studies: list[str], volume: Path
) -> None:
    with here.ledger.write() as db:
        old = update(schema.plans).where(schema.plans.c.study_id.in_(studies[:2]))
        db.execute(old.values(created_at=time.time() - 40 * 86400))
    here.plan(studies[3], {"job_name": "temp"}, run=2)
    keep(here, studies[3], {"studyId": studies[3], "seriesIds": [], "Modality": "CT", "series": []})
    assert cli.done("service", "replay", volume, *LONG).startswith("4 studies, 3 would have been taken, 0 callbacks")
    assert cli.done("service", "replay", volume, "--days", "30").startswith("2 studies, 2 would have been taken")


def test_a_service_that_is_wrong_is_refused_before_anything_is_asked(here: Here, cli: Cli, tmp_path: Path) -> None:
    assert "is not there" in cli.refused("service", "replay", tmp_path / "nowhere")
    assert here.asked == []


def test_a_cursor_that_is_none_is_refused(here: Here) -> None:
    api = here.api()
    for wrong in ("x", "1~'", "1" * 20 + "~a"):
        query = {"since": "2026-01-01T00:00:00Z", "cursor": wrong}
        assert api.get("/api/v1/headers", query_string=query).status_code == 400
    assert api.get("/api/v1/headers").status_code == 400
    assert api.get("/api/v1/headers", query_string={"since": "2026-01-01T00:00:00Z"}).get_json()["items"] == []

"""`dcm-processor result` against the scheduler's real HTTP side."""

import csv
import io
import json
from typing import Any

import pytest

from dcm_processor.ledger import results
from dcm_processor.notes import NamedResult
from dcm_processor.vocabulary import JobState
from tests.integration.cli.conftest import Here
from tests.integration.scheduler.api.stand import study_id
from tests.unit.dcm_processor.cli.conftest import Cli

ENDED = {"state": "finished", "started_at": 1.0, "ended_at": 2_000_000_000.0}


def name(stand: Here, job_id: str, attempt: int, *found: NamedResult) -> None:
    with stand.ledger.write() as db:
        results.add(db, f"{job_id}-{attempt}", found)


@pytest.fixture
def filled(here: Here) -> list[str]:
    """Two studies, whose jobs named results; the first one's failed before."""
    failed = {**ENDED, "state": "failed"}
    (one,) = here.plan(here.study(1), {"job_name": "segment", "tries": [failed, ENDED]})
    (two,) = here.plan(here.study(2), {"job_name": "segment", "tries": [ENDED]})
    name(here, one, 1, NamedResult("volume", 1.5, "ml"))
    name(here, one, 2, NamedResult("volume", 4810.5, "ml"), NamedResult("remark", "=1+1; Größe"))
    name(here, two, 1, NamedResult("volume", 3, "ml"), NamedResult("contrast", value=True))
    return [one, two]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.usefixtures("filled")
def test_csv_has_one_row_a_job_and_is_all_that_stdout_has(cli: Cli) -> None:
    result = cli("result", "list", "--service", "temp", "--csv")
    assert (result.exit_code, result.stderr) == (0, "")
    second, first = rows(result.stdout_bytes.decode())
    assert (first["volume"], first["remark"], first["contrast"]) == ("4810.5", "'=1+1; Größe", "")
    assert (second["volume"], second["contrast"], second["jobName"]) == ("3", "True", "segment")


@pytest.mark.usefixtures("filled")
def test_long_names_and_failed_attempts_are_asked_for(cli: Cli) -> None:
    command = ("result", "list", "--service", "temp", "--csv")
    long = rows(cli.done(*command, "--long", "--name", "volume"))
    assert [(row["name"], row["value"], row["unit"]) for row in long] == [
        ("volume", "3", "ml"),
        ("volume", "4810.5", "ml"),
    ]
    everything = rows(cli.done(*command, "--all", "--name", "volume", "--name", "remark"))
    assert [(row["volume"], row["state"], row["attempt"]) for row in everything] == [
        ("3", "finished", "1"), ("4810.5", "finished", "2"), ("1.5", "failed", "1"),
    ]  # fmt: skip
    assert rows(cli.done(*command, "--service", "none")) == []
    assert len(rows(cli.done(*command, "--days", "1"))) == 2


@pytest.mark.usefixtures("filled")
def test_json_and_the_table_have_them_too(cli: Cli) -> None:
    found = json.loads(cli.done("result", "list", "--service", "temp", "--json", "-n", "1"))
    assert [each["results"][1] for each in found] == [{"name": "contrast", "value": True, "unit": None}]
    table = [line.split("\t") for line in cli.done("result", "list", "--service", "temp").splitlines()]
    assert table[0] == ["PATIENTID", "STUDYDATE", "SERIESDESCRIPTION", "JOBNAME", "volume", "contrast", "remark"]
    assert table[2][4:] == ["4810.5", "", "=1+1; Größe"]


def test_a_terminal_shows_as_many_columns_as_it_has_room_for(
    here: Here,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (job_id,) = here.plan(here.study(1), {"job_name": "segment", "tries": [ENDED]})
    name(here, job_id, 1, *(NamedResult(f"n{number}", number) for number in range(30)))
    assert "n29" in cli.done("result", "list", "--service", "temp")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True)
    result = cli("result", "list", "--service", "temp")
    assert "22 more names" in result.stderr
    assert ("n7" in result.stdout, "n8" in result.stdout) == (True, False)


def test_units_that_differ_are_warned_of_beside_pure_csv(here: Here, cli: Cli) -> None:
    for number, unit in ((1, "ml"), (2, "l")):
        (job_id,) = here.plan(here.study(number), {"job_name": "segment", "tries": [ENDED]})
        name(here, job_id, 1, NamedResult("volume", number, unit))
    result = cli("result", "list", "--service", "temp", "--csv")
    assert "volume" in result.stderr
    assert len(rows(result.stdout)) == 2


def test_a_running_jobs_results_and_a_jobs_page_are_told(here: Here, cli: Cli, filled: list[str]) -> None:
    assert ["segment", "", "volume", "4810.5", "ml"] in [
        line.split("\t") for line in cli.done("study", "show", study_id(1)).splitlines()
    ]
    shown = cli.done("job", "show", filled[0])
    assert "volume = 4810.5 ml" in shown
    runs = {"job_name": "busy", "state": JobState.STARTED, "tries": [{"state": "started"}]}
    (job_id,) = here.plan(here.study(3), runs)
    assert "busy" in cli.done("job", "show", job_id)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"query": {"PatientId": "x"}}, "body.query"), ({"query": {"StudyDate": "x"}}, "body.query"),
        ({"cursor": "x"}, "body.cursor"), ({"query": {"PatientID": 1}}, "body.query.PatientID"),
        ({"other": 1}, "body.other"), ({"query": {str(n): "x" for n in range(40)}}, "body.query"),
    ],
)  # fmt: skip
def test_a_search_that_means_nothing_is_refused(here: Here, body: dict[str, Any], says: str) -> None:
    answer = here.api().post("/api/v1/results/search", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["faults"][0]["field"] == says


def test_a_search_answers_as_the_document_says(here: Here, filled: list[str]) -> None:
    api = here.api()
    page = api.post("/api/v1/results/search", json={"named": True, "limit": 1}).get_json()
    assert page["items"][0]["jobId"] == filled[1]
    rest = api.post("/api/v1/results/search", json={"named": True, "cursor": page["nextCursor"]}).get_json()
    assert ([each["jobId"] for each in rest["items"]], rest["nextCursor"]) == ([filled[0]], None)

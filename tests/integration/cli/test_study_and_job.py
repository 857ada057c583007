"""`dcm-processor study` and `job` against the scheduler's real HTTP side."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from werkzeug.serving import make_server

from dcm_processor.cli import main
from dcm_processor.ledger import events, studies
from dcm_processor.vocabulary import AttemptState, EventKind, ExitReason, JobState, StudyState, Verdict
from tests.integration.cli.conftest import Here
from tests.integration.scheduler.api.stand import study_id
from tests.servers import free_port
from tests.unit.dcm_processor.cli.conftest import Cli
from tests.waiting import wait_until

UNKNOWN = study_id(404)


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


FAILED = {
    "job_name": "bad",
    "state": JobState.FAILED,
    "reason": "ValueError: no",
    "tries": [
        {
            "state": AttemptState.FAILED,
            "exit_reason": ExitReason.EXCEPTION,
            "error": "ValueError: no",
            "traceback": "Traceback …\nValueError: no",
            "started_at": 1000.0,
            "ended_at": 1012.0,
            "host": "host-1",
        }
    ],
}


def test_studies_are_listed_newest_first_and_by_state(here: Here, cli: Cli) -> None:
    old = here.study(1, StudyState.FAILED)
    new = here.study(2, StudyDescription="Head\x1b[2J")
    here.plan(new, {"job_name": "temp"}, {"job_name": "declined", "verdict": Verdict.DECLINED})
    header, first, second = lines(cli.done("study", "list"))
    assert header[:3] == ["STUDY", "STATE", "JOBS"]
    assert first[:6] == [new, "finished", "1 finished", "20240131", "MR", "Head\ufffd[2J"]
    assert second[:2] == [old, "failed"]
    assert [each[0] for each in lines(cli.done("study", "list", "--state", "failed"))[1:]] == [old]
    assert [each["studyId"] for each in json.loads(cli.done("study", "list", "--json", "-n", "1"))] == [new]


def test_callbacks_that_failed_are_counted_in_the_list(here: Here, cli: Cli) -> None:
    study, errored = here.study(1), {"verdict": Verdict.ERRORED, "reason": "its callback failed"}
    here.plan(study, {"job_name": "temp"}, {"job_name": "bad", **errored}, {"job_name": "worse", **errored})
    [line] = lines(cli.done("study", "list"))[1:]
    assert sorted(line[2].split(", ")) == ["1 finished", "2 errored"]
    here.plan(study, {"job_name": "bad", **errored}, {"job_name": "no", "verdict": Verdict.DECLINED}, run=2)
    [line] = lines(cli.done("study", "list"))[1:]
    assert line[2] == "1 errored"
    assert json.loads(cli.done("study", "show", study, "--json"))["jobs"] == {"errored": 1}


def test_more_studies_than_a_page_holds_are_listed(here: Here, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcm_processor.cli.client._PAGE", 2)
    ids = [here.study(number) for number in range(1, 6)]
    assert [each[0] for each in lines(cli.done("study", "list"))[1:]] == ids[::-1]
    assert [each[0] for each in lines(cli.done("study", "list", "-n", "3"))[1:]] == ids[:1:-1]


def test_a_study_is_shown_by_either_identifier_with_its_jobs(here: Here, cli: Cli) -> None:
    study = here.study(1, StudyState.FAILED)
    [declined, failed] = here.plan(study, {"job_name": "no", "verdict": Verdict.DECLINED, "reason": "said no"}, FAILED)
    said = cli.done("study", "show", study)
    assert said == cli.done("study", "show", "1.2.1")
    assert f"study {study}: failed" in said
    table = lines(said)[3:]
    assert table[1] == ["no", "", "declined", "", "", "said no", declined]
    assert table[2] == ["bad", "", "failed", "1", "", "ValueError: no", failed]
    assert json.loads(cli.done("study", "show", study, "--json"))["studyId"] == study


def test_a_rerun_that_came_to_nothing_is_seen(here: Here, cli: Cli) -> None:
    study = here.study(1)
    here.plan(study, {"job_name": "temp"})
    cli.done("study", "rerun", study)
    assert lines(cli.done("study", "show", study))[-1][1:] == ["rerun", "not dealt with yet"]
    [event] = here.events(study)
    with here.ledger.write() as db:
        events.put_off(db, [event["event_id"]], "Orthanc does not answer", due_at=time.time(), counts=False)
    assert lines(cli.done("study", "show", study))[-1][2] == "Orthanc does not answer; to be tried again"
    gone = "Orthanc does not hold the study (any more)"
    with here.ledger.write() as db:
        events.settle(db, [event["event_id"]], gone, now=time.time())
        for number in range(1, 16):
            events.record(db, EventKind.STABLE, study, None, now=time.time() + number)
    said = cli.done("study", "show", study)
    assert gone not in said, "the newest fifteen entries are shown"
    assert "what happened before: 3 entries; --json shows them" in said
    assert gone in cli.done("study", "show", study, "--json")


def hold(here: Here, study: str) -> str:
    """Have the study held back; returns why."""
    why = 'held: 1 of 3 series (rule "CT"); planned as it is at 2030-01-01 00:00:00 UTC at the latest'
    with here.ledger.write() as db:
        number = events.record(db, EventKind.STABLE, study, None, now=time.time())
        events.settle(db, [number], why, now=time.time())
        studies.set_unplanned(db, study, why, hold_until=1_893_456_000)
    return why


def test_a_study_that_is_held_back_says_so_and_is_run_by_force_alone(here: Here, cli: Cli) -> None:
    study = here.study(1, StudyState.RUNNING)
    here.plan(study, {"job_name": "temp", "state": JobState.STARTED})
    why = hold(here, study)
    said = cli.done("study", "show", study).splitlines()
    assert said[2] == f"what it holds now has no plan: {why}"
    assert said[-1].endswith(f"\theld\t{why.removeprefix('held: ')}")
    refused = f"dcm-processor: The study is {why}; `force` (`study rerun --force`) has it planned as it is\n"
    assert cli.refused("study", "rerun", study) == refused
    cli.done("study", "rerun", study, "--force")
    assert [event["kind"] for event in here.events(study)] == [EventKind.RERUN]
    assert json.loads(cli.done("study", "show", study, "--json"))["holdUntil"] == "2030-01-01T00:00:00.000Z"


def test_explain_says_what_holds_a_study_back_and_shows_the_plan_all_the_same(here: Here, cli: Cli) -> None:
    said = cli.done("study", "explain", here.study(6))
    assert said.startswith("held: 1 of 3 series (rule")
    assert "temp\t\tscheduled\t" in said
    assert json.loads(cli.done("study", "explain", study_id(6), "--json"))["ending"] == "held"


def test_explain_says_what_callbacks_returned_and_on_demand_what_they_read(here: Here, cli: Cli) -> None:
    study = here.study(7)
    said = lines(cli.done("study", "explain", study))
    assert said[1:3] == [
        ["JOB", "SERIES", "VERDICT", "RETURNED", "PARAMS", "QUEUE", "AFTER", "REASON"],
        ["temp", "", "scheduled", "True", "side", "default", "", "its callback accepted"],
    ]
    assert ["what callbacks read of the headers (best effort):"] not in said
    said = lines(cli.done("study", "explain", study, "--reads"))
    begin = said.index(["what callbacks read of the headers (best effort):"])
    assert said[begin + 2 : begin + 4] == [
        ["temp", "", "Modality", "top", "not at the top: the series differ"],
        ["temp", "", "KVP", "series", "not selected by HEADER_FIELDS"],
    ]


def test_a_study_without_a_plan_says_why(here: Here, cli: Cli) -> None:
    study = here.study(1, StudyState.UNPLANNED)
    why = "planning failed (5 of 5): planning raised KeyError (plan.py, line 7)"
    with here.ledger.write() as db:
        number = events.record(db, EventKind.STABLE, study, None, now=time.time())
        events.settle(db, [number], why, now=time.time())
        studies.set_state(db, study, StudyState.UNPLANNED, reason=why, now=time.time())
    assert lines(cli.done("study", "list"))[1][1:3] == ["unplanned", why]
    said = cli.done("study", "show", study).splitlines()
    assert said[0] == f"study {study}: unplanned: {why}"
    assert said[2] == "no plan"
    assert said[-1].endswith(f"\tstable\t{why}")
    here.plan(study, {"job_name": "temp"})  # of an earlier revision
    assert lines(cli.done("study", "list"))[1][1:3] == ["unplanned", why]


def test_what_is_not_known_is_said_with_where_to_look(here: Here, cli: Cli) -> None:
    for name in (UNKNOWN, "1.2.3.4", "nope"):
        for verb in ("show", "explain", "rerun"):
            said = cli.refused("study", verb, name)
            assert said == f"dcm-processor: no study {name} is known; `dcm-processor study list` shows those that are\n"
    for verb in ("show", "log", "cancel", "rerun"):
        said = cli.refused("job", verb, "nope")
        assert said == (
            "dcm-processor: no job nope is known; `dcm-processor study show STUDY` shows those of a study\n"
        )
    for noun in ("study", "job"):
        assert "is no identifier" in cli.refused(noun, "show", "../../health/live", status=2)


def test_explain_shows_verdicts_and_why_a_callback_failed(here: Here, cli: Cli) -> None:
    study = here.study(1)
    result = cli("study", "explain", study)
    assert result.exit_code == 0
    assert "bad\t\terrored\t\t\tdefault\t\tits callback failed" in result.stdout
    assert "Boom\ufffd[2J" in result.stdout
    assert result.stderr == "warning: service odd: is odd\n"
    assert json.loads(cli.done("study", "explain", study, "--json"))["numberOfInstances"] == 3


def test_where_there_would_be_no_plan_explain_says_why(here: Here, cli: Cli) -> None:
    assert "only what the platform stored" in cli.refused("study", "explain", here.study(4))
    failed = here.study(5)
    assert "would get no plan: planning raised KeyError (plan.py, line 7)" in cli.refused("study", "explain", failed)
    answer = cli("study", "explain", failed, "--json")
    assert (answer.exit_code, json.loads(answer.stdout)["ending"]) == (1, "failed")


def test_what_fails_for_now_is_said_as_such(here: Here, cli: Cli) -> None:
    assert "Orthanc does not answer" in cli.refused("study", "explain", here.study(3))


def test_a_study_runs_again_all_of_it_or_some_jobs(here: Here, cli: Cli) -> None:
    study = here.study(1)
    here.plan(study, {"job_name": "temp"})
    assert f"dcm-processor study show {study}" in cli.done("study", "rerun", study)
    cli.done("study", "rerun", study, "-j", "temp")
    assert [(event["kind"], event["payload"]) for event in here.events(study)] == [
        (EventKind.RERUN, None),
        (EventKind.RERUN, {"jobs": ["temp"]}),
    ]
    assert 'did you mean "temp"?' in cli.refused("study", "rerun", study, "-j", "tmp", status=2)


def test_a_job_is_shown_with_its_attempts_and_its_traceback(here: Here, cli: Cli) -> None:
    [job] = here.plan(here.study(1), FAILED)
    said = cli.done("job", "show", job)
    assert said.startswith("job bad: failed: ValueError: no\n")
    assert "1\tfailed\texception\t" in said
    assert "\t12 s\thost-1\tValueError: no" in said
    assert said.endswith("traceback:\nTraceback …\nValueError: no\n")
    assert [each[0] for each in lines(cli.done("job", "list", "--state", "failed"))[1:]] == ["bad"]
    assert json.loads(cli.done("job", "show", job, "--json"))["jobId"] == job


def test_jobs_run_again_or_are_refused_one_by_one(here: Here, cli: Cli) -> None:
    here.install("bad", "temp")
    [failed] = here.plan(here.study(1), FAILED)
    [running] = here.plan(here.study(2), {"job_name": "temp", "state": JobState.STARTED})
    result = cli("job", "rerun", failed, running)
    assert result.exit_code == 1
    assert f"study show {study_id(1)}" in result.stdout
    assert f"{running}: The job is started" in result.stderr
    cli.done("job", "cancel", running)
    assert [event["kind"] for event in here.events()] == [EventKind.RERUN, EventKind.CANCEL]
    assert "nothing to cancel" in cli.refused("job", "cancel", failed)


def many_failed(here: Here) -> None:
    """Three studies, of which two failed by `bad` for want of a GPU, one long ago."""
    here.install("bad", "temp")
    gpu = {"job_name": "bad", "state": JobState.FAILED, "reason": "RuntimeError: CUDA error: out of memory (100%)"}
    here.plan(here.study(1), {**gpu, "ended_at": time.time() - 3 * 86_400}, {"job_name": "temp"})
    here.plan(here.study(2), {**gpu, "ended_at": time.time() - 60}, {"job_name": "temp"})
    here.plan(here.study(3), {**gpu, "ended_at": time.time() - 60, "reason": "ValueError: no"})
    here.plan(here.study(4), {**gpu, "ended_at": time.time() - 60})  # and what a later plan replaced
    here.plan(study_id(4), {"job_name": "bad"}, run=2)


def test_after_an_incident_the_jobs_are_found_that_it_ended(here: Here, cli: Cli) -> None:
    many_failed(here)

    def found(*filters: str) -> list[int]:
        listed = json.loads(cli.done("job", "list", *filters, "--json"))
        return sorted(int(job["studyId"][:8], 16) for job in listed)

    assert found("--state", "failed") == [1, 2, 3, 4]
    assert found("--state", "failed", "--current") == [1, 2, 3]
    assert found("--state", "failed", "--reason", "cuda ERROR") == [1, 2, 4]
    assert found("--state", "failed", "--reason", "(100%)", "--since", "24h", "--current") == [2]
    assert found("--state", "failed", "--reason", "1%0") == []
    assert found("--since", "2000-01-01", "--service", "temp", "--job", "bad") == [1, 2, 3, 4]
    assert found("--since", "2000-01-01T06:00", "--service", "other") == []
    assert "--since takes" in cli.refused("job", "list", "--since", "yesterday", status=2)
    assert not [path for path in here.asked if "CUDA" in path or "cuda" in path]


def test_they_run_again_together_after_a_count_and_a_question(here: Here, cli: Cli) -> None:
    many_failed(here)
    said = cli("job", "rerun", "--reason", "CUDA")
    assert (said.exit_code, here.events()) == (2, [])
    assert "      2  temp/bad  RuntimeError: CUDA error: out of memory (100%)\n2 jobs of 2 studies\n" in said.stderr
    assert said.stderr.endswith("nobody is there to be asked; --yes runs them again\n")
    assert cli.done("job", "rerun", "--reason", "CUDA", "--yes").count("accepted; ") == 2
    assert sorted((event["study_id"], event["kind"]) for event in here.events()) == [
        (study_id(1), EventKind.RERUN),
        (study_id(2), EventKind.RERUN),
    ]
    assert cli.done("job", "rerun", "--reason", "nothing like it") == ""
    for wrong in ((), ("x", "--state", "failed")):
        assert "name jobs, or say by --state" in cli.refused("job", "rerun", *wrong, status=2)


def test_somebody_who_is_asked_may_say_no(here: Here, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    many_failed(here)
    monkeypatch.setattr("dcm_processor.cli.dead_letters._somebody_is_there", lambda: True)
    for text, status, events_there in (("n\n", 1, 0), ("", 130, 0), ("y\n", 0, 3)):
        result = CliRunner().invoke(main, ["job", "rerun", "--state", "failed"], input=text, prog_name="dcm-processor")
        assert (result.exit_code, len(here.events())) == (status, events_there), result.output


def test_a_studys_jobs_stay_together_however_many_there_are(
    here: Here, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event a study, where the API takes so many at once."""
    monkeypatch.setattr("dcm_processor.cli.dead_letters._AT_ONCE", 5)
    here.install("bad")
    series = [{"job_name": "bad", "state": JobState.FAILED, "series_id": f"s{number}"} for number in range(3)]
    for number in range(1, 5):
        here.plan(here.study(number), *series)
    here.plan(here.study(9), *({**series[0], "series_id": f"s{number}"} for number in range(12)))
    answer = json.loads(cli.done("job", "rerun", "--state", "failed", "--yes", "--json"))
    counts = [(int(entry["studyId"][:8], 16), len(entry["jobIds"])) for entry in answer["accepted"]]
    assert sorted(counts) == [(1, 3), (2, 3), (3, 3), (4, 3), (9, 2), (9, 5), (9, 5)]


def test_a_log_is_printed_as_it_is(here: Here, cli: Cli) -> None:
    study = here.study(1)
    [job] = here.plan(study, FAILED)
    here.log(study, job, 1).write_bytes("Grüße\n".encode() * 300_000)
    assert cli.done("job", "log", job) == "Grüße\n" * 300_000
    assert json.loads(cli.done("job", "log", job, "--json")) == {
        "jobId": job,
        "attempt": 1,
        "complete": True,
        "log": "Grüße\n" * 300_000,
    }
    assert "has no attempt 7" in cli.refused("job", "log", job, "--attempt", "7")


def test_a_log_is_followed_until_the_job_has_ended(here: Here, cli: Cli) -> None:
    study = here.study(1)
    tries = [{"state": AttemptState.STARTED, "started_at": time.time()}]
    [job] = here.plan(study, {"job_name": "slow", "state": JobState.STARTED, "tries": tries})
    path = here.log(study, job, 1)

    def write() -> None:
        for number in range(3):
            with path.open("a") as file:
                file.write(f"line {number}\n")
            looks = len(here.asked)
            wait_until(lambda looks=looks: len(here.asked) > looks + 1, what="the follower's next look")  # type: ignore[misc]
        here.end(job, path.stat().st_size)

    writer = threading.Thread(target=write)
    writer.start()
    assert cli.done("job", "log", job, "-f") == "line 0\nline 1\nline 2\n"
    writer.join()


def test_without_a_scheduler_it_says_how_to_start_one(here: Here, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULER_PORT", str(free_port()))
    said = cli.refused("study", "list")
    assert "is it running? `bash run.sh --local` starts it" in said
    assert said.count("\n") == 1


def test_a_token_that_does_not_fit_is_said_without_showing_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other" / "secrets").mkdir(parents=True)
    (tmp_path / "other" / "secrets" / "scheduler_token").write_text("wrong-token")
    monkeypatch.setenv("BASEDIR", str(tmp_path / "other"))
    said = cli.refused("study", "list")
    assert "refuses our token" in said
    assert "wrong-token" not in said


def test_another_server_at_that_port_is_recognised(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def hello(_environ: Any, start: Any) -> list[bytes]:
        start("404 Not Found", [("Content-Type", "text/html")])
        return [b"<h1>hello</h1>"]

    server = make_server("127.0.0.1", 0, hello)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SCHEDULER_PORT", str(server.server_port))
    assert "is no scheduler of ours" in cli.refused("study", "list")
    server.shutdown()
    thread.join(10)

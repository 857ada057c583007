"""Jobs over HTTP: listed, shown, followed by their logs, run again, cancelled."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import events, results
from dcm_processor.notes import NamedResult, Progress
from dcm_processor.transport import Report, Transport
from dcm_processor.vocabulary import JobState
from tests.integration.scheduler.api.stand import Api, Installation, study_id
from tests.servers import ValkeyServer
from tests.waiting import wait_until

ENDED = {"state": "finished", "started_at": 1.0, "ended_at": 2.0, "details": {"logSize": 8}}


def names(response: Any) -> list[str]:
    return [item["jobName"] for item in response.get_json()["items"]]


def test_jobs_are_listed_by_state_and_page(installation: Installation, api: Api) -> None:
    for number in range(1, 5):
        installation.plan(installation.study(number), {"job_name": f"job-{number}", "state": "failed"})
    installation.plan(installation.study(9), {"job_name": "other", "state": "waiting"})
    first = api.get("/api/v1/jobs?state=failed&limit=3")
    assert names(first) == ["job-4", "job-3", "job-2"]
    cursor = first.get_json()["nextCursor"]
    rest = api.get(f"/api/v1/jobs?state=failed&limit=3&cursor={cursor}")
    assert (names(rest), rest.get_json()["nextCursor"]) == (["job-1"], None)
    assert names(api.get("/api/v1/jobs")) == ["other", "job-4", "job-3", "job-2", "job-1"]
    assert api.get("/api/v1/jobs?state=done").status_code == 400


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ({}, ["b", "a", "a", "a"]),
        ({"state": "failed"}, ["a", "a"]),
        ({"jobName": "b"}, ["b"]),
        ({"service": "other"}, ["b"]),
        ({"service": "temp", "state": "failed", "current": True}, ["a"]),
        ({"since": "2023-11-14T22:13:20Z"}, ["a", "a"]),
        ({"since": "2023-11-14T23:13:21+01:00"}, ["a"]),
        ({"reason": "cuda"}, ["a", "a"]),
        ({"reason": "100%"}, ["a"]),
        ({"reason": "%"}, ["a"]),
        ({"reason": "CUDA", "limit": 1}, ["a"]),
    ],
)
def test_jobs_are_found_by_terms_that_all_hold(
    installation: Installation, api: Api, terms: dict[str, Any], found: list[str]
) -> None:
    study, at = installation.study(1), 1_700_000_000.0
    installation.plan(study, {"job_name": "a", "state": "failed", "reason": "CUDA error", "ended_at": at})
    installation.plan(study, {"job_name": "a"}, run=2)
    failed = {"job_name": "a", "state": "failed", "reason": "CUDA: 100%", "ended_at": at + 1}
    installation.plan(installation.study(2), failed, {"job_name": "b", "service": "other", "state": "waiting"})
    response = api.post("/api/v1/jobs/search", json=terms)
    assert sorted(names(response)) == sorted(found)
    if "reason" not in terms:
        assert names(api.get("/api/v1/jobs", query_string=terms)) == names(response)


@pytest.mark.parametrize(
    "terms",
    [{"reason": ""}, {"since": "yesterday"}, {"since": "2024-01-01T00:00:00"}, {"studyId": "x"}, {"cursor": "x"}],
)
def test_a_term_that_is_none_is_refused(api: Api, terms: Any) -> None:
    response = api.post("/api/v1/jobs/search", json=terms)
    assert response.status_code == 400
    assert response.get_json()["faults"][0]["field"] == f"body.{next(iter(terms))}"


def test_what_a_reason_says_is_not_taken_from_an_address(api: Api) -> None:
    assert api.get("/api/v1/jobs?reason=CUDA").status_code == 400


def test_a_found_list_goes_on_where_its_page_ended(installation: Installation, api: Api) -> None:
    for number in range(1, 8):
        installation.plan(installation.study(number), {"job_name": f"job-{number}", "state": "failed"})
    found, cursor = [], None
    while True:
        page = api.post("/api/v1/jobs/search", json={"state": "failed", "limit": 3, "cursor": cursor})
        found += names(page)
        if (cursor := page.get_json()["nextCursor"]) is None:
            break
    assert found == [f"job-{number}" for number in range(7, 0, -1)]


def test_jobs_of_one_moment_are_each_on_one_page(installation: Installation, api: Api) -> None:
    installation.plan(installation.study(1), *({"job_name": f"job-{number}"} for number in range(10)))
    found, query = [], "limit=3"
    while query:
        page = api.get(f"/api/v1/jobs?{query}")
        found += names(page)
        cursor = page.get_json()["nextCursor"]
        query = f"limit=3&cursor={cursor}" if cursor else ""
    assert sorted(found) == sorted(f"job-{number}" for number in range(10))


def test_a_job_is_shown(installation: Installation, api: Api) -> None:
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", "tries": [ENDED]})
    shown = api.get(f"/api/v1/jobs/{job_id}").get_json()
    assert (shown["jobName"], shown["state"], shown["attempt"]) == ("segment", "finished", 1)
    assert shown["attempts"][0]["attemptId"] == f"{job_id}-1"


@pytest.mark.parametrize("job_id", ["nothing", "..%2F..%2Fetc%2Fpasswd", "%00", "a" * 201, "a.b", "😷"])
def test_a_job_nobody_knows_is_a_404(api: Api, job_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/log"), ("POST", "/rerun"), ("POST", "/cancel")):
        assert api.call(method, f"/api/v1/jobs/{job_id}{path}").status_code == 404


# -- logs


def test_a_log_is_followed_to_its_end(installation: Installation, api: Api) -> None:
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "tries": [{**ENDED, "ended_at": None}]})
    log = installation.log(study, job_id, 1)
    log.write_bytes(b"one\n")
    first = api.get(f"/api/v1/jobs/{job_id}/log")
    assert (first.data, first.content_type) == (b"one\n", "text/plain; charset=utf-8")
    said = [first.headers[f"X-{name}"] for name in ("Next-Offset", "Log-Complete", "Log-Attempt")]
    assert said == ["4", "false", "1"]
    with log.open("ab") as file:
        file.write("zwö".encode())
    second = api.get(f"/api/v1/jobs/{job_id}/log?attempt=1&offset=4")
    assert (second.data, second.headers["X-Next-Offset"]) == ("zwö".encode(), "8")


def test_the_log_of_an_ended_attempt_is_complete(installation: Installation, api: Api) -> None:
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "tries": [ENDED]})
    installation.log(study, job_id, 1).write_bytes(b"12345678")
    assert api.get(f"/api/v1/jobs/{job_id}/log").headers["X-Log-Complete"] == "true"
    end = api.get(f"/api/v1/jobs/{job_id}/log?offset=8")
    assert (end.data, end.headers["X-Log-Complete"], end.headers["X-Next-Offset"]) == (b"", "true", "8")


def test_each_attempt_has_a_log_and_the_last_comes_unasked(installation: Installation, api: Api) -> None:
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "tries": [ENDED, ENDED]})
    for attempt in (1, 2):
        installation.log(study, job_id, attempt).write_text(f"attempt {attempt}")
    assert api.get(f"/api/v1/jobs/{job_id}/log").data == b"attempt 2"
    assert api.get(f"/api/v1/jobs/{job_id}/log?attempt=1").data == b"attempt 1"
    assert api.get(f"/api/v1/jobs/{job_id}/log?attempt=3").status_code == 404


def test_a_job_that_has_not_started_has_an_empty_log(installation: Installation, api: Api) -> None:
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", "state": "waiting"})
    response = api.get(f"/api/v1/jobs/{job_id}/log")
    assert (response.status_code, response.data, response.headers["X-Log-Complete"]) == (200, b"", "false")
    assert "X-Log-Attempt" not in response.headers


def test_an_offset_behind_the_end_is_a_416(installation: Installation, api: Api) -> None:
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "tries": [ENDED]})
    installation.log(study, job_id, 1).write_bytes(b"12345678")
    response = api.get(f"/api/v1/jobs/{job_id}/log?offset=9")
    assert (response.status_code, response.headers["Content-Range"]) == (416, "bytes */8")


@pytest.mark.parametrize("query", ["offset=-1", "offset=x", "attempt=0", "attempt=..%2F1", "path=x", f"offset={2**64}"])
def test_what_is_no_part_of_a_log_is_refused(installation: Installation, api: Api, query: str) -> None:
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", "tries": [ENDED]})
    assert api.get(f"/api/v1/jobs/{job_id}/log?{query}").status_code == 400


# -- run again


def test_an_ended_job_is_run_again(installation: Installation, api: Api) -> None:
    installation.install("segment")
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "state": "failed"})
    response = api.post(f"/api/v1/jobs/{job_id}/rerun")
    (event,) = installation.events()
    assert response.status_code == 202
    assert response.get_json() == {
        "status": "accepted", "studyId": study, "eventId": event["event_id"], "jobIds": [job_id]
    }  # fmt: skip
    assert (event["kind"], event["study_id"], event["payload"]) == ("rerun", study, {"jobIds": [job_id]})
    wait_until(lambda: installation.wakes == ["rerun"], 5, "the controller is woken")


@pytest.mark.parametrize("state", ["waiting", "queued", "started", "retrying"])
def test_a_job_on_its_way_is_not_run_again(installation: Installation, api: Api, state: str) -> None:
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", "state": state})
    response = api.post(f"/api/v1/jobs/{job_id}/rerun")
    assert (response.status_code, state in response.get_json()["detail"]) == (409, True)
    assert installation.events() == []


def test_a_job_that_was_not_scheduled_is_not_run_again(installation: Installation, api: Api) -> None:
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", "verdict": "declined"})
    assert api.post(f"/api/v1/jobs/{job_id}/rerun").status_code == 409


def test_a_job_whose_service_was_removed_is_not_run_again_and_says_what_to_do(
    installation: Installation, api: Api
) -> None:
    installation.install("other")
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", "state": "failed"})
    response = api.post(f"/api/v1/jobs/{job_id}/rerun")
    assert response.status_code == 409
    assert "Service temp is not installed any more, or not with this job; install it" in response.get_json()["detail"]
    [refused] = api.post("/api/v1/jobs/rerun", json={"jobIds": [job_id]}).get_json()["refused"]
    assert (refused["status"], refused["reason"]) == (409, response.get_json()["detail"])
    assert installation.events() == []


def test_a_job_of_an_old_plan_is_not_run_again(installation: Installation, api: Api) -> None:
    installation.install("segment")
    study = installation.study(1)
    (old,) = installation.plan(study, {"job_name": "segment"})
    (new,) = installation.plan(study, {"job_name": "segment"}, run=2)
    response = api.post(f"/api/v1/jobs/{old}/rerun")
    assert response.status_code == 409
    assert f"{study}-0123456789ab-2" in response.get_json()["detail"]
    assert api.post(f"/api/v1/jobs/{new}/rerun").status_code == 202


def test_many_jobs_are_run_again_at_once_each_study_in_one_plan(installation: Installation, api: Api) -> None:
    installation.install("a", "b", "c")
    first = installation.plan(installation.study(1), {"job_name": "a", "state": "failed"}, {"job_name": "b"})
    second = installation.plan(
        installation.study(2), {"job_name": "a", "state": "failed"}, {"job_name": "c", "state": "started"}
    )
    asked = [*first, *second, "nothing", "../..", first[0]]
    response = api.post("/api/v1/jobs/rerun", json={"jobIds": asked})
    assert response.status_code == 202
    answer = response.get_json()
    assert [(entry["studyId"], entry["jobIds"]) for entry in answer["accepted"]] == [
        (study_id(1), first),
        (study_id(2), second[:1]),
    ]
    assert [(entry["jobId"], entry["status"]) for entry in answer["refused"]] == [
        (second[1], 409),
        ("nothing", 404),
        ("../..", 404),
    ]
    assert [event["payload"] for event in installation.events()] == [{"jobIds": first}, {"jobIds": second[:1]}]


def test_jobs_that_run_again_are_recorded_all_or_none(
    installation: Installation, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.install("a")
    failed = [installation.plan(installation.study(number), {"job_name": "a", "state": "failed"}) for number in (1, 2)]
    record = events.record

    def fail_at_the_second(db: Any, kind: Any, study: str, *rest: Any, **more: Any) -> int:
        if study == study_id(2):
            raise LedgerUnavailableError("the disk is full")
        return record(db, kind, study, *rest, **more)

    monkeypatch.setattr(events, "record", fail_at_the_second)
    ids = [job_id for (job_id,) in failed]
    assert api.post("/api/v1/jobs/rerun", json={"jobIds": ids}).status_code == 503
    assert installation.events() == []


@pytest.mark.parametrize("body", [{}, {"jobIds": []}, {"jobIds": "x"}, {"jobIds": ["x"] * 1001}, {"jobs": ["x"]}, []])
def test_a_bulk_rerun_needs_1_to_1000_jobs(installation: Installation, api: Api, body: Any) -> None:
    assert api.post("/api/v1/jobs/rerun", json=body).status_code == 400
    assert installation.events() == []


# -- cancel


@pytest.mark.parametrize("state", ["waiting", "queued", "started", "retrying"])
def test_a_job_that_has_not_ended_is_cancelled(installation: Installation, api: Api, state: str) -> None:
    study = installation.study(1)
    (job_id,) = installation.plan(study, {"job_name": "segment", "state": state})
    assert api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 202
    (event,) = installation.events()
    assert (event["kind"], event["study_id"], event["payload"]) == ("cancel", study, {"jobIds": [job_id]})
    wait_until(lambda: installation.wakes == ["cancel"], 5, "the controller is woken")


@pytest.mark.parametrize("job", [{"state": "finished"}, {"state": "cancelled"}, {"verdict": "declined"}])
def test_where_there_is_nothing_to_cancel_it_is_said(installation: Installation, api: Api, job: dict[str, str]) -> None:
    (job_id,) = installation.plan(installation.study(1), {"job_name": "segment", **job})
    response = api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (response.status_code, "nothing to cancel" in response.get_json()["detail"]) == (409, True)
    assert installation.events() == []


def test_a_running_job_says_how_far_it_is_and_an_ended_one_what_it_named(tmp_path: Path, valkey: ValkeyServer) -> None:
    with Installation(tmp_path, REDIS_URL=valkey.url) as installation, closing(Transport(valkey.url)) as transport:
        api, study = installation.api(), installation.study(1)
        tries = [{"state": "failed"}, {"state": "started"}]
        (job_id,) = installation.plan(study, {"job_name": "segment", "state": JobState.STARTED, "tries": tries})
        with installation.ledger.write() as db:
            results.add(db, f"{job_id}-1", [NamedResult("volume", 4810.5, "ml"), NamedResult("ok", value=True)])
        report = Report("started", f"{job_id}-2", "claim", "worker", "host")
        transport.announce(report, 1, Progress(0.25, "lobe 1", 1_700_000_000.0))
        in_study = api.get(f"/api/v1/studies/{study}").get_json()["plans"][0]["jobs"][0]
        (listed,) = api.get("/api/v1/jobs").get_json()["items"]
        shown = api.get(f"/api/v1/jobs/{job_id}").get_json()
        transport.forget_attempts([f"{job_id}-2"], acknowledge=True)
        assert in_study == listed == shown
        failed, started = shown["attempts"]
        assert started["progress"] == {"fraction": 0.25, "text": "lobe 1", "at": "2023-11-14T22:13:20.000Z"}
        assert (failed["progress"], started["results"]) == (None, [])
        assert failed["results"] == [
            {"name": "volume", "value": 4810.5, "unit": "ml"},
            {"name": "ok", "value": True, "unit": None},
        ]


def test_without_redis_nobody_knows_how_far_a_job_is(installation: Installation, api: Api) -> None:
    tries = [{"state": "started"}]
    (job_id,) = installation.plan(
        installation.study(1), {"job_name": "segment", "state": JobState.STARTED, "tries": tries}
    )
    assert api.get(f"/api/v1/jobs/{job_id}").get_json()["attempts"][0]["progress"] is None

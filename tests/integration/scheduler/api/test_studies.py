"""Studies over HTTP: listed, found, shown, explained, run again."""

from pathlib import Path
from typing import Any

import pytest

from dcm_processor.errors import OrthancUnavailableError
from dcm_processor.ledger.studies import set_unplanned
from dcm_processor.store import Store
from dcm_processor.vocabulary import StudyState, Verdict
from tests.integration.scheduler.api.stand import Api, Installation, study_id
from tests.waiting import wait_until

EXPLAINED = {
    "ending": "planned",
    "studyId": study_id(1),
    "reason": "",
    "revision": "0123456789ab",
    "seriesIds": ["series-1"],
    "numberOfInstances": 35,
    "jobs": [
        {
            "jobName": "segment",
            "seriesId": None,
            "service": "temp",
            "version": "0123",
            "verdict": "errored",
            "reason": "the callback raised ValueError",
            "stage": "main",
            "level": "study",
            "queue": "default",
            "position": 0,
            "dependsOn": ["*"],
            "dependencies": [{"jobName": "dcm2nii", "seriesId": "series-1"}],
            "applies": None,
            "injected": {"threshold": 0.5},
            "traceback": "Traceback …",
            "callbackOutput": "",
            "reads": [{"keyword": "KVP", "place": "top", "found": "notSelected"}],
        }
    ],
    "faults": [],
}


def ids(response: Any) -> list[str]:
    return [item["studyId"] for item in response.get_json()["items"]]


def test_studies_are_listed_newest_first(installation: Installation, api: Api) -> None:
    made = [installation.study(number) for number in range(1, 4)]
    assert ids(api.get("/api/v1/studies")) == made[::-1]


def test_a_list_goes_on_where_its_page_ended(installation: Installation, api: Api) -> None:
    made = [installation.study(number) for number in range(1, 8)]
    found, cursor = [], ""
    while True:
        page = api.get(f"/api/v1/studies?limit=3&cursor={cursor}")
        assert len(ids(page)) <= 3
        found += ids(page)
        installation.study(100 + len(found))  # one that comes while somebody turns pages moves nothing
        cursor = page.get_json()["nextCursor"]
        if cursor is None:
            break
    assert found == made[::-1]


@pytest.mark.parametrize("limit", [1, 500])
def test_a_page_holds_1_to_500(api: Api, limit: int) -> None:
    assert api.get(f"/api/v1/studies?limit={limit}").status_code == 200
    assert api.get(f"/api/v1/jobs?limit={limit}").status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=-1", "limit=ten", "limit=1.5", "limit=1&limit=2"])
def test_another_limit_is_refused(api: Api, query: str) -> None:
    assert api.get(f"/api/v1/studies?{query}").status_code == 400
    assert api.get(f"/api/v1/jobs?{query}").status_code == 400


@pytest.mark.parametrize(
    "cursor", ["x", "-1", "1.5", "9" * 30, "1%00", "nan~x", "1~x' OR 1", "inf~a", "~", "%F0%9F%A9%BB", "a" * 301]
)
def test_a_cursor_that_no_list_gave_is_refused(api: Api, cursor: str) -> None:
    for path in ("studies", "jobs"):
        response = api.get(f"/api/v1/{path}?cursor={cursor}")
        assert response.status_code == 400
        assert response.get_json()["faults"][0]["field"] == "query.cursor"


def test_studies_are_listed_by_state(installation: Installation, api: Api) -> None:
    installation.study(1, StudyState.FINISHED)
    failed = installation.study(2, StudyState.FAILED)
    assert ids(api.get("/api/v1/studies?state=failed")) == [failed]
    assert api.get("/api/v1/studies?state=lost").status_code == 400


@pytest.mark.parametrize(
    ("terms", "numbers"),
    [
        ({}, [3, 2, 1]),
        ({"studyInstanceUID": "1.2.2"}, [2]),
        ({"studyInstanceUID": "1.2"}, []),
        ({"from": "2024-02-01"}, [3, 2]),
        ({"from": "20240201", "to": "2024-02-28"}, [2]),
        ({"to": "20240131"}, [1]),
        ({"modality": "CT"}, [2]),
        ({"state": "failed"}, [3]),
        ({"service": "temp"}, [2, 1]),
        ({"jobName": "segment"}, [1]),
        ({"service": "temp", "modality": "CT"}, [2]),
        ({"limit": 1}, [3]),
    ],
)
def test_studies_are_found_by_terms_in_the_body(
    installation: Installation, api: Api, terms: dict[str, Any], numbers: list[int]
) -> None:
    first = installation.study(1)
    installation.plan(first, {"job_name": "segment"})
    second = installation.study(2, StudyDate="20240215", Modality="CT")
    installation.plan(second, {"job_name": "register", "verdict": Verdict.DECLINED})
    installation.study(3, StudyState.FAILED, StudyDate="20240301")
    assert ids(api.post("/api/v1/studies/search", json=terms)) == [study_id(number) for number in numbers]


def test_a_search_without_a_body_lists_everything(installation: Installation, api: Api) -> None:
    made = installation.study(1)
    assert ids(api.post("/api/v1/studies/search")) == [made]


def test_a_found_list_goes_on_too(installation: Installation, api: Api) -> None:
    made = [installation.study(number) for number in range(1, 4)]
    page = api.post("/api/v1/studies/search", json={"modality": "MR", "limit": 2}).get_json()
    rest = api.post("/api/v1/studies/search", json={"modality": "MR", "cursor": page["nextCursor"]})
    assert ids(rest) == made[:1]


@pytest.mark.parametrize(
    "terms",
    [
        {"patientName": "x"},
        {"from": "January"},
        {"to": "2024-1-1"},
        {"modality": "%"},
        {"studyInstanceUID": "1.2.x"},
        {"limit": "many"},
        {"cursor": "1.5"},
        [],
    ],
)
def test_a_term_that_is_none_is_refused(api: Api, terms: Any) -> None:
    response = api.post("/api/v1/studies/search", json=terms)
    assert response.status_code == 400
    assert response.get_json()["faults"][0]["field"].startswith("body")


def test_a_study_is_shown_with_all_that_was_done_about_it(installation: Installation, api: Api) -> None:
    study = installation.study(1, StudyDescription="Head")
    at = 1_700_000_000.0
    broke = {
        "state": "failed",
        "started_at": at,
        "ended_at": at + 2.5,
        "worker": "worker_00",
        "host": "here",
        "exit_reason": "exception",
        "error": "ValueError: no slice is axial",
        "traceback": "Traceback …",
        "phases": {"run": [at + 1, at + 2.5]},
        "details": {"exitStatus": 1, "peakMemory": 1000},
    }
    first, second = installation.plan(
        study,
        {"job_name": "segment", "state": "failed", "tries": [broke], "injected": {"threshold": 0.5}},
        {"job_name": "register", "verdict": "skipped", "reason": "segment failed", "series_id": "series-1"},
    )
    installation.plan(study, {"job_name": "segment"}, run=2)
    shown = api.get(f"/api/v1/studies/{study}").get_json()
    assert (shown["studyInstanceUID"], shown["modalities"], shown["description"]) == ("1.2.1", ["MR"], "Head")
    assert shown["jobs"] == {"finished": 1}
    assert [(plan["run"], plan["active"]) for plan in shown["plans"]] == [(2, True), (1, False)]
    old = shown["plans"][1]
    assert [job["jobId"] for job in old["jobs"]] == [first, second]
    assert old["faults"] == ["broken: odd"]
    (attempt,) = old["jobs"][0]["attempts"]
    assert attempt["error"] == "ValueError: no slice is axial"
    assert attempt["phases"] == {"run": ["2023-11-14T22:13:21.000Z", "2023-11-14T22:13:22.500Z"]}
    assert (old["jobs"][1]["state"], old["jobs"][1]["reason"]) == (None, "segment failed")


@pytest.mark.parametrize("name", [study_id(9), "1.2.840.1", "x" * 2000, "%00", "..%2Fjobs"])
def test_a_study_nobody_knows_is_a_404(api: Api, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/explain"), ("POST", "/rerun")):
        assert api.call(method, f"/api/v1/studies/{name}{path}").status_code == 404


def test_a_study_is_explained_and_nothing_happens(installation: Installation) -> None:
    asked = []

    def explain(study: str, *, reads: bool) -> dict[str, Any]:
        asked.append((study, reads))
        return EXPLAINED

    api = installation.api(explain)
    study = installation.study(1)
    response = api.get(f"/api/v1/studies/{study}/explain")
    assert response.get_json() == EXPLAINED
    assert api.get(f"/api/v1/studies/{study}/explain?reads=true").get_json() == EXPLAINED
    assert asked == [(study, False), (study, True)]
    assert api.get(f"/api/v1/studies/{study}/explain?reads=perhaps").status_code == 400
    assert installation.events() == []
    assert installation.wakes == []


def test_explaining_needs_orthanc(installation: Installation) -> None:
    def explain(_: str, *, reads: bool) -> dict[str, Any]:
        raise OrthancUnavailableError("Orthanc does not answer")

    study = installation.study(1)
    assert installation.api(explain).get(f"/api/v1/studies/{study}/explain").status_code == 503


@pytest.mark.parametrize("body", [None, {}, {"jobs": None}])
def test_a_study_is_run_again_as_a_whole(installation: Installation, api: Api, body: Any) -> None:
    study = installation.study(1)
    response = api.post(f"/api/v1/studies/{study}/rerun", **({} if body is None else {"json": body}))
    assert response.status_code == 202
    (event,) = installation.events()
    assert response.get_json() == {"status": "accepted", "studyId": study, "eventId": event["event_id"]}
    assert (event["kind"], event["study_id"], event["payload"]) == ("rerun", study, None)
    wait_until(lambda: installation.wakes == ["rerun"], 5, "the controller is woken")


def test_a_study_that_is_held_back_is_run_again_by_force_alone(installation: Installation, api: Api) -> None:
    study, why = installation.study(1), 'held: 1 of 3 series (rule "CT"); planned as it is at 14:05 at the latest'
    with installation.ledger.write() as db:
        set_unplanned(db, study, why, hold_until=1_893_456_000)
    refused = api.post(f"/api/v1/studies/{study}/rerun")
    assert (refused.status_code, why in refused.get_json()["detail"]) == (409, True)
    assert installation.events() == []
    shown = api.get(f"/api/v1/studies/{study}").get_json()
    assert (shown["holdUntil"], shown["unplanned"]) == ("2030-01-01T00:00:00.000Z", why)
    assert api.post(f"/api/v1/studies/{study}/rerun", json={"force": True}).status_code == 202
    assert [(event["kind"], event["payload"]) for event in installation.events()] == [("rerun", None)]


def test_force_changes_nothing_for_a_study_that_is_not_held_back(installation: Installation, api: Api) -> None:
    assert api.post(f"/api/v1/studies/{installation.study(1)}/rerun", json={"force": True}).status_code == 202
    assert api.post(f"/api/v1/studies/{installation.study(2)}/rerun", json={"force": "maybe"}).status_code == 400


def test_jobs_of_a_study_are_run_again_by_name(installation: Installation, api: Api) -> None:
    study = installation.study(1)
    installation.plan(study, {"job_name": "segment"}, {"job_name": "register"})
    response = api.post(f"/api/v1/studies/{study}/rerun", json={"jobs": ["register", "segment", "register"]})
    assert response.status_code == 202
    (event,) = installation.events()
    assert event["payload"] == {"jobs": ["register", "segment"]}


def test_a_job_that_was_installed_since_the_plan_can_be_named(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    install(installation, tmp_path, "fresh")
    study = installation.study(1)
    assert api.post(f"/api/v1/studies/{study}/rerun", json={"jobs": ["fresh"]}).status_code == 202


@pytest.mark.parametrize(
    ("jobs", "faults"),
    [
        (["segmnt"], [("body.jobs.0", 'no job has this name; did you mean "segment"?')]),
        (["segment", "xyz"], [("body.jobs.1", "no job has this name")]),
        (["Segment"], [("body.jobs.0", 'no job has this name; did you mean "segment"?')]),
    ],
)
def test_a_name_that_no_job_has_is_refused_with_the_nearest(
    installation: Installation, api: Api, jobs: list[str], faults: list[tuple[str, str]]
) -> None:
    study = installation.study(1)
    installation.plan(study, {"job_name": "segment"})
    response = api.post(f"/api/v1/studies/{study}/rerun", json={"jobs": jobs})
    assert response.status_code == 400
    assert [(fault["field"], fault["reason"]) for fault in response.get_json()["faults"]] == faults
    assert installation.events() == []


@pytest.mark.parametrize(
    "body", [{"jobs": []}, {"jobs": "segment"}, {"jobs": [7]}, {"job": ["segment"]}, {"jobs": [""]}]
)
def test_a_rerun_that_says_something_else_is_not_taken_for_a_rerun_of_all(
    installation: Installation, api: Api, body: Any
) -> None:
    study = installation.study(1)
    assert api.post(f"/api/v1/studies/{study}/rerun", json=body).status_code == 400
    assert installation.events() == []


def install(installation: Installation, folder: Path, job_name: str) -> str:
    """Install the smallest service there is; returns its version."""
    source = folder / f"source-of-{job_name}"
    (source / "registry").mkdir(parents=True)
    (source / "module").mkdir()
    (source / "registry" / "settings.json").write_text(
        f'{{"jobName": "{job_name}", "worker": "demo.work", "callback": "demo.applies", "description": "nothing"}}'
    )
    (source / "registry" / "demo.py").write_text("def applies(**kwargs):\n    return True\n")
    (source / "module" / "demo.py").write_text("def work(**kwargs):\n    pass\n")
    (source / "module" / "requirements.txt").write_text("numpy\n")
    return Store.of(installation.settings).install("demo", source).digest

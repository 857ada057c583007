"""Who may do what: a token a task, read again when it changes; everybody else learns nothing."""

import os
import re
from pathlib import Path

import pytest

from scheduler.auth import Right, Tokens
from tests.integration.scheduler.api.stand import TOKENS, Api, Installation, bearer, study_id

STUDY = study_id(1)
HOOK = ("POST", "/stable-study")
API = [
    ("GET", "/api/v1/studies"),
    ("POST", "/api/v1/studies/search"),
    ("GET", f"/api/v1/studies/{STUDY}"),
    ("GET", f"/api/v1/studies/{STUDY}/explain"),
    ("POST", f"/api/v1/studies/{STUDY}/rerun"),
    ("GET", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/a-job"),
    ("GET", "/api/v1/jobs/a-job/log"),
    ("POST", "/api/v1/jobs/a-job/rerun"),
    ("POST", "/api/v1/jobs/a-job/cancel"),
    ("POST", "/api/v1/jobs/rerun"),
    ("POST", "/api/v1/jobs/search"),
    ("POST", "/api/v1/results/search"),
    ("GET", "/api/v1/headers"),
    ("GET", "/api/v1/services"),
    ("GET", "/api/v1/queues"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/metrics"),
]
DIGEST = "0123456789abcdef0123456789abcdef"
WORKERS = [
    ("GET", f"/api/v1/services/temp/versions/{DIGEST}"),
    ("PUT", "/api/v1/attempts/a-job-1/output"),
]
RESULTS = [
    ("GET", f"/api/v1/results/{STUDY}/job"),
    ("GET", f"/api/v1/results/{STUDY}/job/{STUDY}"),
]
PARTS = {
    "study_id": STUDY, "series_id": STUDY, "job_id": "a-job", "attempt_id": "a-job-1", "job_name": "job",
    "service": "temp", "digest": DIGEST,
}  # fmt: skip


def test_every_route_but_health_is_tried_here(api: Api) -> None:
    """A route that is added is added above, too."""
    routes = {
        (method, re.sub("<(.*?)>", lambda part: PARTS[part[1]], rule.rule))
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes - {("GET", "/health/live"), ("GET", "/health/ready")} == {HOOK, *API, *WORKERS, *RESULTS}


@pytest.mark.parametrize(("method", "path"), [HOOK, *API, *WORKERS, *RESULTS])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer ", "Bearer", "Basic YWRtaW46YWRtaW4=", "\xff"])
def test_nothing_is_done_without_a_token(api: Api, method: str, path: str, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    response = api.call(method, path, token=None, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(("method", "path"), API)
@pytest.mark.parametrize("token", ["hook_token", "worker_token"])
def test_tokens_of_the_hook_and_of_workers_do_not_open_the_api(api: Api, method: str, path: str, token: str) -> None:
    assert api.call(method, path, token=token).status_code == 403


@pytest.mark.parametrize(("method", "path"), WORKERS)
@pytest.mark.parametrize("token", ["hook_token", "scheduler_token"])
def test_what_workers_exchange_is_open_to_their_token_alone(api: Api, method: str, path: str, token: str) -> None:
    assert api.call(method, path, token=token).status_code == 403
    assert api.call(method, path, token="worker_token", content_type="application/x-tar").status_code == 404


@pytest.mark.parametrize(("method", "path"), RESULTS)
def test_results_are_open_to_workers_and_to_whoever_may_use_the_api(api: Api, method: str, path: str) -> None:
    assert api.call(method, path, token="hook_token").status_code == 403
    for token in ("worker_token", "scheduler_token"):
        assert api.call(method, path, token=token).status_code == 404


def test_a_workers_token_is_no_hook(installation: Installation, api: Api) -> None:
    assert api.call(*HOOK, token="worker_token", json={"studyId": STUDY}).status_code == 403
    assert installation.events() == []


@pytest.mark.parametrize("token", ["hook_token", "scheduler_token"])
def test_the_hook_is_open_to_its_token_and_to_the_schedulers(api: Api, token: str) -> None:
    assert api.call(*HOOK, token=token, json={"studyId": STUDY}).status_code == 202


def test_addresses_below_the_api_are_not_told_to_strangers(api: Api) -> None:
    assert api.get("/api/v1/nothing", token=None).status_code == 401
    assert api.get("/api/v1/nothing", token="hook_token").status_code == 403
    assert api.get("/api/v1/nothing").status_code == 404
    assert api.get("/nothing", token=None).status_code == 404


def test_a_rotated_token_holds_from_the_next_request_on(installation: Installation, api: Api) -> None:
    path = installation.base / "secrets" / "scheduler_token"
    assert api.get("/api/v1/studies").status_code == 200
    new = path.with_name("new")
    new.write_text("another-token\n")
    new.rename(path)
    assert api.get("/api/v1/studies").status_code == 401
    assert api.get("/api/v1/studies", token=None, headers={"Authorization": "Bearer another-token"}).status_code == 200


def test_a_token_written_in_place_holds_too(tmp_path: Path) -> None:
    path = tmp_path / "hook_token"
    tokens = Tokens(tmp_path)
    assert tokens.rights("one") is None
    path.write_text("one")
    assert tokens.rights("one") == frozenset({Right.HOOK})
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert tokens.rights("one") is None
    assert tokens.rights("two") == frozenset({Right.HOOK})
    path.unlink()
    assert tokens.rights("two") is None


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_an_empty_token_opens_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "scheduler_token").write_text(content)
    tokens = Tokens(tmp_path)
    assert [tokens.rights(offered) for offered in ("", "\n", content, "\0" * 32)] == [None] * 4


def test_a_token_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "hook_token").mkdir()
    assert Tokens(tmp_path).rights("x") is None


def test_a_token_two_files_share_has_the_rights_of_both(tmp_path: Path) -> None:
    for name in ("hook_token", "worker_token"):
        (tmp_path / name).write_text("same")
    assert Tokens(tmp_path).rights("same") == frozenset({Right.HOOK, Right.WORKER, Right.RESULTS})


def test_the_scheme_is_spelled_in_any_case(api: Api) -> None:
    headers = {"Authorization": f"bearer {TOKENS['scheduler_token']}"}
    assert api.get("/api/v1/studies", token=None, headers=headers).status_code == 200


def test_a_token_in_the_address_is_none(api: Api) -> None:
    """Addresses end up in logs."""
    token = TOKENS["scheduler_token"]
    assert api.get(f"/api/v1/studies?access_token={token}", token=None).status_code == 401


def test_answers_never_carry_a_token(api: Api) -> None:
    for method, path in [HOOK, *API, *WORKERS]:
        for shown in (bearer("worker_token"), bearer("scheduler_token")):
            text = api.call(method, path, token=None, headers=shown).get_data(as_text=True)
            assert not any(token in text for token in TOKENS.values())

"""The demo's decisions: when it refuses, what it asks for again, how it judges what came of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dcm_processor import demo as module
from dcm_processor.demo import Demo, Followed, Row, rows_of
from dcm_processor.errors import NotKnownError, PermanentError, TransientError, UsageError
from dcm_processor.orthanc import Orthanc
from dcm_processor.phantoms import SampleStudy
from dcm_processor.scanner import Delivery, Peer
from dcm_processor.store import Store

PEER = Peer("127.0.0.1", 4242)
MOMENT = "2026-01-01T00:00:00.000Z"
INSTANCES = 4


def sample(modality: str = "CT") -> SampleStudy:
    files = tuple(Path(f"{number}.dcm") for number in range(INSTANCES))
    return SampleStudy(modality, "Demo: a thing", f"DEMO-{modality}", f"1.2.{len(modality)}", {"1.2.3": "One"}, files)


def attempt(**changes: Any) -> dict[str, Any]:
    return {"startedAt": None, "endedAt": None, "error": None, **changes}


def job(state: str | None = "finished", verdict: str = "scheduled", **changes: Any) -> dict[str, Any]:
    ended = state in ("finished", "failed")
    return {
        "jobId": "j1", "jobName": "convert", "service": "dcm2nii", "seriesId": None, "verdict": verdict, "state": state,
        "reason": None, "attempt": 1, "attempts": [attempt(startedAt=MOMENT, endedAt=MOMENT if ended else None)],
        **changes,
    }  # fmt: skip


def plan(*jobs: Mapping[str, Any], run: int = 1, ended: bool = True, instances: int = INSTANCES) -> dict[str, Any]:
    ended_at = MOMENT if ended else None
    return {"planId": f"s-abc-{run}", "endedAt": ended_at, "numberOfInstances": instances, "jobs": list(jobs)}


def view(*plans: Mapping[str, Any], state: str = "finished", **changes: Any) -> dict[str, Any]:
    return {"studyId": "s", "state": state, "reason": None, "plans": list(plans), "events": [], **changes}


class FakeApi:
    """What the scheduler would answer; a study's views come one after the other, the last for ever."""

    def __init__(self, views: Mapping[str, list[Any]] | None = None, **answers: Any) -> None:
        self.views = {study: list(found) for study, found in (views or {}).items()}
        self.answers = {"/studies": {"items": []}, "/services": {"items": []}, **answers}
        self.posted: list[str] = []
        self.logs: dict[str, bytes] = {}

    def get(self, path: str) -> Any:
        if path.startswith("/studies/"):
            views = self.views.get(path.removeprefix("/studies/"), [])
            found = views.pop(0) if len(views) > 1 else views[0] if views else None
            if found is None:
                raise NotKnownError("the ledger knows no such study")
            if isinstance(found, Exception):
                raise found
            return found
        return self.answers[path.partition("?")[0]]

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        self.posted.append(path)
        return {"eventId": 7}

    def log(self, job_id: str) -> bytes:
        return self.logs.get(job_id, b"")


def make(api: FakeApi, services: tuple[str, ...] = (), in_orthanc: tuple[str, ...] = (), samples: int = 1) -> Demo:
    orthanc = SimpleNamespace(studies_page=lambda _since, _limit: list(in_orthanc))
    store = SimpleNamespace(services=lambda: [SimpleNamespace(name=name) for name in services])
    chosen = [sample(), sample("MR")][:samples]
    return Demo(api, cast("Orthanc", orthanc), cast("Store", store), chosen)


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have C-STORE answer without a peer."""

    def answer(*rejected: str) -> None:
        refusals = [SimpleNamespace(name="x", reason=reason) for reason in rejected]
        delivery = Delivery(sent=4, rejected=cast("Any", refusals))
        monkeypatch.setattr(module, "find_dicom", lambda paths: SimpleNamespace(files=list(paths)))
        monkeypatch.setattr(module, "send", lambda _files, _peer, _on_file: delivery)

    answer()
    return answer


class TestRefusal:
    def test_none_on_a_stack_that_is_empty_or_has_seen_the_demo(self) -> None:
        ours = sample().study_id
        make(FakeApi()).refuse_company()
        known = FakeApi(**{"/studies": {"items": [{"studyId": ours}]}})
        make(known, services=("temp", "dcm2nii"), in_orthanc=(ours,)).refuse_company()

    def test_where_other_services_are(self) -> None:
        with pytest.raises(UsageError, match=r"other services are installed \(lungs\).*`--force` runs it all the same"):
            make(FakeApi(), services=("temp", "lungs")).refuse_company()

    @pytest.mark.parametrize("where", ["ledger", "orthanc"])
    def test_where_other_studies_are(self, where: str) -> None:
        api = FakeApi(**{"/studies": {"items": [{"studyId": "other"}] if where == "ledger" else []}})
        with pytest.raises(UsageError, match="other studies are here"):
            make(api, in_orthanc=("other",) if where == "orthanc" else ()).refuse_company()


class TestSending:
    def test_a_new_study_is_left_to_become_stable(self, sending: Callable[..., None]) -> None:
        api = FakeApi()
        assert make(api).send(PEER, lambda: None) == 4
        assert api.posted == []

    @pytest.mark.parametrize("state", ["finished", "failed", "known", "unplanned"])
    def test_a_study_that_was_here_is_asked_to_run_again(self, sending: Callable[..., None], state: str) -> None:
        """What Orthanc has already makes no new event; so the demo asks."""
        plans = [plan(job())] if state in ("finished", "failed") else []
        api = FakeApi({sample().study_id: [view(*plans, state=state)]})
        demo = make(api)
        demo.send(PEER, lambda: None)
        assert api.posted == [f"/studies/{sample().study_id}/rerun"]
        assert demo.followed[0].rerun == 7

    def test_a_demo_that_still_runs_is_joined(self, sending: Callable[..., None]) -> None:
        api = FakeApi({sample().study_id: [view(plan(job("started"), ended=False), state="running")]})
        demo = make(api)
        demo.send(PEER, lambda: None)
        assert api.posted == []
        assert demo.followed[0].earlier == frozenset()

    @pytest.mark.parametrize("state", ["received", "waiting", "planning"])
    def test_a_study_that_waits_to_be_planned_is_left_alone(self, sending: Callable[..., None], state: str) -> None:
        api = FakeApi({sample().study_id: [view(state=state)]})
        make(api).send(PEER, lambda: None)
        assert api.posted == []

    def test_a_rejected_instance_ends_the_demo(self, sending: Callable[..., None]) -> None:
        sending("the peer refused it with status 0xA700")
        with pytest.raises(PermanentError, match=r"1 instances were rejected, the first since the peer refused it"):
            make(FakeApi()).send(PEER, lambda: None)


class TestFollowing:
    def test_ends_when_all_plans_have(self) -> None:
        study = sample().study_id
        running, done = view(plan(job("started"), ended=False), state="running"), view(plan(job()))
        api = FakeApi({study: [None, view(state="received"), running, done]})
        seen: list[list[Row]] = []
        demo = make(api)
        demo.follow(10, seen.append)
        assert [rows[0].state for rows in seen] == ["sent", "received", "started", "finished"]
        assert demo.followed[0].succeeded

    def test_outlasts_a_scheduler_that_is_away_for_a_moment(self) -> None:
        api = FakeApi({sample().study_id: [TransientError("the scheduler does not answer"), view(plan(job()))]})
        demo = make(api)
        demo.follow(10, lambda _rows: None)
        assert demo.followed[0].succeeded

    def test_says_at_the_end_of_its_patience_what_it_waited_for(self) -> None:
        api = FakeApi(
            {sample().study_id: [view(plan(job("started"), ended=False), state="running")]},
            **{"/services": {"items": [{"name": "dcm2nii", "environment": {"state": "building"}}]}},
        )
        with pytest.raises(
            TransientError, match="not ended after 0 s: CT Demo: a thing convert started building the envir"
        ):
            make(api).follow(0, lambda _rows: None)

    def test_of_a_rerun_looks_at_the_new_plan_only(self, sending: Callable[..., None]) -> None:
        before, after = view(plan(job("failed")), state="failed"), view(plan(job(), run=2), plan(job("failed")))
        api = FakeApi({sample().study_id: [before, before, after]})
        demo = make(api)
        demo.send(PEER, lambda: None)
        seen: list[list[Row]] = []
        demo.follow(10, seen.append)
        assert [[row.job for row in rows] for rows in seen] == [[""], ["convert"]]
        assert demo.followed[0].succeeded

    def test_of_a_rerun_that_gave_no_plan_ends_with_what_came_of_it(self, sending: Callable[..., None]) -> None:
        """It must not wait for a plan that will never be."""
        events = [{"eventId": 7, "handledAt": MOMENT, "result": "planning failed 5 times"}]
        api = FakeApi({sample().study_id: [view(state="unplanned"), view(state="unplanned", events=events)]})
        demo = make(api)
        demo.send(PEER, lambda: None)
        demo.follow(10, lambda _rows: None)
        assert rows_of(demo.followed, set())[0].reason == "planning failed 5 times"
        assert not demo.followed[0].succeeded

    def test_waits_for_the_plan_of_the_whole_study_where_the_sending_paused(self) -> None:
        """A pause as long as STABLE_AGE has what came so far planned; the rest comes with a plan of its own."""
        early = plan(job(), instances=INSTANCES - 1)
        whole = {**plan(job("failed")), "planId": "s-whole-1"}
        api = FakeApi({sample().study_id: [view(early), view(early), view(whole, early, state="failed")]})
        demo = make(api)
        demo.follow(10, lambda _rows: None)
        assert not demo.followed[0].succeeded

    def test_ends_at_a_study_that_cannot_be_planned(self) -> None:
        api = FakeApi({sample().study_id: [view(state="unplanned", reason="planning failed 5 times")]})
        demo = make(api)
        demo.follow(10, lambda _rows: None)
        assert not demo.followed[0].succeeded


class TestSuccess:
    @pytest.mark.parametrize(
        ("jobs", "succeeded"),
        [
            ([job()], True),
            ([job(), job(None, "declined")], True),
            ([job(), job(None, "disabled")], True),
            ([job(), job("failed")], False),
            ([job(), job("skipped")], False),
            ([job(), job("cancelled")], False),
            ([job(), job(None, "errored")], False),
            ([job(None, "declined")], False),
            ([], False),
        ],
    )
    def test_is_that_all_jobs_finished_and_there_were_some(self, jobs: list[dict[str, Any]], succeeded: bool) -> None:
        assert Followed(sample(), view=view(plan(*jobs))).succeeded is succeeded

    def test_is_not_before_the_end(self) -> None:
        assert not Followed(sample(), view=view(plan(job(), ended=False))).succeeded


def test_rows_name_series_by_their_description_and_give_the_reason() -> None:
    (series_id,) = sample().series_names
    failed = job(
        "failed", seriesId=series_id, attempts=[attempt(startedAt=MOMENT, endedAt=MOMENT, error="ValueError: no")]
    )
    (row,) = rows_of([Followed(sample(), view=view(plan(failed)))], set())
    assert row == Row("CT Demo: a thing", "convert", "One", "failed", 1, 0.0, "ValueError: no")


def test_the_log_shown_is_of_a_job_that_failed_else_of_the_last_with_something_to_say() -> None:
    jobs = [job(jobId="j1"), job(jobId="j2"), job(jobId="j3")]
    api = FakeApi({sample().study_id: [view(plan(*jobs))]})
    api.logs = {"j1": b"one", "j2": b"two\n"}
    demo = make(api)
    demo.follow(10, lambda _rows: None)
    assert demo.log_worth_reading() == (jobs[1], "two")
    demo.followed[0].view = view(plan(job("failed", jobId="j1"), *jobs[1:]))
    assert demo.log_worth_reading() == (job("failed", jobId="j1"), "one")

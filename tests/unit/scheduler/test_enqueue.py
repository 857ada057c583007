"""What an attempt is told of the rest of its plan (DESIGN 2: inputs, outcomes, added_params by level)."""

from typing import Any

from dcm_processor.plan_view import result_folder
from scheduler.enqueue import orders_of, plan_order_of

PLAN = {"plan_id": "p", "study_id": "st", "headers": {}, "selected": ["*"], "instances": {"s1": ["i1"], "s2": ["i2"]}}


def job(name: str, series: str | None = None, **values: Any) -> dict[str, Any]:
    settings = {"worker": "svc.work", "timeout": 60.0, "memory": None, "params": {"p": 1}, "dependsOn": []}
    return {
        "job_id": f"{name}/{series}", "plan_id": "p", "study_id": "st", "series_id": series, "job_name": name,
        "service": "svc", "digest": "d", "verdict": "scheduled", "state": "finished", "reason": None, "injected": None,
        "dependencies": [], "queue": "default", "attempt": 1, **values,
        "settings": {**settings, **values.get("settings", {})},
    }  # fmt: skip


def order(jobs: list[dict[str, Any]], wanted: str) -> Any:
    (made, _queue), *none = orders_of(jobs, [job for job in jobs if job["job_id"] == wanted])
    assert not none
    return made


def test_a_study_job_gets_a_series_jobs_results_and_outcomes_by_series() -> None:
    jobs = [
        job("convert", "s1"),
        job("convert", "s2", state="failed", reason="no pixels"),
        job("report", state="queued", dependencies=["convert/s1", "convert/s2"]),
    ]
    made = order(jobs, "report/None")
    assert made.inputs == {"convert": {"s1": "results/st/convert/s1"}}
    assert made.outcomes["convert"]["state"] == "failed"
    assert made.outcomes["convert"]["series"]["s1"]["state"] == "finished"
    assert made.outcomes["convert"]["series"]["s2"] == {"state": "failed", "reason": "no pixels"}


def test_a_series_job_gets_its_own_series_and_the_study_jobs() -> None:
    jobs = [
        job("prepare"),
        job("convert", "s1"),
        job("convert", "s2"),
        job("measure", "s2", state="queued", dependencies=["convert/s2", "prepare/None"]),
    ]
    made = order(jobs, "measure/s2")
    assert made.inputs == {"convert": "results/st/convert/s2", "prepare": "results/st/prepare"}
    assert made.outcomes == {
        "convert": {"state": "finished", "reason": None}, "prepare": {"state": "finished", "reason": None},
    }  # fmt: skip


def test_a_dependency_that_never_ran_is_told_with_its_verdict_and_gives_no_input() -> None:
    jobs = [
        job("a", verdict="declined", state=None, reason="its callback declined"),
        job("b", state="queued", settings={"dependsOn": ["a"]}),
    ]
    made = order(jobs, "b/None")
    assert made.inputs == {}
    assert made.outcomes == {"a": {"state": "declined", "reason": "its callback declined"}}


def test_a_dependency_that_is_not_installed_is_told_as_one_that_never_ran() -> None:
    job_of = {"dependsOn": ["gone", "*"]}
    jobs = [
        job("a"),
        job("b", state="queued", dependencies=["a/None"], settings=job_of),
        job("c", "s1", settings=job_of),
    ]
    never = {"state": "skipped", "reason": "not installed, or not usable"}
    assert order(jobs, "b/None").outcomes == {"a": {"state": "finished", "reason": None}, "gone": never}
    assert order(jobs, "c/s1").outcomes == {"gone": never}


def test_what_was_injected_travels_once_with_the_plan() -> None:
    jobs = [job("a", "s1", injected={"x": 1}), job("b", injected={"y": 2}), job("c")]
    shared = plan_order_of(PLAN, jobs)
    assert shared.injected == {"a": {"s1": {"x": 1}}, "b": {"y": 2}}
    assert shared.seriesJobs == ["a"]
    assert shared.services == {"a": "svc", "b": "svc", "c": "svc"}


def test_results_lie_by_study_job_and_series() -> None:
    assert result_folder(job("a")) == "results/st/a"
    assert result_folder(job("a", "s1")) == "results/st/a/s1"

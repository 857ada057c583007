"""How a job sees the others of its plan."""

from typing import Any

from dcm_processor.plan_view import PlanView, added_params, result_folder


def row(name: str, series: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "job_id": f"{name}/{series}", "job_name": name, "study_id": "s", "series_id": series, "dependencies": [],
        "settings": {"dependsOn": []}, "verdict": "scheduled", "state": "finished", "reason": None, "injected": {},
        **more,
    }  # fmt: skip


def test_a_study_job_sees_a_series_job_by_series_and_a_series_job_its_own() -> None:
    each = [row("each", "a", injected={"x": 1}), row("each", "b", injected={"x": 2}, state="failed", reason="why")]
    whole = row("whole", injected={"y": 3})
    dependencies = ["each/a", "each/b", "whole/None"]
    study, series = row("study", dependencies=dependencies), row("series", "a", dependencies=["each/a", "whole/None"])
    view = PlanView([*each, whole, study, series])
    assert view.series_jobs == ["each", "series"]
    injected = view.injected()
    assert added_params(injected, view.series_jobs, None) == {"each": {"a": {"x": 1}, "b": {"x": 2}}, "whole": {"y": 3}}
    assert added_params(injected, view.series_jobs, "b") == {"each": {"x": 2}, "whole": {"y": 3}}
    assert view.inputs(study) == {"each": {"a": "results/s/each/a"}, "whole": "results/s/whole"}
    assert view.inputs(series) == {"each": "results/s/each/a", "whole": "results/s/whole"}
    assert view.outcomes(series)["each"] == {"state": "finished", "reason": None}
    assert view.outcomes(study)["each"]["state"] == "failed"
    assert view.outcomes(study)["each"]["series"]["a"] == {"state": "finished", "reason": None}


def test_what_never_ran_has_its_verdict_and_what_is_not_there_is_skipped() -> None:
    job = row("job", settings={"dependsOn": ["no", "gone", "*"]})
    outcomes = PlanView([row("no", verdict="declined", state=None, reason="no"), job]).outcomes(job)
    assert outcomes == {
        "no": {"state": "declined", "reason": "no"},
        "gone": {"state": "skipped", "reason": "not installed, or not usable"},
    }


def test_results_lie_by_study_job_and_series() -> None:
    assert (result_folder(row("a")), result_folder(row("a", "x"))) == ("results/s/a", "results/s/a/x")

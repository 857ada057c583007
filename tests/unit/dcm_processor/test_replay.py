"""What a replay counts."""

from dcm_processor.plan import CallbackOutcome, JobKey
from dcm_processor.replay import Count, Replay

YES, NO, BAD = (
    CallbackOutcome(True),
    CallbackOutcome(False),
    CallbackOutcome(False, error="the callback raised KeyError"),
)


def study(number: int) -> dict[str, str]:
    return {"studyId": f"study-{number}", "plannedAt": "2026-01-01T00:00:00.000Z", "headers": "kept to itself"}


def test_studies_runs_and_failures_are_counted_by_job() -> None:
    found = Replay()
    found.add(study(1), {JobKey("a", None): YES, JobKey("b", "s1"): YES, JobKey("b", "s2"): YES})
    found.add(study(2), {JobKey("a", None): NO, JobKey("b", "s3"): BAD, JobKey("b", "s4"): NO})
    assert found.jobs == {"a": Count(1, 1, 0), "b": Count(1, 2, 1)}
    assert [item["studyId"] for item in found.taken] == ["study-1"]
    assert (found.failed, found.errors) == (1, {("b", "the callback raised KeyError"): 1})
    assert [job["applies"] for job in found.items[1]["jobs"]] == [False, None, False]
    assert "kept to itself" not in str(found.items)

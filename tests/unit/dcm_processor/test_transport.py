"""What attempts share and what each sees of it (DESIGN 2, "Levels and dependencies")."""

import json

from dcm_processor.transport import PlanOrder, parse_report

PLAN = PlanOrder(
    planId="plan", studyId="study", headers={}, selected=[], instances={},
    injected={"series-job": {"s1": {"a": 1}, "s2": {"a": 2}}, "study-job": {"b": 3}},
    seriesJobs=["series-job"], services={"series-job": "svc", "study-job": "svc"},
)  # fmt: skip


def test_a_series_job_sees_of_series_jobs_what_is_its_own_series() -> None:
    assert PLAN.added_params("s2") == {"series-job": {"a": 2}, "study-job": {"b": 3}}
    assert PLAN.added_params("s3") == {"study-job": {"b": 3}}


def test_a_study_job_sees_series_jobs_by_series() -> None:
    assert PLAN.added_params(None) == {"series-job": {"s1": {"a": 1}, "s2": {"a": 2}}, "study-job": {"b": 3}}


def test_what_is_no_report_is_refused() -> None:
    sent = {"kind": "started", "attemptId": "a-1", "claim": "c", "worker": "w", "host": "h"}
    odd = [{"report": json.dumps(sent | part).encode()} for part in ({"kind": "x"}, {"attemptId": ["a"]}, {"host": 7})]
    assert parse_report({"report": json.dumps(sent).encode()}).attemptId == "a-1"
    for entry in ({}, {"report": b"["}, {"report": b'{"kind": "started"}'}, {"report": b"7"}, *odd):
        try:
            parse_report(entry)
        except (ValueError, TypeError):
            continue
        raise AssertionError(entry)

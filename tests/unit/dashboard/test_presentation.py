"""What the pages say of states, times and reasons."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import presentation
from dcm_processor.vocabulary import AttemptState, JobState, StudyState, Verdict

NOW = datetime(2024, 1, 31, 12, 0, tzinfo=UTC)


def job(name: str, state: str | None = "finished", reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"jobName": name, "verdict": "scheduled", "state": state, "reason": reason, "count": 1, **more}


def lines(*jobs: dict[str, Any]) -> list[tuple[str, list[tuple[str, int]], str]]:
    return [(line.mark.word, list(line.names), line.reason) for line in presentation.job_lines(jobs)]


@pytest.mark.parametrize(
    ("handled", "result", "shown"),
    [
        (None, None, "not dealt with yet"),
        (None, "Orthanc does not answer", "Orthanc does not answer; to be tried again"),
        ("2024-01-31T00:00:00.000Z", "planned as x", "planned as x"),
    ],
)
def test_what_came_of_an_event_is_told(handled: str | None, result: str | None, shown: str) -> None:
    assert presentation.event_result({"handledAt": handled, "result": result}) == shown


def test_finished_jobs_share_a_line_without_a_reason() -> None:
    assert lines(job("a"), job("b", count=3)) == [("finished", [("a", 1), ("b", 3)], "")]


def test_jobs_that_failed_for_different_reasons_have_lines_of_their_own() -> None:
    assert lines(job("a", "failed", "ValueError"), job("b", "failed", "OSError"), job("c", "failed", "ValueError")) == [
        ("failed", [("a", 1), ("c", 1)], "ValueError"),
        ("failed", [("b", 1)], "OSError"),
    ]


def test_what_was_not_scheduled_comes_last_under_its_verdict() -> None:
    declined = job("a", None, "the callback said no", verdict="declined")
    assert [word for word, _, _ in lines(declined, job("b"), job("c", "started"))] == [
        "finished",
        "started",
        "declined",
    ]


def test_a_finished_job_with_something_to_say_says_it() -> None:
    assert lines(job("a", reason="reused from an earlier plan")) == [
        ("finished", [("a", 1)], "reused from an earlier plan")
    ]


def test_a_line_of_very_many_jobs_counts_the_rest() -> None:
    (line,) = presentation.job_lines([job(f"job-{n}", None, "no", verdict="declined", count=2) for n in range(1000)])
    assert len(line.names) == presentation.NAMES_SHOWN
    assert line.more == 2 * (1000 - presentation.NAMES_SHOWN)


@pytest.mark.parametrize("state", [state for state in (*JobState, *Verdict) if state not in ("finished", "scheduled")])
def test_every_job_that_is_not_simply_finished_shows_a_reason(state: str) -> None:
    assert presentation.job_reason(job("a", state))
    assert presentation.job_reason(job("a", state, "told")) == "told"


@pytest.mark.parametrize("state", sorted({*JobState, *Verdict, *StudyState, *AttemptState}))
def test_a_state_is_a_word_with_a_colour_and_a_sign(state: str) -> None:
    mark = presentation.mark(state)
    assert mark.word == state.replace("_", " ")
    assert mark.sign
    assert mark.tone in {"good", "bad", "busy", "warn", "wait", "off"}


def test_bad_ends_look_bad_and_good_ones_good() -> None:
    assert {presentation.mark(state).tone for state in ("failed", "errored", "unplanned")} == {"bad"}
    assert presentation.mark("finished").tone == "good"


some_jobs = st.lists(
    st.builds(
        job,
        st.text("abc-", min_size=1, max_size=3),
        st.sampled_from([*JobState]),
        st.sampled_from([None, "why", "other"]),
        count=st.integers(1, 40),
    )
)


@given(some_jobs)
def test_every_job_is_in_exactly_one_line(jobs: list[dict[str, Any]]) -> None:
    shown = presentation.job_lines(jobs)
    assert sum(line.more + sum(count for _, count in line.names) for line in shown) == sum(j["count"] for j in jobs)
    assert len({(line.mark, line.reason) for line in shown}) == len(shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("20240131", "2024-01-31"), ("", ""), (None, ""), ("2024.01.31", "2024.01.31"), ("2024013", "2024013")],
)
def test_dates_of_dicom_are_read_and_malformed_ones_left_as_they_are(text: str | None, shown: str) -> None:
    assert presentation.dicom_date(text) == shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0.26, "0.3 s"), (5, "5 s"), (45.9, "45 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"),
     (7200, "2 h"), (172_800, "2 d"), (1e7, "115 d")],
)  # fmt: skip
def test_spans_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert presentation.span(seconds) == said


@given(st.floats(0, 1e9))
def test_a_span_is_always_short(seconds: float) -> None:
    assert len(presentation.span(seconds)) <= 9


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "just now"), (30, "30 s ago"), (-50, "in 50 s"), (300, "5 min ago")]
)
def test_moments_are_told_from_now(seconds: float, said: str) -> None:
    then = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    moment = presentation.moment(then, NOW)
    assert moment is not None
    assert (moment.text, moment.machine) == (said, then)
    assert moment.exact.startswith("2024-01-3")
    assert presentation.moment(None, NOW) is None


def test_an_attempts_phases_are_told_with_their_length() -> None:
    at = [(NOW + timedelta(seconds=s)).isoformat() for s in (0, 1.2, 65)]
    assert presentation.phases({"phases": {"fetch": at[:2], "run": at[1:]}}) == "fetch 1.2 s, run 63 s"
    assert presentation.phases({"phases": {"run": at[:1]}}) == ""
    assert presentation.phases({}) == ""


def test_a_study_row_says_what_the_ledger_says() -> None:
    study = {
        "studyId": "0123abcd-1", "state": "running", "reason": None, "changedAt": "2024-01-31T11:59:00.000Z",
        "studyDate": "20240130", "modalities": ["CT", "PT"], "description": None,
    }  # fmt: skip
    row = presentation.study_row(study, [job("a", "queued")], NOW)
    assert (row.short_id, row.date, row.modalities, row.description) == ("0123abcd", "2024-01-30", "CT PT", "")
    assert (row.mark.word, row.reason) == ("running", "")
    assert row.lines[0].reason == "waits for a free worker"
    assert row.changed is not None
    assert row.changed.text == "60 s ago"
    assert presentation.study_row({**study, "state": "known", "modalities": []}, [], NOW).reason


@pytest.mark.parametrize(
    ("value", "text", "kind"),
    [
        (True, "yes", "bool"), (False, "no", "bool"), (3, "3", "number"), (9830400, "9\u202f830\u202f400", "number"),
        (-12345, "-12\u202f345", "number"), (1 / 3, "0.333333", "number"), ("L", "L", "text"), ("", "\u2212", "text"),
    ],
)  # fmt: skip
def test_a_named_result_is_shown_as_people_read_it(value: object, text: str, kind: str) -> None:
    found = presentation.named_results({"results": [{"name": "n", "value": value, "unit": None}]})
    (shown,) = found.first
    assert (shown.text, shown.kind, shown.exact, shown.unit) == (text, kind, str(value), "")


def test_of_many_results_the_first_stand_open() -> None:
    many = [{"name": f"n{number}", "value": number, "unit": "ml"} for number in range(40)]
    found = presentation.named_results({"results": many})
    assert (len(found.first), len(found.rest)) == (presentation.RESULTS_SHOWN, 40 - presentation.RESULTS_SHOWN)
    assert not found.cut
    assert presentation.named_results({"results": many * 3}).cut


@pytest.mark.parametrize(("fraction", "text"), [(0, "0 %"), (0.425, "42 %"), (0.999, "99 %"), (1, "100 %")])
def test_a_hundred_per_cent_is_the_end(fraction: float, text: str) -> None:
    assert presentation.percent(fraction) == text

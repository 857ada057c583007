"""A study's history, from which a person understands why a job ran again or did not."""

from typing import Any

import pytest

from dcm_processor.history import history


def at(minute: int) -> str:
    return f"2026-01-01T12:{minute:02d}:00.000Z"


def job(name: str, state: str | None = "finished", **more: Any) -> dict[str, Any]:
    defaults = {"verdict": "scheduled", "reusedFrom": None, "reason": None, "endedAt": at(59), "jobId": f"id-{name}"}
    return {"jobName": name, "state": state, **defaults, **more}


def plan(number: int, *jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "planId": f"p{number}",
        "revision": "abc",
        "run": number,
        "reason": "stable",
        "createdAt": at(number * 10),
        "endedAt": None,
        "seriesIds": ["s1"],
        "numberOfInstances": 10,
        "jobs": list(jobs),
        **more,
    }


def event(kind: str, minute: int, result: str | None = None, **more: Any) -> dict[str, Any]:
    handled = at(minute) if result else None
    return {"kind": kind, "receivedAt": at(minute), "handledAt": handled, "result": result, "payload": None, **more}


def told(plans: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What and why, without the first entry, which says that the study was received."""
    first, *rest = history(at(0), plans[::-1], events[::-1])
    assert (first["what"], first["at"]) == ("received", at(0))
    return [(entry["what"], entry["text"]) for entry in rest]


def test_a_plan_says_why_it_is_there_what_it_covers_and_what_it_decided() -> None:
    jobs = [
        job("a", "waiting"),
        job("each", "queued"),
        job("each", "queued"),
        job("no", None, verdict="declined"),
        job("odd", None, verdict="errored"),
    ]
    assert told([plan(1, *jobs)], [event("stable", 9, "planned as p1")]) == [
        (
            "planned",
            "stable; 1 series, 10 instances, revision abc, run 1; to run: a, each (2); declined: no; errored: odd",
        )
    ]


def test_growth_says_how_much_came_what_stands_what_goes_on_and_what_was_superseded() -> None:
    old = plan(
        1,
        job("kept"),
        job("slow", "started", endedAt=None),
        job("late", "superseded", reason="superseded by p2"),
        endedAt=at(20),
    )
    new = plan(
        2,
        job("kept", reusedFrom="id", endedAt=at(15)),
        job("slow", "waiting", reusedFrom="id", endedAt=None),
        job("late", "waiting"),
        revision="def",
        run=1,
        seriesIds=["s1", "s2"],
        numberOfInstances=30,
    )
    assert told([old, new], [])[1:] == [
        ("grown", "1 series more, 20 instances more"),
        (
            "planned",
            "stable; 2 series, 30 instances, revision def, run 1; to run: late; goes on: slow; "
            "stands as it ended before: kept; superseded, not started: late; "
            "begins when these of the plan before have ended: slow",
        ),
    ]


@pytest.mark.parametrize(
    ("more", "entry"),
    [
        ({"seriesIds": [], "numberOfInstances": 4}, ("changed", "1 series fewer, 6 instances fewer")),
        ({"seriesIds": ["s2"], "numberOfInstances": 10}, ("changed", "1 series more, 1 series fewer")),
        ({}, ("changed", "other instances")),
    ],
)  # fmt: skip
def test_other_changes_are_not_called_growth(more: dict[str, Any], entry: tuple[str, str]) -> None:
    assert told([plan(1), plan(2, revision="def", **more)], [])[1] == entry


def test_the_end_of_a_plan_says_what_failed_and_why() -> None:
    jobs = [job("a"), job("b", "failed", reason="ValueError: no"), job("c", "skipped")]
    assert told([plan(1, *jobs, endedAt=at(15))], [])[-1] == (
        "ended",
        "1 finished, 1 failed, 1 skipped (b: ValueError: no)",
    )
    assert told([plan(1, job("a", None, verdict="declined"), endedAt=at(10))], [])[-1] == ("ended", "no job applies")
    many = [job(f"j{number}", "failed", reason="x") for number in range(9)]
    assert told([plan(1, *many, endedAt=at(15))], [])[-1][1] == "9 failed (j0: x; j1: x; j2: x; and 6 more)"


def test_what_was_asked_for_stands_where_it_was_asked_with_what_came_of_it() -> None:
    events = [
        event("stable", 1, 'held: 1 of 3 series (rule "CT"); planned as it is at 12:09 at the latest'),
        event("limit", 9, "planned as p1"),
        event("rerun", 12, payload={"jobs": ["a", "b"]}),
        event("cancel", 13, "cancelled 1, asked the workers of 0 to end", payload={"jobIds": ["id-a", "old"]}),
        event("stable", 14, "revision abc has its plan"),
        event("rerun", 15),
    ]
    assert [entry for entry in told([plan(1, job("a"))], events) if entry[0] != "planned"] == [
        ("held", '1 of 3 series (rule "CT"); planned as it is at 12:09 at the latest'),
        ("rerun", "a, b: not dealt with yet"),
        ("cancel", "a, a job of another plan: cancelled 1, asked the workers of 0 to end"),
        ("stable", "revision abc has its plan"),
        ("rerun", "not dealt with yet"),
    ]


def test_an_event_that_is_tried_again_says_why() -> None:
    put_off = {**event("change", 3), "result": "Orthanc does not answer"}
    assert told([], [put_off]) == [("change", "Orthanc does not answer; to be tried again")]


def test_a_plan_of_thousands_of_jobs_is_told_in_one_line() -> None:
    jobs = [job(f"j{number % 12}", "waiting") for number in range(12_000)]
    [(_, text)] = told([plan(1, *jobs)], [])
    assert text.endswith("j7 (1000), and 4 more")
    assert len(text) < 300

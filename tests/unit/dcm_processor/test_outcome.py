"""An outcome survives its way as JSON; what is none is refused."""

import json
from typing import Any

import pytest

from dcm_processor.outcome import Outcome
from dcm_processor.vocabulary import ExitReason


def test_an_outcome_comes_back_from_json_as_it_was() -> None:
    outcome = Outcome(ExitReason.EXCEPTION, "ValueError: no", "ValueError", "…", {"run": [1.0, 2.5]}, {"a": 1})
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


@pytest.mark.parametrize("value", [{"exitReason": "unheard of"}, {"exitReason": ["done"]}, {}, None, "done"])
def test_what_does_not_say_how_the_attempt_ended_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="ExitReason"):
        Outcome.from_json(value)


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        ({"phases": {"run": ["x", 2]}}, "phases.run"),
        ({"phases": {"run": [1e20, 2]}}, "phases.run"),
        ({"phases": {"run": [-1, 2]}}, "phases.run"),
        ({"phases": {"run": [float("nan"), 2]}}, "phases.run"),
        ({"phases": {"run": [float("inf"), 2]}}, "phases.run"),
        ({"phases": {"run": [True, 2]}}, "phases.run"),
        ({"phases": {"run": [1]}}, "phases.run"),
        ({"phases": {"run": 7}}, "phases.run"),
        ({"phases": {"r" * 65: [1, 2]}}, "phases." + "r" * 64),
        ({"phases": {str(number): [1, 2] for number in range(33)}}, "phases"),
        ({"phases": [1, 2]}, "phases"),
        ({"details": {"logSize": "many"}}, "details.logSize"),
        ({"details": {"buildLog": "x" * 100_001}}, "details.buildLog"),
        ({"details": "x"}, "details"),
        ({"error": 7}, "error"),
        ({"traceback": ["x"]}, "traceback"),
        ({"more": 1}, "more"),
    ],
)
def test_parts_that_cannot_be_are_left_out_and_named(sent: dict[str, Any], part: str) -> None:
    """An attempt ends all the same, and pages can show it."""
    good = {"exitReason": "done", "phases": {"fetch": [1, 2.5]}, "details": {"exitStatus": 0}, "error": None}
    mixed = {key: {**good[key], **sent[key]} if _both(good.get(key), sent[key]) else sent[key] for key in sent}  # type: ignore[dict-item]
    told: list[str] = []
    outcome = Outcome.from_json(good | mixed, told.append)
    assert told == [part]
    whole = part in ("phases", "details")
    assert outcome.phases == ({} if whole and "phases" in sent else {"fetch": [1, 2.5]})
    assert outcome.details == ({} if whole and "details" in sent else {"exitStatus": 0})
    assert (outcome.exitReason, outcome.error, outcome.traceback) == (ExitReason.DONE, None, None)


def _both(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)

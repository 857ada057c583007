"""An outcome survives its way as JSON; what is none is refused."""

import json

import pytest

from dcm_processor.outcome import Outcome
from dcm_processor.vocabulary import ExitReason


def test_an_outcome_comes_back_from_json_as_it_was() -> None:
    outcome = Outcome(ExitReason.EXCEPTION, "ValueError: no", "ValueError", "…", {"run": [1.0, 2.5]}, {"a": 1})
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


@pytest.mark.parametrize("value", [{"exitReason": "unheard of"}, {"exitReason": "done", "more": 1}])
def test_what_is_no_outcome_is_refused(value: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Outcome.from_json(value)

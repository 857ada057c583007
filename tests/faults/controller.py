"""The controller as the harness starts it: it can do without one of its repairs.

    python -m tests.faults.controller FILE

FILE names the repair that is switched off, or is empty or not there. What is switched off shows that it is needed
(`repairs.py`).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dcm_processor.ledger import events
from scheduler import changes, comparison, controller, repair, results

Switch = tuple[object, str, Callable[..., Any]]


def _nothing(*_: object, **__: object) -> None:
    return None


def _nobody(*_: object, **__: object) -> list[str]:
    return []


def _present(*_: object, **__: object) -> tuple[tuple[str, ...], set[str]]:
    return (), set()


def _zero(*_: object, **__: object) -> int:
    return 0


_due = events.due


def _untouched(*given: Any, **named: Any) -> list[Any]:
    """Those due that no leader has begun to plan for."""
    return [event for event in _due(*given, **named) if "being planned" not in (event["result"] or "")]


WITHOUT: dict[str, Switch] = {
    "push": (repair.Repair, "_missing", _present),
    "lost": (repair.Announcements, "look", _nobody),
    "plans": (repair.Repair, "plans", _nothing),
    "results": (results.Results, "repair", _nothing),
    "changes": (changes.Changes, "run", _nothing),
    "quiet": (changes.Changes, "overdue", _zero),
    "keys": (repair.Repair, "keys", _nothing),
    "compare": (comparison.Comparison, "step", _zero),
    "unreported": (repair.Repair, "_start_unreported", _nothing),
    "clocks": (repair.Repair, "clocks", _nothing),
    "events": (events, "due", _untouched),
}
"""By name: the repair that is switched off."""


def main() -> int:
    """Run it."""
    file = Path(sys.argv[1])
    without = file.read_text() if file.exists() else ""
    if not without:
        return controller.main()
    place, name, instead = WITHOUT[without]
    with patch.object(place, name, instead):
        return controller.main()


if __name__ == "__main__":
    sys.exit(main())

"""What the views work with; made once by `create_app`, reached from a view by `parts()`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis
from flask import current_app

from dcm_processor.ledger import Ledger
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from scheduler.auth import Tokens
from scheduler.readiness import Readiness
from scheduler.recorder import Recorder
from scheduler.wake import Waker

EXTENSION = "dcm_processor"

Explain = Callable[[str], Mapping[str, Any]]
"""studyId -> the plan the study would get now, nothing enqueued.

Raises errors of ours, among them TransientError for too many at once, and TimeoutError where it took too long.
"""


@dataclass(frozen=True)
class Parts:
    """The scheduler's parts, as far as HTTP needs them."""

    settings: Settings
    tokens: Tokens
    ledger: Ledger
    recorder: Recorder
    waker: Waker
    redis: redis.Redis  # with short time-outs: for queues and readiness
    readiness: Readiness
    store: Store
    explain: Explain


def parts() -> Parts:
    """The parts of the app that serves the current request."""
    return cast("Parts", current_app.extensions[EXTENSION])

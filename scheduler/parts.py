"""What the views work with; made once by `create_app`, reached from a view by `parts()`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import redis
from flask import Response, after_this_request, current_app

from dcm_processor.ledger import Ledger
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from dcm_processor.vocabulary import EventKind
from scheduler.auth import Tokens
from scheduler.readiness import Readiness
from scheduler.recorder import Recorder
from scheduler.results import Results
from scheduler.room import Room
from scheduler.transfers import Transfers
from scheduler.wake import Waker

EXTENSION = "dcm_processor"


class Explain(Protocol):
    """Says which plan a study would get now, nothing enqueued; with `reads` also what callbacks read of the headers.

    Raises errors of ours, among them TransientError for too many at once, and TimeoutError where it took too long.
    """

    def __call__(self, study_id: str, /, *, reads: bool) -> Mapping[str, Any]: ...


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
    room: Room
    store: Store
    results: Results
    transfers: Transfers
    explain: Explain


def parts() -> Parts:
    """The parts of the app that serves the current request."""
    return cast("Parts", current_app.extensions[EXTENSION])


def record_and_wake(kind: EventKind, study_id: str, payload: Mapping[str, Any] | None = None) -> int:
    """Put an event into the ledger, and wake the controller once the current request has its answer.

    Raises LedgerUnavailableError where the ledger does not have it.
    """
    event_id = parts().recorder.record(kind, study_id, payload)
    _wake_after(kind)
    return event_id


def record_all_and_wake(kind: EventKind, payloads: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """`record_and_wake` for many studies at once, all or none; returns study id -> event id."""
    event_ids = parts().recorder.record_all(kind, payloads)
    _wake_after(kind)
    return event_ids


def _wake_after(kind: EventKind) -> None:
    waker = parts().waker

    @after_this_request
    def wake(response: Response) -> Response:
        response.call_on_close(lambda: waker.wake(kind))  # not sooner: it would only be in the answer's way
        return response

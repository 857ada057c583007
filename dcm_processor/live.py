"""What the ledger does not have of running jobs: how far they say they are. Where Redis is away, nobody knows."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import redis

from dcm_processor.errors import TransportUnavailableError
from dcm_processor.ledger.views import when
from dcm_processor.transport import said_progress
from dcm_processor.vocabulary import AttemptState


def add_progress(client: redis.Redis, jobs: Iterable[dict[str, Any]]) -> None:
    """Put their progress into the started attempts of jobs as `ledger.views` makes them."""
    attempts = [attempt for job in jobs for attempt in job["attempts"]]
    running = {each["attemptId"]: each for each in attempts if each["state"] == AttemptState.STARTED}
    with suppress(TransportUnavailableError):
        for attempt_id, progress in said_progress(client, list(running)).items():
            running[attempt_id]["progress"] = {**progress.to_json(), "at": when(progress.at)}

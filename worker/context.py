"""What a work-horse knows of the worker that forked it."""

import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from dcm_processor.settings import Settings
from dcm_processor.transport import Transport
from worker.spool import AttemptFolder
from worker.stop import Stop
from worker.warm import Warm


@dataclass(frozen=True)
class Context:
    """What one worker's horses share: settings, the worker's name and host, and the way to stop them."""

    settings: Settings
    worker: str
    host: str
    transport: Transport
    warm: Warm
    blank: AttemptFolder | None  # for the attempt to come; None: it makes its own
    stop: Stop = field(default_factory=Stop)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """The worker's own environment, of which jobs and builds get what `worker.surroundings` lets through."""


CONTEXT: ContextVar[Context] = ContextVar("dcm_processor_worker")
"""Set by the worker in each horse it forks; RQ itself hands its function nothing but the attempt's id."""

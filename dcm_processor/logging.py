"""Structured logs: one JSON object a line, with studyId, planId and jobId, never a patient's name, ID or birth date."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def _without(package: str) -> Iterator[None]:
    """What is imported meanwhile does not find the package, unless it is there already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = cast("ModuleType", None)  # as the language reference has it, "The module cache"
    try:
        yield
    finally:
        del sys.modules[package]


with _without("rich"):  # with which structlog would draw tracebacks: a tenth of a program's start, and 5 MB of it
    import structlog
    from structlog import get_logger
    from structlog.contextvars import bound_contextvars

__all__ = ["bound_contextvars", "get_logger", "set_up_logging"]


def set_up_logging(program: str) -> None:
    """Send every log line of this process, ours and the libraries', to stderr as JSON; called by entry points only."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _name, event: {"program": program, **event},
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("alembic", "urllib3", "pynetdicom", "pydicom", "rq"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

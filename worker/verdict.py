"""From how an attempt came to its end to its outcome. Pure."""

import errno
import traceback
from typing import Any, Protocol

from dcm_processor.contract import TRANSIENT_EXIT
from dcm_processor.errors import DcmProcessorError, OutageError, PermanentError, ServiceError
from dcm_processor.outcome import Outcome
from dcm_processor.vocabulary import ExitReason
from worker.contained import End
from worker.environments import EnvironmentFailedError, EnvironmentUnavailableError

_SIGKILL = 9
_OUTAGES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENFILE, errno.EMFILE,
     errno.ENOMEM, errno.EAGAIN}
)  # fmt: skip
"""What a system says of a disk, a mount or itself that has nothing to do with what was asked of it."""
_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


class Limits(Protocol):
    """What an order limits its attempt to: seconds, and bytes of memory."""

    @property
    def timeout(self) -> float: ...

    @property
    def memory(self) -> int | None: ...


def outcome_of(end: End, order: Limits, start_timeout: float) -> Outcome:
    """Judge the end of a function's process.

    What we did counts before what the function did, and what it raised before how its process then ended.
    """
    raised = next((m for m in end.messages if isinstance(m, dict) and m.get("kind") == "raised"), None)
    reason, error, error_class = _reason(end, raised, order, start_timeout)
    details: dict[str, Any] = {
        "exitStatus": end.status,
        "signal": _signal_name(end.signal),
        "peakMemory": end.peak_memory,
        "logSize": end.log_size,
    }
    if end.oom_kills:
        details["oomKills"] = end.oom_kills
    if end.log_cut:
        details["logCut"] = end.log_cut
    if end.log_fault:
        details["logFault"] = end.log_fault
    if end.survivors:
        details["survivors"] = list(end.survivors)
    if end.began is not None:
        details["functionBegan"] = end.began
    return Outcome(
        exitReason=reason,
        error=error,
        errorClass=error_class,
        traceback=_text(raised, "traceback") if raised and reason is not ExitReason.DONE else None,
        details={key: value for key, value in details.items() if value is not None},
    )


def outcome_of_error(error: Exception, phase: str) -> Outcome:
    """The outcome of an attempt that did not get as far as its function.

    A service's own faults are permanent, and so is what Orthanc no longer holds. What the platform stands on comes back
    some time; what else failed on this host, or between it and others, may pass.
    """
    details: dict[str, Any] = {"phase": phase}
    if isinstance(error, EnvironmentFailedError | EnvironmentUnavailableError):
        details["buildLog"] = error.tail
    if isinstance(error, EnvironmentFailedError):
        reason = ExitReason.ENVIRONMENT
    elif isinstance(error, ServiceError):
        reason = ExitReason.MODULE
    elif isinstance(error, OutageError) or (isinstance(error, OSError) and error.errno in _OUTAGES):
        reason = ExitReason.OUTAGE
    elif phase == "inputs":  # the scheduler may yet publish what it does not know
        reason = ExitReason.FETCH
    elif isinstance(error, PermanentError):
        reason = ExitReason.GONE
    elif phase == "fetch":
        reason = ExitReason.FETCH
    else:
        reason = ExitReason.TRANSIENT
    known = isinstance(error, DcmProcessorError)
    return Outcome(
        exitReason=reason,
        error=str(error) if known else f"this host's worker: {_line(error)}",
        errorClass=type(error).__name__,
        traceback=None if known else "".join(traceback.format_exception(error)),
        details=details,
    )


def error_class(outcome: Outcome) -> str:
    """The one word that RQ's tools may show: the exception's class, or the exit reason in its spelling."""
    return outcome.errorClass or "".join(part.capitalize() for part in outcome.exitReason.split("_"))


def _reason(  # noqa: PLR0911 - one reason a return, in the order of what counts first
    end: End, raised: dict[str, Any] | None, order: Limits, start_timeout: float
) -> tuple[ExitReason, str | None, str | None]:
    if end.killed in (ExitReason.CANCELLED, ExitReason.HANDED_BACK):
        return ExitReason(end.killed), None, None
    if end.killed == "memory":
        text = f"the job held more than the {_size(order.memory or 0)} that `memory` allows"
        return ExitReason.OUT_OF_MEMORY, text, None
    if raised is not None:
        return _raised(raised)
    if end.killed == "timeout":
        return ExitReason.TIMEOUT, f"the function ran longer than the {order.timeout:g} s of `timeout`", None
    if end.killed == "start":
        return ExitReason.TIMEOUT, f"the module was not imported within {start_timeout:g} s", None
    unstartable = next((m for m in end.messages if isinstance(m, dict) and m.get("kind") == "unstartable"), None)
    if unstartable is not None:
        return ExitReason.ENVIRONMENT, _text(unstartable, "error"), None
    if end.status is not None:
        if end.status == 0 and end.began is None:
            return ExitReason.EXIT, "the module ended the process (exit status 0) while it was imported", None
        if end.status == 0:
            return ExitReason.DONE, None, None
        transient = end.status == TRANSIENT_EXIT
        return (ExitReason.TRANSIENT if transient else ExitReason.EXIT), f"exit status {end.status}", None
    if end.signal == _SIGKILL:
        if end.oom_kills:
            return ExitReason.OUT_OF_MEMORY, "the kernel's OOM killer ended the job", None
        return ExitReason.LOST, "SIGKILL that neither the platform nor the OOM killer sent", None
    return ExitReason.SIGNAL, _signal_name(end.signal), None


def _raised(message: dict[str, Any]) -> tuple[ExitReason, str | None, str | None]:
    if message.get("memory"):
        reason = ExitReason.OUT_OF_MEMORY
    elif message.get("transient"):
        reason = ExitReason.TRANSIENT
    else:
        reason = ExitReason.EXCEPTION
    return reason, _text(message, "error"), _text(message, "class")


def _line(error: Exception) -> str:
    """An error of this host in one line: with the place and the reason where the system says so."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return type(error).__name__


def _text(message: dict[str, Any], key: str) -> str | None:
    """A text of a message, which a service may have written itself."""
    value = message.get(key)
    return value if isinstance(value, str) else None


def _signal_name(number: int | None) -> str | None:
    return None if number is None else _SIGNALS.get(number, f"signal {number}")


def _size(number: int) -> str:
    size, unit = float(number), "bytes"
    for bigger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1024, bigger
    return f"{size:.3g} {unit}"

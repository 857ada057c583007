"""From how an attempt came to its end to its outcome."""

from typing import Any

import pytest

from dcm_processor.errors import (
    DataFullError,
    NotKnownError,
    OrthancAwayError,
    OrthancUnavailableError,
    PermanentError,
    SchedulerUnavailableError,
    ServiceError,
    StudyGoneError,
)
from dcm_processor.transport import Order
from dcm_processor.vocabulary import ExitReason
from worker.contained import End
from worker.environments import EnvironmentFailedError, EnvironmentUnavailableError
from worker.verdict import error_class, outcome_of, outcome_of_error

ORDER = Order(
    attemptId="job-1", jobId="job", attempt=1, planId="plan", studyId="study", seriesId=None, jobName="job",
    service="svc", digest="0", worker="svc.work", timeout=90.0, memory=4 << 30, params={}, inputs={}, outcomes={},
)  # fmt: skip


def raised(**values: Any) -> dict[str, Any]:
    return {"kind": "raised", "class": "ValueError", "error": "ValueError: x", "traceback": "trace"} | values


@pytest.mark.parametrize(
    ("end", "reason", "error"),
    [
        (End(status=0, began=5.0), ExitReason.DONE, None),
        (End(status=0), ExitReason.EXIT, "the module ended the process (exit status 0) while it was imported"),
        (End(status=1, messages=[raised()]), ExitReason.EXCEPTION, "ValueError: x"),
        (End(status=1, messages=[raised(transient=True)]), ExitReason.TRANSIENT, "ValueError: x"),
        (End(status=1, messages=[raised(memory=True)]), ExitReason.OUT_OF_MEMORY, "ValueError: x"),
        (End(status=1), ExitReason.EXIT, "exit status 1"),
        (End(status=75), ExitReason.TRANSIENT, "exit status 75"),
        (End(signal=11), ExitReason.SIGNAL, "SIGSEGV"),
        (End(signal=40), ExitReason.SIGNAL, "signal 40"),
        (End(signal=9), ExitReason.LOST, "SIGKILL that neither the platform nor the OOM killer sent"),
        (End(signal=9, killed="reaper"), ExitReason.LOST, "SIGKILL that neither the platform nor the OOM killer sent"),
        (End(signal=9, oom_kills=1), ExitReason.OUT_OF_MEMORY, "the kernel's OOM killer ended the job"),
        (
            End(signal=9, killed="memory"),
            ExitReason.OUT_OF_MEMORY,
            "the job held more than the 4 GB that `memory` allows",
        ),
        (End(signal=9, killed="timeout"), ExitReason.TIMEOUT, "the function ran longer than the 90 s of `timeout`"),
        (End(signal=9, killed="start"), ExitReason.TIMEOUT, "the module was not imported within 600 s"),
        (End(signal=9, killed="cancelled"), ExitReason.CANCELLED, None),
        (End(signal=9, killed="handed_back"), ExitReason.HANDED_BACK, None),
        (
            End(status=127, messages=[{"kind": "unstartable", "error": "python cannot be started"}]),
            ExitReason.ENVIRONMENT,
            "python cannot be started",
        ),
    ],
)
def test_each_end_has_one_reason(end: End, reason: ExitReason, error: str | None) -> None:
    outcome = outcome_of(end, ORDER, 600)
    assert (outcome.exitReason, outcome.error) == (reason, error)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (End(signal=9, killed="cancelled", messages=[raised()]), ExitReason.CANCELLED),
        (End(signal=9, killed="handed_back", oom_kills=1), ExitReason.HANDED_BACK),
        (End(signal=9, killed="memory", messages=[raised()]), ExitReason.OUT_OF_MEMORY),
        (End(signal=9, killed="timeout", messages=[raised()]), ExitReason.EXCEPTION),
        (End(signal=9, oom_kills=1, messages=[raised()]), ExitReason.EXCEPTION),
        (End(status=0, messages=[raised()]), ExitReason.EXCEPTION),
    ],
)
def test_what_we_did_comes_first_then_what_was_raised(end: End, reason: ExitReason) -> None:
    assert outcome_of(end, ORDER, 600).exitReason is reason


def test_messages_may_be_anything() -> None:
    """A service can write to the descriptor too."""
    rubbish: list[Any] = [None, 3, "x", [], {}, {"kind": "raised", "class": 3, "error": None, "traceback": {}}]
    outcome = outcome_of(End(status=1, messages=rubbish), ORDER, 600)
    assert (outcome.exitReason, outcome.error, outcome.errorClass) == (ExitReason.EXCEPTION, None, None)


def test_details_name_what_is_known() -> None:
    end = End(status=0, began=5.0, peak_memory=7, log_size=3, log_cut=9, log_fault="full", survivors=[12])
    assert outcome_of(end, ORDER, 600).details == {
        "exitStatus": 0, "peakMemory": 7, "logSize": 3, "logCut": 9, "logFault": "full", "survivors": [12],
        "functionBegan": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "phase", "reason"),
    [
        (ServiceError("no code"), "module", ExitReason.MODULE),
        (EnvironmentFailedError("no solution", "tail"), "environment", ExitReason.ENVIRONMENT),
        (EnvironmentUnavailableError("no network", "tail"), "environment", ExitReason.OUTAGE),
        (StudyGoneError("gone"), "fetch", ExitReason.GONE),
        (PermanentError("the plan pins no instance"), "fetch", ExitReason.GONE),
        (DataFullError("full"), "fetch", ExitReason.OUTAGE),
        (OrthancAwayError("away"), "fetch", ExitReason.OUTAGE),
        (OrthancUnavailableError("a server error"), "fetch", ExitReason.FETCH),
        (OSError(28, "No space left on device", "/data"), "fetch", ExitReason.OUTAGE),
        (OSError(36, "File name too long", "/data"), "fetch", ExitReason.FETCH),
        (NotKnownError("no such results"), "inputs", ExitReason.FETCH),
        (SchedulerUnavailableError("away"), "inputs", ExitReason.OUTAGE),
        (SchedulerUnavailableError("away"), "module", ExitReason.OUTAGE),
        (OSError(28, "No space left on device", "/data"), "run", ExitReason.OUTAGE),
        (KeyError("Doe^Jane"), "run", ExitReason.TRANSIENT),
    ],
)
def test_what_fails_before_the_function(error: Exception, phase: str, reason: ExitReason) -> None:
    """A service's own faults are permanent, an outage ends, what else a host met may pass; no error holds a value."""
    outcome = outcome_of_error(error, phase)
    assert outcome.exitReason is reason
    assert outcome.details["phase"] == phase
    assert "Doe" not in (outcome.error or "")


def test_a_full_disk_is_named() -> None:
    outcome = outcome_of_error(OSError(28, "No space left on device", "/data/attempts"), "run")
    assert outcome.error == "this host's worker: /data/attempts: No space left on device"


def test_a_build_log_comes_along() -> None:
    assert outcome_of_error(EnvironmentFailedError("x", "the tail"), "environment").details["buildLog"] == "the tail"


def test_rq_gets_one_word() -> None:
    assert error_class(outcome_of(End(status=1, messages=[raised()]), ORDER, 600)) == "ValueError"
    assert error_class(outcome_of(End(signal=9, killed="memory"), ORDER, 600)) == "OutOfMemory"

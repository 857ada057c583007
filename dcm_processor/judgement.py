"""What the end of an attempt makes of its job: finished, failed, cancelled, or tried again and when. Pure."""

from dataclasses import dataclass
from typing import Literal

from dcm_processor.manifest import Retry
from dcm_processor.outcome import Outcome
from dcm_processor.vocabulary import AttemptState, ExitReason, JobState

TRANSIENT_RETRIES = 3
"""How often what says "try again" is tried again even where `retry.max` is less."""
OUTAGE_INTERVALS = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0)
"""Seconds after which an attempt that met an outage is followed by the next."""
OUTAGE_TRIES = 1000
"""How often in a row a job may meet an outage, which takes a week; then it fails: nothing waits for ever."""
JITTER = 0.2
"""A retry comes up to this share later than its interval says: what failed together shall not return together."""

_TRANSIENT = (ExitReason.TRANSIENT, ExitReason.FETCH)
_WORDS = {
    ExitReason.EXCEPTION: "the function raised",
    ExitReason.EXIT: "the process ended",
    ExitReason.TRANSIENT: "to be tried again",
    ExitReason.SIGNAL: "the process was ended by a signal",
    ExitReason.OUT_OF_MEMORY: "out of memory",
    ExitReason.TIMEOUT: "time-out",
    ExitReason.LOST: "worker lost",
    ExitReason.ENVIRONMENT: "the service's environment could not be built",
    ExitReason.OUTAGE: "an outage",
    ExitReason.FETCH: "the job's files could not be fetched",
    ExitReason.GONE: "what the job needs cannot be had",
    ExitReason.MODULE: "the service's code could not be had",
    ExitReason.OUTPUT: "what the job left could not be sent",
}


@dataclass(frozen=True)
class Tries:
    """How often a job's attempts ended how, before this one; `outages` are those in a row up to now."""

    failures: int = 0
    transients: int = 0
    losses: int = 0
    outages: int = 0


@dataclass(frozen=True)
class Judgement:
    """The job's new state, the attempt's, the counter that goes up, and for a retry its delay in seconds."""

    job: JobState  # FINISHED, FAILED, CANCELLED, RETRYING; WAITING: to be queued at once
    attempt: AttemptState
    reason: str | None = None
    counter: Literal["failures", "transients", "losses", "outages"] | None = None
    delay: float = 0


def judge(outcome: Outcome, tries: Tries, retry: Retry, chance: float) -> Judgement:  # noqa: PLR0911 - one return a case
    """Decide; `chance` is a random number in [0, 1) for the jitter."""
    match outcome.exitReason:
        case ExitReason.DONE:
            return Judgement(JobState.FINISHED, AttemptState.FINISHED)
        case ExitReason.CANCELLED:
            return Judgement(JobState.CANCELLED, AttemptState.CANCELLED, outcome.error or "cancelled")
        case ExitReason.HANDED_BACK:
            return Judgement(JobState.WAITING, AttemptState.HANDED_BACK)
        case ExitReason.FORGOTTEN:
            return Judgement(JobState.WAITING, AttemptState.LOST)
        case ExitReason.LOST:
            losses = tries.losses + 1
            if losses <= retry.lost:
                return Judgement(JobState.WAITING, AttemptState.LOST, counter="losses")
            times = "once" if losses == 1 else f"{losses} times"
            return Judgement(JobState.FAILED, AttemptState.LOST, f"worker lost {times}", "losses")
        case ExitReason.OUTAGE:
            if tries.outages >= OUTAGE_TRIES:
                why = f"{_reason(outcome)} (tried {tries.outages + 1} times)"
                return Judgement(JobState.FAILED, AttemptState.FAILED, why, "outages")
            delay = OUTAGE_INTERVALS[min(tries.outages, len(OUTAGE_INTERVALS) - 1)] * (1 + JITTER * chance)
            why = f"{_reason(outcome)}; tried again until that ends"
            return Judgement(JobState.RETRYING, AttemptState.HANDED_BACK, why, "outages", delay)
    if outcome.exitReason in _TRANSIENT:
        number, most, counter = tries.transients + 1, max(TRANSIENT_RETRIES, retry.max), "transients"
    else:
        number, most, counter = tries.failures + 1, retry.max, "failures"
    why = _reason(outcome)
    if number > most:
        if number > 1:
            why = f"{why} (tried {number} times)"
        return Judgement(JobState.FAILED, AttemptState.FAILED, why, counter)  # type: ignore[arg-type]
    interval = retry.interval[min(number, len(retry.interval)) - 1]
    delay = interval * (1 + JITTER * chance)
    return Judgement(JobState.RETRYING, AttemptState.FAILED, f"{why}; try {number} of {most} follows", counter, delay)  # type: ignore[arg-type]


def longest_delay(retry: Retry, outages: int) -> float:
    """Seconds that the next attempt can lie ahead at most, of a job that met so many outages in a row."""
    return max(OUTAGE_INTERVALS if outages else retry.interval) * (1 + JITTER)


def _reason(outcome: Outcome) -> str:
    words = _WORDS.get(outcome.exitReason, outcome.exitReason)
    return f"{words}: {outcome.error}" if outcome.error else words

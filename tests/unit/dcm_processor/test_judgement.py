"""What the end of an attempt makes of its job (DESIGN 2, `retry`)."""

import pytest

from dcm_processor.judgement import JITTER, OUTAGE_INTERVALS, OUTAGE_TRIES, Tries, judge, longest_delay
from dcm_processor.manifest import Retry
from dcm_processor.outcome import Outcome
from dcm_processor.vocabulary import AttemptState, ExitReason, JobState

FAILURES = [
    ExitReason.EXCEPTION,
    ExitReason.EXIT,
    ExitReason.SIGNAL,
    ExitReason.OUT_OF_MEMORY,
    ExitReason.TIMEOUT,
    ExitReason.ENVIRONMENT,
    ExitReason.MODULE,
    ExitReason.OUTPUT,
    ExitReason.GONE,
]


def test_done_finishes() -> None:
    judgement = judge(Outcome(ExitReason.DONE), Tries(), Retry(), 0)
    assert (judgement.job, judgement.attempt, judgement.reason) == (JobState.FINISHED, AttemptState.FINISHED, None)


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failure_without_retries_fails_and_says_why(reason: ExitReason) -> None:
    judgement = judge(Outcome(reason, error="ValueError: no slices"), Tries(), Retry(), 0)
    assert judgement.job is JobState.FAILED
    assert judgement.reason is not None
    assert judgement.reason.endswith("ValueError: no slices")


def test_failures_are_tried_again_max_times_after_the_intervals() -> None:
    retry = Retry(max=3, interval=(10, 60))
    delays = []
    for failures in range(3):
        judgement = judge(Outcome(ExitReason.EXCEPTION), Tries(failures=failures), retry, 0)
        assert judgement.job is JobState.RETRYING
        assert judgement.counter == "failures"
        delays.append(judgement.delay)
    assert delays == [10, 60, 60]
    assert judge(Outcome(ExitReason.EXCEPTION), Tries(failures=3), retry, 0).job is JobState.FAILED


def test_an_interval_is_stretched_by_chance_and_never_shortened() -> None:
    retry = Retry(max=1, interval=(100,))
    assert judge(Outcome(ExitReason.EXIT), Tries(), retry, 0).delay == 100
    assert judge(Outcome(ExitReason.EXIT), Tries(), retry, 0.999).delay == pytest.approx(100 * (1 + JITTER), rel=0.01)


@pytest.mark.parametrize("reason", [ExitReason.TRANSIENT, ExitReason.FETCH])
def test_what_says_try_again_is_tried_three_times_even_at_max_0(reason: ExitReason) -> None:
    for transients in range(3):
        assert judge(Outcome(reason), Tries(transients=transients), Retry(), 0).job is JobState.RETRYING
    assert judge(Outcome(reason), Tries(transients=3), Retry(), 0).job is JobState.FAILED


def test_a_lost_worker_is_replaced_twice_then_the_job_fails_saying_how_often() -> None:
    for losses in range(2):
        judgement = judge(Outcome(ExitReason.LOST), Tries(losses=losses), Retry(), 0)
        assert (judgement.job, judgement.attempt, judgement.counter) == (JobState.WAITING, AttemptState.LOST, "losses")
    judgement = judge(Outcome(ExitReason.LOST), Tries(losses=2), Retry(), 0)
    assert judgement.job is JobState.FAILED
    assert judgement.reason == "worker lost 3 times"


def test_an_outage_uses_up_nothing_and_is_outlasted_for_a_week() -> None:
    waited = 0.0
    for outages in range(OUTAGE_TRIES):
        judgement = judge(Outcome(ExitReason.OUTAGE, error="Orthanc is away"), Tries(outages=outages), Retry(), 0)
        assert (judgement.job, judgement.attempt) == (JobState.RETRYING, AttemptState.HANDED_BACK)
        assert judgement.counter == "outages"
        assert judgement.reason == "an outage: Orthanc is away; tried again until that ends"
        waited += judgement.delay
    assert OUTAGE_INTERVALS[0] <= 10
    assert waited > 6.5 * 24 * 3600
    judgement = judge(Outcome(ExitReason.OUTAGE), Tries(outages=OUTAGE_TRIES), Retry(), 0)
    assert (judgement.job, judgement.attempt) == (JobState.FAILED, AttemptState.FAILED)


def test_no_retry_lies_further_ahead_than_the_longest_delay() -> None:
    for retry in (Retry(), Retry(max=1, interval=(0,)), Retry(max=1, interval=(5000,))):
        assert judge(Outcome(ExitReason.OUTAGE), Tries(outages=99), retry, 0.999).delay <= longest_delay(retry, 100)
        for reason in (ExitReason.EXCEPTION, ExitReason.TRANSIENT):
            assert judge(Outcome(reason), Tries(), retry, 0.999).delay <= longest_delay(retry, 0)


def test_losses_do_not_use_up_retries() -> None:
    assert judge(Outcome(ExitReason.EXCEPTION), Tries(losses=2), Retry(max=1), 0).job is JobState.RETRYING


def test_an_attempt_handed_back_is_not_counted() -> None:
    judgement = judge(Outcome(ExitReason.HANDED_BACK), Tries(failures=9, losses=9), Retry(), 0)
    assert (judgement.job, judgement.counter, judgement.delay) == (JobState.WAITING, None, 0)


def test_an_attempt_that_redis_forgot_is_lost_and_not_counted() -> None:
    judgement = judge(Outcome(ExitReason.FORGOTTEN), Tries(losses=9), Retry(lost=0), 0)
    assert (judgement.job, judgement.attempt, judgement.counter) == (JobState.WAITING, AttemptState.LOST, None)


def test_cancelled_ends_the_job() -> None:
    assert judge(Outcome(ExitReason.CANCELLED), Tries(), Retry(max=3), 0).job is JobState.CANCELLED

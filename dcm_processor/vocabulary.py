"""The words that ledger, API, pages and rules share; docs/glossary.md explains them."""

from enum import StrEnum


class Stage(StrEnum):
    """When in a plan a job may run: a later stage starts when the earlier one's scheduled jobs have ended."""

    PRE = "pre"
    MAIN = "main"
    POST = "post"

    @property
    def position(self) -> int:
        """0 for the earliest stage."""
        return list(Stage).index(self)


class Level(StrEnum):
    """What one job is about: a whole study, or each of its series."""

    STUDY = "study"
    SERIES = "series"


class OnDependencyFailure(StrEnum):
    """What a job does when a dependency did not finish."""

    SKIP = "skip"
    RUN = "run"


class OnUpdate(StrEnum):
    """What a job does when its study grew."""

    RERUN = "rerun"
    IGNORE = "ignore"


class Verdict(StrEnum):
    """What a plan decided about a job."""

    SCHEDULED = "scheduled"
    DECLINED = "declined"
    ERRORED = "errored"
    SKIPPED = "skipped"
    DISABLED = "disabled"


class JobState(StrEnum):
    """Where a scheduled job stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    STARTED = "started"
    RETRYING = "retrying"
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in _UNENDED


_UNENDED = frozenset({JobState.WAITING, JobState.QUEUED, JobState.STARTED, JobState.RETRYING})


class AttemptState(StrEnum):
    """Where one attempt of a job stands."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"
    HANDED_BACK = "handed_back"
    CANCELLED = "cancelled"


class ExitReason(StrEnum):
    """Why an attempt ended (recorded with every outcome)."""

    DONE = "done"
    EXCEPTION = "exception"
    EXIT = "exit"  # a non-zero exit status without an exception
    TRANSIENT = "transient"  # TransientServiceError, or exit status 75 (EX_TEMPFAIL of sysexits.h)
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    HANDED_BACK = "handed_back"  # the worker was told to stop, or has a script.sh to run first
    FORGOTTEN = "forgotten"  # Redis was emptied while it was queued: whether a worker had begun it is not known
    LOST = "lost"  # no announcement, or a SIGKILL that neither we nor an OOM kill sent
    ENVIRONMENT = "environment"  # the service's environment could not be built
    OUTAGE = "outage"  # Orthanc, the scheduler, an index of packages or a disk was away or full
    FETCH = "fetch"  # the study's files, or the job's inputs, could not be fetched
    GONE = "gone"  # what the job needs cannot be had, however often it is tried: Orthanc holds it no longer
    MODULE = "module"  # the module's code could not be had
    OUTPUT = "output"  # what the job left could not be sent to the scheduler


class StudyState(StrEnum):
    """Where a study stands."""

    KNOWN = "known"
    RECEIVED = "received"
    WAITING = "waiting"
    PLANNING = "planning"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    UNPLANNED = "unplanned"


class EventKind(StrEnum):
    """Why the ledger was told about a study."""

    STABLE = "stable"  # the Lua hook
    CHANGE = "change"  # a StableStudy in Orthanc's /changes
    QUIET = "quiet"  # no NewInstance for STABLE_AGE + 10 s
    LIMIT = "limit"  # a study was held back for as long as its rules allow
    RULES = "rules"  # the rules of completeness changed while it was held back
    FOUND = "found"  # Orthanc compared with the ledger: it held what no other event had told of
    RERUN = "rerun"
    CANCEL = "cancel"


HELD = "held: "
"""How the result of an event begins that told of a study which is held back."""


class RepairKind(StrEnum):
    """Which difference between Orthanc, ledger, Redis and disk was found and closed (docs/reliability.md)."""

    STUDY_UNNOTICED = "study_unnoticed"  # Orthanc held a study, or more of it, that no event told of
    STUDY_QUIET = "study_quiet"  # a study grew, and nobody said that it is stable
    EVENT_UNPLANNED = "event_unplanned"  # an event whose planning an interrupted controller left undone
    PLAN_STALLED = "plan_stalled"  # jobs that could go on, or whose dependencies had all ended, and did not
    ATTEMPT_UNKNOWN = "attempt_unknown"  # queued in the ledger, and neither in RQ nor with a worker
    ATTEMPT_UNREPORTED = "attempt_unreported"  # queued in the ledger, and claimed by a worker
    ATTEMPT_LOST = "attempt_lost"  # started, and not announced any more
    ATTEMPT_UNWANTED = "attempt_unwanted"  # in Redis, or with a worker, and ended in the ledger
    OUTCOME_OLD = "outcome_old"  # sent for an attempt that had ended before
    RESULT_UNPUBLISHED = "result_unpublished"  # accepted, and not yet among the results
    DUE_TOO_LATE = "due_too_late"  # put off further than it can be: a clock was set back

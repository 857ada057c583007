"""The ledger's tables (SQLAlchemy Core). Times are seconds since the epoch, UTC, as floats; digests are hexadecimal.

Reading order: a study is heard of (events, studies), planned (plans, jobs), run (attempts, results), repaired where it
is different elsewhere (repairs), forgotten (tombstones).
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy import Text as SqlText

REVISION = "0005"
"""The last of the migrations, which lead to these tables."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts up only on INTEGER PRIMARY KEY; PostgreSQL wants the wide one.
Serial = BigInteger().with_variant(Integer, "sqlite")


class Text(TypeDecorator[str]):
    """Text of any origin, made such that every database takes it: no U+0000, no lone surrogates."""

    impl = SqlText
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: object) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


Json = JSON(none_as_null=True)  # not JSONB: that would reorder keys and refuse U+0000

facts = Table(  # single facts: Orthanc's identity, the cursor in /changes, DATA's id …
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Json),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Float, nullable=False),
)

studies = Table(
    "studies",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),  # order of first sight, for pages newest first
    Column("study_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("first_seen_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("stable_due_at", Float),  # counts as stable then, should no StableStudy come (a NewInstance was seen)
    Column("hold_until", Float),  # is planned then, should what it is expected to hold not have come
    Column("last_update", String(32)),  # Orthanc's LastUpdate when the study was last read, or met
    Column("active_plan_id", String(128)),
    Column("unplanned", Text),  # why the newest revision has no plan: given up, or held back; None: it has, or gets one
    Column("study_instance_uid", String(64)),
    Column("study_date", String(16)),
    Column("modalities", String(64)),
    Column("description", Text),
    UniqueConstraint("study_id"),
    Index("ix_studies_state_number", "state", "number"),
    Index("ix_studies_stable_due_at", "stable_due_at"),
    Index("ix_studies_hold_until", "hold_until"),
    Index("ix_studies_study_instance_uid", "study_instance_uid"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("event_id", Serial, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("study_id", String(64), nullable=False),
    Column("payload", Json),
    Column("received_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),  # not to be handled before: planning failures put it off
    Column("failures", Integer, nullable=False, default=0),
    Column("handled_at", Float),
    Column("result", Text),  # what came of it
    Index("ix_events_handled_at_due_at", "handled_at", "due_at"),
    Index("ix_events_study_id", "study_id"),
    sqlite_autoincrement=True,
)

series_owners = Table(  # who stored a series: asked once, of its first instance
    "series_owners",
    metadata,
    Column("series_id", String(64), primary_key=True),
    Column("study_id", String(64), nullable=False),
    Column("ours", Boolean, nullable=False),
    Index("ix_series_owners_study_id", "study_id"),
)

plans = Table(
    "plans",
    metadata,
    Column("plan_id", String(128), primary_key=True),
    Column("study_id", String(64), ForeignKey("studies.study_id"), nullable=False),
    Column("revision", String(16), nullable=False),
    Column("run", Integer, nullable=False),
    Column("reason", Text),  # why there is this plan: hook, change, rerun …
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("active", Boolean, nullable=False),
    Column("headers", Json, nullable=False),
    Column("selected", Json, nullable=False),  # HEADER_FIELDS as they were
    Column("instances", Json, nullable=False),  # seriesId -> instance ids
    Column("faults", Json),  # services that could not be asked, with why
    Index("ix_plans_study_id_created_at", "study_id", "created_at"),
    Index("ix_plans_active_ended_at", "active", "ended_at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(200), primary_key=True),
    Column("plan_id", String(128), ForeignKey("plans.plan_id"), nullable=False),
    Column("study_id", String(64), nullable=False),
    Column("series_id", String(64)),
    Column("job_name", String(64), nullable=False),
    Column("service", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("position", Integer, nullable=False),
    Column("settings", Json, nullable=False),  # the job's entry of settings.json, defaults filled in
    Column("verdict", String(16), nullable=False),
    Column("reason", Text),
    Column("traceback", Text),  # of a callback that raised; of a function that raised: attempts.traceback
    Column("output", Text),  # what the callback printed
    Column("injected", Json),  # what the callback returned beside its bool
    Column("dependencies", Json, nullable=False),  # job ids of scheduled dependencies
    Column("reused_from", String(200)),  # the job of an earlier plan whose result stands for this one's
    Column("state", String(16)),  # None: not scheduled
    Column("queue", String(64)),
    Column("attempt", Integer, nullable=False, default=0),  # number of the current attempt
    Column("failures", Integer, nullable=False, default=0),
    Column("transients", Integer, nullable=False, default=0),
    Column("losses", Integer, nullable=False, default=0),
    Column("outages", Integer, nullable=False, default=0, server_default="0"),  # attempts in a row that met an outage
    Column("due_at", Float),  # a retrying job's next attempt
    Column("cancel_asked_at", Float),  # of a running job: it is not to be tried again, however its attempt ends
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Index("ix_jobs_plan_id_state", "plan_id", "state"),
    Index("ix_jobs_state_created_at", "state", "created_at"),
    Index("ix_jobs_service_state", "service", "state"),
    Index("ix_jobs_study_id", "study_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", String(220), primary_key=True),
    Column("job_id", String(200), ForeignKey("jobs.job_id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("worker", String(128)),
    Column("host", String(128)),
    Column("exit_reason", String(16)),
    Column("error", Text),  # one line
    Column("traceback", Text),
    Column("phases", Json),  # {"environment": [begin, end], "fetch": …, "run": …}, seconds since the epoch
    Column("details", Json),  # exit status, signal, peak memory (bytes), environment, log size
    Index("ix_attempts_job_id_attempt", "job_id", "attempt", unique=True),
    Index("ix_attempts_state", "state"),
)

results = Table(  # what an attempt's job named: numbers and texts
    "results",
    metadata,
    Column("attempt_id", String(220), ForeignKey("attempts.attempt_id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("position", Integer, nullable=False),  # in which order they were named
    Column("value", Json),  # a number, a bool or a text
    Column("unit", Text),
)

repairs = Table(  # differences between Orthanc, ledger, Redis and disk that were found and closed
    "repairs",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("last_at", Float, nullable=False),
)

tombstones = Table(  # revisions that were planned and whose rows are gone: none of them is planned again by itself
    "tombstones",
    metadata,
    Column("study_id", String(64), primary_key=True),
    Column("revision", String(16), primary_key=True),
    Column("run", Integer, nullable=False),  # the last one: a rerun has the next, and no id comes twice
    Column("ended_at", Float, nullable=False),
)

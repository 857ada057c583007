"""The ledger's first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column(
            "event_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("study_id", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("handled_at", sa.Float(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_handled_at_due_at", "events", ["handled_at", "due_at"], unique=False)
    op.create_index("ix_events_study_id", "events", ["study_id"], unique=False)
    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_facts")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "series_owners",
        sa.Column("series_id", sa.String(length=64), nullable=False),
        sa.Column("study_id", sa.String(length=64), nullable=False),
        sa.Column("ours", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("series_id", name=op.f("pk_series_owners")),
    )
    op.create_index("ix_series_owners_study_id", "series_owners", ["study_id"], unique=False)
    op.create_table(
        "studies",
        sa.Column(
            "number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("study_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("first_seen_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("stable_due_at", sa.Float(), nullable=True),
        sa.Column("active_plan_id", sa.String(length=128), nullable=True),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("study_date", sa.String(length=16), nullable=True),
        sa.Column("modalities", sa.String(length=64), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_studies")),
        sa.UniqueConstraint("study_id", name=op.f("uq_studies_study_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_studies_stable_due_at", "studies", ["stable_due_at"], unique=False)
    op.create_index("ix_studies_state_number", "studies", ["state", "number"], unique=False)
    op.create_index("ix_studies_study_instance_uid", "studies", ["study_instance_uid"], unique=False)
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.String(length=128), nullable=False),
        sa.Column("study_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.String(length=16), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("selected", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("instances", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("faults", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["studies.study_id"], name=op.f("fk_plans_study_id")),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("pk_plans")),
    )
    op.create_index("ix_plans_active_ended_at", "plans", ["active", "ended_at"], unique=False)
    op.create_index("ix_plans_study_id_created_at", "plans", ["study_id", "created_at"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(length=200), nullable=False),
        sa.Column("plan_id", sa.String(length=128), nullable=False),
        sa.Column("study_id", sa.String(length=64), nullable=False),
        sa.Column("series_id", sa.String(length=64), nullable=True),
        sa.Column("job_name", sa.String(length=64), nullable=False),
        sa.Column("service", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("injected", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("dependencies", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("reused_from", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("queue", sa.String(length=64), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("transients", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.plan_id"], name=op.f("fk_jobs_plan_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_plan_id_position", "jobs", ["plan_id", "position"], unique=False)
    op.create_index("ix_jobs_service_state", "jobs", ["service", "state"], unique=False)
    op.create_index("ix_jobs_state_created_at", "jobs", ["state", "created_at"], unique=False)
    op.create_index("ix_jobs_study_id", "jobs", ["study_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.String(length=220), nullable=False),
        sa.Column("job_id", sa.String(length=200), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("queued_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("worker", sa.String(length=128), nullable=True),
        sa.Column("host", sa.String(length=128), nullable=True),
        sa.Column("exit_reason", sa.String(length=16), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("phases", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_attempts_job_id")),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_job_id_attempt", "attempts", ["job_id", "attempt"], unique=True)
    op.create_index("ix_attempts_state", "attempts", ["state"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_attempts_state", table_name="attempts")
    op.drop_index("ix_attempts_job_id_attempt", table_name="attempts")
    op.drop_table("attempts")
    op.drop_index("ix_jobs_study_id", table_name="jobs")
    op.drop_index("ix_jobs_state_created_at", table_name="jobs")
    op.drop_index("ix_jobs_service_state", table_name="jobs")
    op.drop_index("ix_jobs_plan_id_position", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_plans_study_id_created_at", table_name="plans")
    op.drop_index("ix_plans_active_ended_at", table_name="plans")
    op.drop_table("plans")
    op.drop_index("ix_studies_study_instance_uid", table_name="studies")
    op.drop_index("ix_studies_state_number", table_name="studies")
    op.drop_index("ix_studies_stable_due_at", table_name="studies")
    op.drop_table("studies")
    op.drop_table("series_owners")
    op.drop_table("leases")
    op.drop_table("facts")
    op.drop_index("ix_events_study_id", table_name="events")
    op.drop_index("ix_events_handled_at_due_at", table_name="events")
    op.drop_table("events")

"""The states of a plan's jobs are found without reading the jobs."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_plan_id_state", "jobs", ["plan_id", "state"], unique=False)

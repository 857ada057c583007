"""The states of a plan's jobs are found without reading the jobs; their order is not kept in an index of its own."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_plan_id_state", "jobs", ["plan_id", "state"], unique=False)
    op.drop_index("ix_jobs_plan_id_position", "jobs")

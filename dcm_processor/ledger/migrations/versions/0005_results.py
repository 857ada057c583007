"""Named results: the numbers and texts that jobs find."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "results",
        sa.Column("attempt_id", sa.String(220), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("value", sa.JSON),
        sa.Column("unit", sa.Text),
        sa.PrimaryKeyConstraint("attempt_id", "name", name="pk_results"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.attempt_id"], name="fk_results_attempt_id"),
    )

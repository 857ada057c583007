"""A job that is to be cancelled, and a study whose newest revision could not be planned, say so."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("cancel_asked_at", sa.Float(), nullable=True))
    op.add_column("studies", sa.Column("unplanned", sa.Text(), nullable=True))

"""What it takes to lose nothing: repairs counted, studies compared with Orthanc and held back, outages outlasted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "repairs",
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.Float, nullable=False),
    )
    op.create_table(
        "tombstones",
        sa.Column("study_id", sa.String(64), primary_key=True),
        sa.Column("revision", sa.String(16), primary_key=True),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
    )
    op.add_column("studies", sa.Column("last_update", sa.String(32)))
    op.add_column("studies", sa.Column("hold_until", sa.Float))
    op.create_index("ix_studies_hold_until", "studies", ["hold_until"])
    op.add_column("jobs", sa.Column("outages", sa.Integer, nullable=False, server_default="0"))

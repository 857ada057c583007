"""Alembic's folder; `Ledger.migrate` runs it, there is no alembic.ini."""

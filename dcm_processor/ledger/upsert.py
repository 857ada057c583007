"""INSERT … ON CONFLICT, which SQLAlchemy has for each database by itself."""

from importlib import import_module
from typing import Any

from sqlalchemy import Table


def upsert(dialect: str, table: Table) -> Any:
    """An INSERT into the table that knows `on_conflict_do_…`, for `sqlite` or `postgresql`.

    The other one is not loaded: it brings half a dozen drivers' modules into every program.
    """
    return import_module(f"sqlalchemy.dialects.{dialect}").insert(table)

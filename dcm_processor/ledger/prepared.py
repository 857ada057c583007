"""Statements that are made once, and handed to the database's driver as they are.

Whoever depends on a job waits for some of them, and SQLAlchemy's own way of executing one takes longer than the
database does. It still says how each is written for the database at hand, and what becomes of its values.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

Convert = Callable[[Any], Any]
Values = Mapping[str, Any]


class Prepared:
    """A SELECT, or an INSERT or UPDATE of exactly the columns it is given values for: no default fills in others.

    To be executed in a transaction of SQLAlchemy's connection, and raises what that would.
    """

    def __init__(self, statement: Select[Any] | Insert | Update) -> None:
        self._statement = statement
        self._written: dict[tuple[str, tuple[str, ...]], _Written] = {}

    def rows(self, db: Connection, values: Values) -> list[Sequence[Any]]:
        """All rows of a SELECT, their values in the order of its columns."""
        written = self._for(db, values)

        def fetch(cursor: Any) -> Any:
            cursor.execute(written.text, written.bound(values))
            return cursor.fetchall(), cursor.description

        found, description = call(db, written.text, fetch)
        if written.results is None:
            written.results = _results(self._statement, db.dialect, description)
        return [written.read(row) for row in found] if written.results else found

    def run(self, db: Connection, *rows: Values) -> None:
        """An INSERT or UPDATE, once for each of the rows (at least one), which are alike."""
        written = self._for(db, rows[0])
        if len(rows) == 1:
            call(db, written.text, lambda cursor: cursor.execute(written.text, written.bound(rows[0])))
        else:
            ready = [written.bound(row) for row in rows]
            call(db, written.text, lambda cursor: cursor.executemany(written.text, ready))

    def _for(self, db: Connection, values: Values) -> "_Written":
        key = db.dialect.name, tuple(values)
        if (written := self._written.get(key)) is None:
            written = self._written[key] = _write(self._statement, db.dialect, list(values))
        return written


@dataclass
class _Written:
    """A statement as one database's driver takes it."""

    text: str
    order: Sequence[str] | None  # of its parameters; None: by their names
    constants: Values
    parameters: Sequence[tuple[str, Convert]]  # of those given, the ones to be converted
    results: Sequence[tuple[int, Convert]] | None = None  # the same of a row's values, once it was executed

    def bound(self, values: Values) -> Any:
        ready = {**self.constants, **values}
        for name, convert in self.parameters:
            ready[name] = convert(ready[name])
        return ready if self.order is None else [ready[name] for name in self.order]

    def read(self, row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for place, convert in self.results or ():
            values[place] = convert(values[place])
        return values


def _write(statement: Select[Any] | Insert | Update, dialect: Dialect, names: list[str]) -> _Written:
    compiled = statement.compile(dialect=dialect, column_keys=names)
    if compiled.insert_prefetch or compiled.update_prefetch or compiled.post_compile_params:
        raise ValueError("a default or a list in a statement is for SQLAlchemy to execute")
    converts = {
        name: convert
        for name, bind in compiled.binds.items()
        if (convert := bind.type.dialect_impl(dialect).bind_processor(dialect)) is not None
    }
    constants = {name: bind.value for name, bind in compiled.binds.items() if name not in names}
    return _Written(
        text=str(compiled),
        order=compiled.positiontup,
        constants={name: converts[name](value) if name in converts else value for name, value in constants.items()},
        parameters=[(name, convert) for name, convert in converts.items() if name in names],
    )


def _results(statement: Any, dialect: Dialect, description: Sequence[Sequence[Any]]) -> list[tuple[int, Convert]]:
    """What is to be converted in a row, by what the driver says of its columns (PEP 249, `Cursor.description`)."""
    converts = [
        column.type.dialect_impl(dialect).result_processor(dialect, told[1])
        for column, told in zip(statement.selected_columns, description, strict=True)
    ]
    return [(place, convert) for place, convert in enumerate(converts) if convert is not None]


def call(db: Connection, statement: str, act: Callable[[Any], Any]) -> Any:
    """Have `act` execute the statement by a cursor of the driver's.

    What that raises becomes SQLAlchemy's error, without values, and a connection that broke is given up.
    """
    connection, cursor, driver = db.connection, None, db.dialect.loaded_dbapi
    try:
        cursor = connection.cursor()
        return act(cursor)
    except driver.Error as error:
        broken = db.dialect.is_disconnect(error, connection, cursor)
        if broken:
            db.invalidate(error)
        raise DBAPIError.instance(
            statement,
            None,
            error,
            driver.Error,
            hide_parameters=True,
            connection_invalidated=broken,
            dialect=db.dialect,
        ) from error
    finally:
        if cursor is not None:
            with suppress(driver.Error):
                cursor.close()

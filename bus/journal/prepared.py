"""Statements compiled once: making one anew, or finding it in a cache of compiled ones, costs more than running it.

Owns the text and the order of parameters per database, and hands both to the driver's cursor: what SQLAlchemy does around
each run takes as long as a commit's sync. The transaction stays SQLAlchemy's. Imports SQLAlchemy Core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.sql import ClauseElement


class _Text(NamedTuple):
    """A statement as one database's driver takes it; ``of`` makes its parameters, by position or by name, of a mapping."""

    sql: str
    of: Callable[[Mapping[str, Any]], Any]


def _by_position(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    # With several names itemgetter makes the tuple itself, without a step of the interpreter for each.
    return itemgetter(*names) if len(names) > 1 else lambda values: tuple([values[name] for name in names])


class Prepared:
    """One statement, whose parameters all come with each run: none has a value of its own, or a type that is converted on its way."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}

    def run(self, connection: Connection, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
        """Run it with *values*, or once per element when they are several (not none), and return how many rows it touched.

        Raises:
            Error: Of the database's driver, as the driver has it.
        """
        text = self._texts.get(connection.dialect.name) or self._compile(connection)
        driver: Any = connection.connection.dbapi_connection
        cursor = driver.cursor()
        try:
            if isinstance(values, Mapping):
                cursor.execute(text.sql, text.of(values))
            else:
                cursor.executemany(text.sql, list(map(text.of, values)))
            return cursor.rowcount
        finally:
            cursor.close()

    def _compile(self, connection: Connection) -> _Text:
        compiled: Any = self._statement.compile(dialect=connection.dialect)
        text = _Text(str(compiled), _by_position(compiled.positiontup) if compiled.positional else dict)
        self._texts[connection.dialect.name] = text
        return text

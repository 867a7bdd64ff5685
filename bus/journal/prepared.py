"""Statements compiled once: making one anew, or finding it in a cache of compiled ones, costs more than running it.

Owns the text and the order of parameters per database, and hands both to the driver's cursor: what SQLAlchemy does around
each run takes as long as a commit's sync. The transaction stays SQLAlchemy's. Imports SQLAlchemy Core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.sql import ClauseElement


class _Text(NamedTuple):
    """A statement as one database's driver takes it; ``names`` is None where parameters go by name."""

    sql: str
    names: tuple[str, ...] | None

    def of(self, values: Mapping[str, Any]) -> Any:
        """Return *values* as the driver takes them."""
        return dict(values) if self.names is None else tuple([values[name] for name in self.names])


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
        cursor = connection.connection.cursor()
        try:
            if isinstance(values, Mapping):
                cursor.execute(text.sql, text.of(values))
            else:
                cursor.executemany(text.sql, [text.of(row) for row in values])
            return cursor.rowcount
        finally:
            cursor.close()

    def _compile(self, connection: Connection) -> _Text:
        compiled: Any = self._statement.compile(dialect=connection.dialect)
        text = _Text(str(compiled), tuple(compiled.positiontup) if compiled.positional else None)
        self._texts[connection.dialect.name] = text
        return text

"""Statements compiled once: making one anew, or finding it in a cache of compiled ones, costs more than running it.

Owns the text and the order of parameters per database. Imports SQLAlchemy Core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult
from sqlalchemy.sql import ClauseElement


class _Text(NamedTuple):
    """A statement as one database's driver takes it; ``names`` is None where parameters go by name."""

    sql: str
    names: tuple[str, ...] | None


class Prepared:
    """One statement, whose parameters all come with each run: none has a value of its own, or a type that is converted on its way."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}

    def run(self, connection: Connection, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Run it with *values*, or once per element when they are several (not none)."""
        text = self._texts.get(connection.dialect.name) or self._compile(connection)
        if text.names is None:
            return connection.exec_driver_sql(text.sql, dict(values) if isinstance(values, Mapping) else [dict(row) for row in values])
        if isinstance(values, Mapping):
            return connection.exec_driver_sql(text.sql, tuple([values[name] for name in text.names]))
        return connection.exec_driver_sql(text.sql, [tuple([row[name] for name in text.names]) for row in values])

    def _compile(self, connection: Connection) -> _Text:
        compiled: Any = self._statement.compile(dialect=connection.dialect)
        text = _Text(str(compiled), tuple(compiled.positiontup) if compiled.positional else None)
        self._texts[connection.dialect.name] = text
        return text

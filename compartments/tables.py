"""The SQL projection: the world's rows as tables, for listings, other tools and a fast start.

Owns the tables, which are generated from the rows, and the two directions rows <-> tables. Owns no transaction and no
connection: whoever calls brings one, so that entries and projection commit together. SQLAlchemy Core only.

INV-TAB-1: writing a world's changes as they come, or all its rows at once, gives the same tables.
INV-TAB-2: ``digest`` of the tables equals the digest of the world that they came from.
INV-TAB-3: tables made for other shapes of rows are dropped and made anew, never migrated; tables that were made anew are not
loaded before ``clear`` has announced that they are being filled, so a dropped table never passes for an empty world.

They have no index beside their keys: every decision looks into World, and an index costs each commit that touches it one or two
pages of the log.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from bus.journal.prepared import Prepared
from compartments.row import Row
from compartments.shapes import NAMES, ROW_TYPES, fingerprint
from compartments.world import Change, World
from enjin.canonical import canonical
from enjin.errors import ConfigError, Conflict

METADATA: Final = MetaData()
SHAPE: Final = Table(
    "projection_shape", METADATA, Column("fingerprint", String, primary_key=True), Column("filled", Boolean, nullable=False)
)
_PLAIN: Final[dict[type, type]] = {str: String, int: BigInteger, bool: Boolean}


class UnknownDatabase(ConfigError):
    """The projection cannot be kept in a database of this sort."""

    code = "E-TAB-001"
    remedy = "use SQLite or PostgreSQL"


class StaleTables(Conflict):
    """The projection's tables were made anew and not filled since: replay the journal into them."""

    code = "E-TAB-002"


class _Columns:
    """How one row type lies in its table: scalars as they are, everything else as canonical JSON text."""

    def __init__(self, shape: type[Row]) -> None:
        hints = {name: hint for name, hint in get_type_hints(shape, include_extras=False).items() if get_origin(hint) is not ClassVar}
        self.shape = shape
        self.sorts = {field.name: _sort(hints[field.name]) for field in msgspec.structs.fields(shape)}
        self.nested = {name: hints[name] for name, sort in self.sorts.items() if sort is None}
        self.table = Table(
            NAMES[shape],
            METADATA,
            *(Column(name, sort or String, primary_key=name in shape.KEY, nullable=False) for name, sort in self.sorts.items()),
        )

        wanted = [self.table.c[name] == bindparam(name) for name in shape.KEY]
        self.delete = Prepared(delete(self.table).where(*wanted))
        self._upserts: dict[str, Prepared] = {}

    def upsert(self, connection: Connection) -> Prepared:
        """Return the statement that puts a row. Raises: UnknownDatabase."""
        dialect = connection.dialect.name
        if dialect not in self._upserts:
            if dialect not in ("sqlite", "postgresql"):
                raise UnknownDatabase(f"the projection cannot be kept in {dialect}")
            statement = sqlite.insert(self.table) if dialect == "sqlite" else postgresql.insert(self.table)
            rest = {name: statement.excluded[name] for name in self.sorts if name not in self.shape.KEY}
            changing = statement.on_conflict_do_update(index_elements=list(self.shape.KEY), set_=rest) if rest else None
            self._upserts[dialect] = Prepared(statement.on_conflict_do_nothing() if changing is None else changing)
        return self._upserts[dialect]

    def encode(self, row: Row) -> dict[str, Any]:
        return {
            name: canonical(value).decode() if name in self.nested else str(value) if isinstance(value, str) else value
            for name, value in ((name, getattr(row, name)) for name in self.sorts)
        }

    def decode(self, values: Mapping[Any, Any]) -> Row:
        return self.shape(**{
            name: msgspec.json.decode(value, type=self.nested[name]) if name in self.nested else value for name, value in values.items()
        })  # fmt: skip

    def key(self, key: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self.shape.KEY, key, strict=True))


def _sort(hint: Any) -> type | None:
    """Return the column type of a field, or None when it is stored as JSON."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return None
    if hint in _PLAIN:
        return _PLAIN[hint]
    values = get_args(hint)
    return String if values and origin is not None and all(isinstance(value, str) for value in values) else None


_COLUMNS: Final = {shape: _Columns(shape) for shape in ROW_TYPES.values()}


def create(connection: Connection) -> bool:
    """Make the tables that are absent; tables of other shapes, or of which some are missing, are all made anew.

    Returns:
        Whether the tables were made anew: the caller then calls ``clear`` and writes every row of a replayed world.
    """
    present = set(inspect(connection).get_table_names())
    if present.issuperset(METADATA.tables):
        kept = connection.execute(select(SHAPE)).first()
        if kept is not None and kept.fingerprint == fingerprint():
            for shape in ROW_TYPES.values():
                for name in shape.INDEX:  # that earlier versions made
                    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {NAMES[shape]}_by_{name}")
            return not kept.filled
    drop(connection)
    METADATA.create_all(connection)
    connection.execute(insert(SHAPE), {"fingerprint": fingerprint(), "filled": False})
    return True


def drop(connection: Connection) -> None:
    """Remove the projection's tables."""
    METADATA.drop_all(connection)


def clear(connection: Connection) -> None:
    """Remove every row: what is written from now on is the whole world."""
    for columns in _COLUMNS.values():
        connection.execute(delete(columns.table))
    connection.execute(update(SHAPE).values(filled=True))


def write(connection: Connection, changes: Iterable[Change]) -> None:
    """Write what ``World.take_changes`` returned.

    Raises:
        UnknownDatabase: Neither SQLite nor PostgreSQL.
    """
    puts: dict[type[Row], list[dict[str, Any]]] = {}
    deletes: dict[type[Row], list[tuple[Any, ...]]] = {}
    for change in changes:
        if change.row is None:
            deletes.setdefault(change.shape, []).append(change.key)
        else:
            puts.setdefault(change.shape, []).append(_COLUMNS[change.shape].encode(change.row))
    for shape, keys in deletes.items():
        columns = _COLUMNS[shape]
        columns.delete.run(connection, [columns.key(key) for key in keys])
    for shape, rows in puts.items():
        _COLUMNS[shape].upsert(connection).run(connection, rows)


def load(connection: Connection, world: World | None = None) -> World:
    """Put every stored row into *world* (a new one when None) and return it; nothing counts as changed.

    Raises:
        StaleTables: ``create`` made the tables anew and nobody filled them.
    """
    if not connection.execute(select(SHAPE.c.filled)).scalar():
        raise StaleTables("the projection was dropped or has other shapes", hint="replay the journal into it")
    found = World() if world is None else world
    for columns in _COLUMNS.values():
        for values in connection.execute(select(columns.table)).mappings():
            found.put(columns.decode(values))
    found.take_changes()
    return found


def digest(connection: Connection) -> str:
    """Return the digest of the world that the tables hold."""
    return load(connection).digest()


class WorldTables:
    """The functions above as the object that a journal keeps beside its entries."""

    def create(self, connection: Connection) -> bool:
        """Make the tables that are absent; say whether they were made anew."""
        return create(connection)

    def clear(self, connection: Connection) -> None:
        """Remove every row."""
        clear(connection)

    def write(self, connection: Connection, changes: Iterable[Change]) -> None:
        """Write what ``World.take_changes`` returned."""
        write(connection, changes)

    def load(self, connection: Connection, world: World | None = None) -> World:
        """Put every stored row into *world* and return it."""
        return load(connection, world)

    def digest(self, connection: Connection) -> str:
        """Return the digest of what is stored."""
        return digest(connection)

"""World: the in-memory fold of a journal's facts; frozen rows with indexes.

Owns the rows, their indexes, what changed since somebody last asked, the digest and the snapshot. Does not know facts
(they know it), SQL (``tables`` writes what changed), time or files. Not safe for several threads at once.

INV-WLD-1: equal sets of rows have equal digests, whatever the order in which they came to be.
INV-WLD-2: ``all`` and ``find`` return rows in the order of their keys, so a decision never depends on history.
INV-WLD-3: row operations are put and delete; nothing else changes a world.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import msgspec

from compartments.row import Row
from compartments.shapes import NAMES, ROW_TYPES, fingerprint
from enjin.canonical import canonical
from enjin.errors import Conflict, Invalid, NotFound, invariant

R = TypeVar("R", bound=Row)
Key = tuple[Any, ...]
Keys = set[Key]
SNAPSHOT_VERSION: Final = 1


class StaleSnapshot(Conflict):
    """A snapshot was made with other shapes of rows; replay instead."""

    code = "E-WLD-001"


class BadSnapshot(Invalid):
    """A snapshot is damaged."""

    code = "E-WLD-002"


class NoSuchRow(NotFound):
    """The world holds no such row."""

    code = "E-WLD-003"


class Change(NamedTuple):
    """One row operation: ``row`` is None when *op* is delete."""

    op: Literal["put", "delete"]
    shape: type[Row]
    key: Key
    row: Row | None


class _Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    shape: str
    digest: str
    rows: dict[str, msgspec.Raw]


class _Shelf:
    """The rows of one type, by key, with one index per field of ``INDEX``."""

    __slots__ = ("indexes", "key_fields", "order", "rows")

    def __init__(self, shape: type[Row]) -> None:
        self.key_fields = shape.KEY
        self.rows: dict[Key, Row] = {}
        self.indexes: dict[str, dict[Any, Keys]] = {field: {} for field in shape.INDEX}
        self.order: list[Key] | None = None

    def key_of(self, row: Row) -> Key:
        return tuple([getattr(row, field) for field in self.key_fields])

    def put(self, key: Key, row: Row) -> bool:
        old = self.rows.get(key)
        if old == row:
            return False
        if old is None:
            if self.order is not None:
                insort(self.order, key)
        else:
            self._unindex(key, old)
        self.rows[key] = row
        for field, index in self.indexes.items():
            index.setdefault(getattr(row, field), set()).add(key)
        return True

    def delete(self, key: Key) -> bool:
        old = self.rows.pop(key, None)
        if old is None:
            return False
        self._unindex(key, old)
        if self.order is not None:
            del self.order[bisect_left(self.order, key)]
        return True

    def _unindex(self, key: Key, row: Row) -> None:
        for field, index in self.indexes.items():
            value = getattr(row, field)
            keys = index[value]
            keys.discard(key)
            if not keys:
                del index[value]

    def sorted(self) -> list[Row]:
        if self.order is None:
            self.order = sorted(self.rows)
        return [self.rows[key] for key in self.order]

    def find(self, wanted: dict[str, Any]) -> list[Row]:
        narrowest: Keys | None = None
        rest = dict(wanted)
        for field, value in wanted.items():
            if field in self.indexes:
                keys = self.indexes[field].get(value)
                if keys is None:
                    return []
                del rest[field]
                narrowest = keys if narrowest is None else narrowest & keys
        rows = self.sorted() if narrowest is None else [self.rows[key] for key in sorted(narrowest)]
        if rest:
            rows = [row for row in rows if all(getattr(row, field) == value for field, value in rest.items())]
        return rows


class World:
    """Frozen rows by type and key. A key is given as its fields' values, in the order of the row's ``KEY``."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._shelves: dict[type[Row], _Shelf] = {shape: _Shelf(shape) for shape in ROW_TYPES.values()}
        self._changed: dict[tuple[type[Row], Key], None] = {}
        for row in rows:
            self.put(row)

    def __len__(self) -> int:
        return sum(len(shelf.rows) for shelf in self._shelves.values())

    def put(self, row: Row) -> None:
        """Add *row*, or replace the one with its key."""
        shape = type(row)
        shelf = self._shelves[shape]
        key = shelf.key_of(row)
        if shelf.put(key, row):
            self._note(shape, key)

    def delete(self, shape: type[Row], *key: Any) -> None:
        """Remove the row with *key*, if there is one."""
        if self._shelves[shape].delete(found := _flat(key)):
            self._note(shape, found)

    def get(self, shape: type[R], *key: Any) -> R | None:
        """Return the row with *key*, or None."""
        return self._shelves[shape].rows.get(_flat(key))  # type: ignore[return-value]

    def need(self, shape: type[R], *key: Any) -> R:
        """Return the row with *key*.

        Raises:
            NoSuchRow: There is none.
        """
        row = self.get(shape, *key)
        if row is None:
            raise NoSuchRow(f"there is no {NAMES[shape].replace('_', ' ')} {'/'.join(map(str, _flat(key)))}")
        return row

    def all(self, shape: type[R]) -> list[R]:
        """Return every row of *shape*, in the order of their keys."""
        return self._shelves[shape].sorted()  # type: ignore[return-value]

    def find(self, shape: type[R], **fields: Any) -> list[R]:
        """Return the rows of *shape* whose *fields* have these values, in the order of their keys; indexed fields are fast."""
        return self._shelves[shape].find(fields)  # type: ignore[return-value]

    def first(self, shape: type[R], **fields: Any) -> R | None:
        """Return the first row that ``find`` would, or None."""
        found = self.find(shape, **fields)
        return found[0] if found else None

    def count(self, shape: type[Row]) -> int:
        """Return how many rows of *shape* there are."""
        return len(self._shelves[shape].rows)

    @property
    def size(self) -> int:
        """How many rows there are of all shapes."""
        return sum(len(shelf.rows) for shelf in self._shelves.values())

    def take_changes(self) -> list[Change]:
        """Return what changed since the last call, each row once with its last state, and forget it."""
        changes = []
        for shape, key in self._changed:
            row = self._shelves[shape].rows.get(key)
            changes.append(Change("delete" if row is None else "put", shape, key, row))
        self._changed = {}
        return changes

    def digest(self) -> str:
        """Return a SHA-256 over all rows in canonical form; tables without rows do not count."""
        total = hashlib.sha256()
        for name, shape in ROW_TYPES.items():
            if self._shelves[shape].rows:
                data = canonical(self.all(shape))
                total.update(f"{name} {len(data)}\n".encode())
                total.update(data)
        return total.hexdigest()

    def snapshot(self) -> bytes:
        """Return all rows as bytes, with their digest and the shapes' fingerprint."""
        rows = {name: msgspec.Raw(canonical(self.all(shape))) for name, shape in ROW_TYPES.items() if self._shelves[shape].rows}
        return canonical(_Snapshot(SNAPSHOT_VERSION, fingerprint(), self.digest(), rows))

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Return the world of the snapshot *data*; nothing counts as changed.

        Raises:
            BadSnapshot: Damaged.
            StaleSnapshot: Made with other shapes of rows.
        """
        world = cls()
        try:
            kept = msgspec.json.decode(data, type=_Snapshot)
            if kept.v != SNAPSHOT_VERSION or kept.shape != fingerprint():
                raise StaleSnapshot("the snapshot was made with other shapes of rows")
            for name, rows in kept.rows.items():
                for row in msgspec.json.decode(rows, type=_list_of(ROW_TYPES[name])):
                    world.put(row)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise BadSnapshot(f"the snapshot cannot be read: {error}") from error
        if world.digest() != kept.digest:
            raise BadSnapshot("the snapshot's rows do not have its digest")
        world.take_changes()
        return world

    def _note(self, shape: type[Row], key: Key) -> None:
        invariant(shape in NAMES, "a row's type is not in the closed table", shape=shape.__name__)
        self._changed.pop((shape, key), None)
        self._changed[(shape, key)] = None


def _list_of(shape: type[R]) -> type[list[R]]:
    return list[shape]  # type: ignore[valid-type]


def _flat(key: tuple[Any, ...]) -> Key:
    return key[0] if len(key) == 1 and isinstance(key[0], tuple) else key

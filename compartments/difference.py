"""What is otherwise in one world than in another: rows that came, went or changed, and in which fields.

Pure. Owns the comparison and how a change is told; which two moments are compared is the asker's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from compartments.row import Row
from compartments.shapes import ROW_TYPES
from compartments.world import World
from enjin.canonical import to_plain

TEXT_MAX: Final = 200


class RowChange(msgspec.Struct, frozen=True, kw_only=True):
    """One row that is otherwise: its table, its key, and field -> (before, after) of what differs."""

    op: Literal["added", "removed", "changed"]
    table: str
    key: str
    fields: dict[str, tuple[Any, Any]]


def difference(before: World, after: World) -> Iterator[RowChange]:
    """Yield every row that differs, by table and key. Long texts are cut: frames and sealed values say nothing to a reader."""
    for name, shape in ROW_TYPES.items():
        old, new = ({_key(row): row for row in world.all(shape)} for world in (before, after))
        for key in sorted(old.keys() | new.keys()):
            was, now = old.get(key), new.get(key)
            if was == now:
                continue
            fields = [field.name for field in msgspec.structs.fields(shape)]
            told = {field: (_tell(was, field), _tell(now, field)) for field in fields if _get(was, field) != _get(now, field)}
            yield RowChange(op="added" if was is None else "removed" if now is None else "changed", table=name, key=key, fields=told)


def _key(row: Row) -> str:
    return "/".join(str(getattr(row, field)) for field in row.KEY)


def _get(row: Row | None, field: str) -> Any:
    return getattr(row, field) if row is not None else None


def _tell(row: Row | None, field: str) -> Any:
    value = msgspec.to_builtins(_get(row, field), enc_hook=to_plain)
    return f"{value[:TEXT_MAX]}…" if isinstance(value, str) and len(value) > TEXT_MAX else value

"""What a row of the world is: a frozen Struct with a key.

Owns the base class and the words that rows of several files share. A new kind of row subclasses ``Row`` and is named in
its file's ``ROWS``; ``shapes`` sums those.

INV-ROW-1: ``KEY`` identifies a row for ever: an id is never used again, a name may be.
INV-ROW-2: no floats; times are microseconds of cloud time (0: never); addresses, ids and hashes are text.
INV-ROW-3: a field of a row never changes its meaning; a projection whose rows' fields changed is rebuilt by replay.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, dataclass_transform

import msgspec

CompartmentKind = Literal["cloud", "site", "rack", "power", "network", "environment"]
Strategy = Literal["host", "vm", "jail", "process", "user"]
Wanted = Literal["running", "stopped", "gone"]
State = Literal["pending", "starting", "running", "failed", "stopped"]
RoleName = Literal["operator", "tenant"]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class KeywordOnly(msgspec.StructMeta):
    """Metaclass that makes every subclass keyword-only: msgspec applies that option to a class's own fields alone."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        return super().__new__(mcls, name, bases, namespace, **({"kw_only": True} | options))


class Row(msgspec.Struct, metaclass=KeywordOnly, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every row.

    ``KEY`` names the fields that identify a row, ``INDEX`` the single fields by which rows are looked up.
    """

    KEY: ClassVar[tuple[str, ...]] = ("id",)
    INDEX: ClassVar[tuple[str, ...]] = ()

"""What a row of the world is: a frozen Struct with a key.

Owns the base class and the words that rows of several files share. A new kind of row subclasses ``Row`` and is named in
its file's ``ROWS``; ``shapes`` sums those.

INV-ROW-1: ``KEY`` identifies a row for ever: an id is never used again, a name may be.
INV-ROW-2: no floats; times are microseconds of cloud time (0: never); addresses, ids and hashes are text.
INV-ROW-3: a field of a row never changes its meaning; a projection whose rows' fields changed is rebuilt by replay.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

CompartmentKind = Literal["cloud", "site", "rack", "power", "network", "environment"]
Strategy = Literal["host", "vm", "jail", "process", "user"]
Wanted = Literal["running", "stopped", "gone"]
State = Literal["pending", "starting", "running", "failed", "stopped"]
RoleName = Literal["operator", "tenant"]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every row.

    ``KEY`` names the fields that identify a row, ``INDEX`` the single fields by which rows are looked up.
    """

    KEY: ClassVar[tuple[str, ...]] = ("id",)
    INDEX: ClassVar[tuple[str, ...]] = ()

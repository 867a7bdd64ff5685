"""The closed table of row types, and the fingerprint by which a stored world knows that its shapes are still ours.

Owns: which row types exist, each by its table's name. INV-SHP-1: two rows never share a table's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from types import MappingProxyType
from typing import Final

import msgspec

from compartments import rows, rows_approvals, rows_apps, rows_endings, rows_joining
from compartments.row import Row
from enjin.errors import InvariantError


def table_name(shape: type[Row]) -> str:
    """Return the name of *shape*'s table: ``NetworkInterface`` -> ``network_interface``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", shape.__name__).lower()


def _sum(groups: Iterable[Iterable[type[Row]]]) -> dict[str, type[Row]]:
    found: dict[str, type[Row]] = {}
    for group in groups:
        for shape in group:
            name = table_name(shape)
            if name in found:
                raise InvariantError(f"two rows are called {name}")
            found[name] = shape
    return dict(sorted(found.items()))


ROW_TYPES: Final = MappingProxyType(_sum((rows.ROWS, rows_approvals.ROWS, rows_apps.ROWS, rows_endings.ROWS, rows_joining.ROWS)))
NAMES: Final = MappingProxyType({shape: name for name, shape in ROW_TYPES.items()})


@cache
def fingerprint() -> str:
    """Return a hash over every row's fields: it changes when a stored projection or snapshot must be rebuilt."""
    lines = []
    for name, shape in ROW_TYPES.items():
        fields = [f"{field.name}:{field.type}={field.default!r}" for field in msgspec.structs.fields(shape)]
        lines.append(f"{name}|{','.join(shape.KEY)}|{','.join(sorted(shape.INDEX))}|{';'.join(fields)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

"""Groups: audiences of many. Their names, and nothing of who is in them.

    group/all  group/ring/1  group/node/<id>  group/compartment/<id>  group/tier/<id>

Pure. Whether a receiver is in a group it knows itself, from its own world, charter or configuration; a sender only names one.

INV-GRP-1: no group is called like a subject of a grant or a domain: those have no slash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from enjin.errors import Invalid

EVERYBODY: Final = "group/all"
_FORM: Final = re.compile(r"group/(?:all|ring/[012]|(?:node|compartment|tier)/[a-z0-9][a-z0-9-]{0,63})")


class BadGroup(Invalid):
    """An audience is no group's name."""

    code = "E-GRP-001"
    remedy = "use all, ring0, ring1, ring2, or the name of a compartment, tier or node"


def is_group(audience: str) -> bool:
    """Return whether *audience* is a group's name."""
    return _FORM.fullmatch(audience) is not None


def group(kind: str, identity: str | int) -> str:
    """Return the name of a group, such as ``group("tier", "t-1")``. Raises: BadGroup."""
    name = f"group/{kind}/{identity}"
    if not is_group(name):
        raise BadGroup(f"{name[:80]!r} is no group")
    return name


def groups_of(node: str, ring: int, *, compartments: Iterable[str] = (), tiers: Iterable[str] = ()) -> frozenset[str]:
    """Return every group that *node* of *ring* is in, which lies in *compartments* and plays *tiers* (ids)."""
    return frozenset({
        EVERYBODY, group("ring", ring), group("node", node), *(group("compartment", one) for one in compartments),
        *(group("tier", one) for one in tiers),
    })  # fmt: skip

"""The closed table of facts: every kind that a journal of ours may hold, and its one ``apply``.

A file per subject; each exports ``FACTS``. An old kind stays here for ever, with its meaning.

INV-FCT-1: a kind stands in the table once. INV-FCT-2: an unknown kind is refused, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from bus.messages import Fact
from compartments.facts import accounts, approvals, apps, charters, endings, joining, networks, nodes, places, roots, secrets
from enjin.errors import InvariantError


def _sum(groups: Iterable[Iterable[type[Fact]]]) -> dict[str, type[Fact]]:
    found: dict[str, type[Fact]] = {}
    for group in groups:
        for fact in group:
            if not fact.KIND or fact.KIND in found:
                raise InvariantError(f"fact {fact.KIND!r} stands in the table twice")
            found[fact.KIND] = fact
    return dict(sorted(found.items()))


GROUPS: Final = (accounts, approvals, apps, charters, endings, joining, networks, nodes, places, roots, secrets)
FACTS: Final = MappingProxyType(_sum(group.FACTS for group in GROUPS))

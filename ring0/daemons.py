"""Who should answer when a group is asked: ring 0's own daemon, and those of the ring 1 nodes that are wanted to run.

Owns ring 0's answer to ``daemon.list``; agents are ring 1's to name.
"""

from __future__ import annotations

from typing import Final

from bus.messages import Asker, Question, Role
from compartments.daemons import Daemon, ListDaemons, Listed, groups_of_node, resolve
from compartments.rows import Node
from compartments.world import World

DOMAIN: Final = "ring0"


def list_daemons(query: ListDaemons, world: World, _asker: Asker) -> Listed:
    """Return the group that the asker means and its members. Raises: NoSuchGroup, Ambiguous."""
    audience = resolve(world, query.where)
    rows = [row for row in world.all(Node) if row.ring < 2 and row.wanted == "running" and audience in groups_of_node(world, row.id)]
    return Listed(
        group=audience,
        daemons=tuple(
            Daemon(id=row.id, label=row.label, ring=row.ring, domain=row.id if row.ring else DOMAIN)
            for row in sorted(rows, key=lambda row: (row.ring, row.label))
        ),
    )


TABLE: Final = (Question(ListDaemons, list_daemons, allow=Role.OPERATOR),)

"""Who should answer when a group is asked of ring 1: its agents; and which groups ring 1's own daemon is in.

Owns ring 1's answer to ``daemon.list``. Ring 0 names ring 1's daemon; ring 1 names those whom the bus reaches through it.
"""

from __future__ import annotations

from collections.abc import Callable

from bus.groups import groups_of
from bus.messages import Asker, Question, Role
from compartments import graph
from compartments.daemons import Daemon, ListDaemons, Listed, resolve
from compartments.world import World
from ring1.agents import Agents
from ring1.charter import in_force
from ring1.tenancy import name_of

RING, AGENTS_RING = 1, 2


def groups_here(world: World, node: str) -> frozenset[str]:
    """Return the groups that ring 1's daemon on *node* is in: its own, and those that its charter names."""
    charter = in_force(world)
    return groups_of(node, RING) | frozenset(charter.groups if charter is not None else ())


def questions(agents: Callable[[], Agents | None]) -> tuple[Question, ...]:
    """Return the row of the closed table that answers for *agents*, which are None while ring 1 starts."""

    def list_daemons(query: ListDaemons, world: World, _asker: Asker) -> Listed:
        audience = resolve(world, query.where)
        found = []
        held = agents()
        if held is None:
            return Listed(group=audience)
        for agent in held.all():
            homes = [row.id for row in graph.home_path(world, agent.compartment)]
            if audience in groups_of(agent.node, AGENTS_RING, compartments=homes):
                label = f"agent.{name_of(world, agent.compartment)}"
                found.append(Daemon(id=agent.node, label=label, ring=AGENTS_RING, domain=held.domain, grant=held.frame(agent)))
        return Listed(group=audience, daemons=tuple(sorted(found, key=lambda one: one.label)))

    return (Question(ListDaemons, list_daemons, allow=Role.OPERATOR),)

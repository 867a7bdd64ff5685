"""What ring 1 tells of its agents' lines, and of its own services' while ring 0 is away.

Owns ring 1's answer to ``node.logs``. Lines are read from the node's own init, which runs agents as services; what an app's instances
write is ``log.read``'s. Of its own node it tells what runs under its own uids; hands' lines are ring 0's to read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bus.messages import Asker, Question, Role
from compartments.lookup import NoSuchNode
from compartments.rows import Compartment
from compartments.rows_apps import Agent
from compartments.world import World
from enjin.host import clock
from enjin.names import shorten
from ring1.tenancy import agent_node, sees
from supervision.service_logs import NodeLogs, ReadNodeLogs, read_at

ABOVE: Final = "its init tells them to the ring above: ask ring 0"
AGENT: Final = "agent"


def questions(node: str, label: str, socket: Path, now: Callable[[], int]) -> tuple[Question, ...]:
    """Return the row of the closed table that reads lines.

    Args:
        node, label: This ring 1 node.
        socket: Where its own init hears its daemon.
        now: Cloud time, in microseconds.
    """

    async def read(query: ReadNodeLogs, world: World, asker: Asker) -> NodeLogs:
        """Return the lines. Raises: NoSuchNode, NodeSilent, NoSuchService."""
        offset_us = now() - clock().boot_us
        if query.node in (node, label):
            parts, elsewhere = await read_at(socket, query, offset_us=offset_us, whose=label, forbidden=ABOVE)
            return NodeLogs(id=node, label=label, ring=1, services=parts, elsewhere=elsewhere)
        row = _find(world, query.node)
        if row is None or not sees(world, asker, row.id):
            raise NoSuchNode(f"there is no agent {shorten(query.node)!r} here", hint="an agent is called agent.COMPARTMENT")
        names = {f"agent-{row.id}": AGENT}
        parts, elsewhere = await read_at(socket, query, offset_us=offset_us, whose=f"agent.{row.name}", forbidden=ABOVE, names=names)
        return NodeLogs(id=agent_node(row.id), label=f"agent.{row.name}", ring=2, services=parts, elsewhere=elsewhere)

    def where(query: ReadNodeLogs, world: World) -> str:
        """Return the name of the agent's compartment, for our own node that of the whole cloud; "": there is no such agent."""
        row = next((one for one in world.find(Compartment, parent="")), None) if query.node in (node, label) else _find(world, query.node)
        return row.name if row is not None else ""

    return (Question(ReadNodeLogs, read, Role.OPERATOR, where),)


def _find(world: World, text: str) -> Compartment | None:
    """Return the compartment whose agent *text* names by id or label."""
    for agent in world.all(Agent):
        row = world.get(Compartment, agent.compartment)
        if row is not None and text in (agent_node(row.id), f"agent.{row.name}"):
            return row
    return None

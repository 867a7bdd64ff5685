"""What ring 0 tells of nodes' own lines: its own services' and those of the ring 1 nodes that it runs, whether their daemons live or not.

Owns ring 0's answer to ``node.logs``. Lines are read from the node's init, over the socket by which ring 0 supervises it: a daemon that
ends again and again is read like one that runs. Of its own init ring 0's daemon sees what runs under its own uid; the rest is root's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bus.messages import Asker, Question, Role
from compartments import lookup, standing
from compartments.world import World
from enjin.host import clock
from ring0.foundation import Foundation
from ring0.launch import DAEMON_SOCKET, INIT_LOG, UNITS, unit_name
from ring0.tiers import node_place
from supervision.service_logs import Elsewhere, NodeLogs, NodeSilent, ReadNodeLogs, read_at

ROOTS: Final = "its init tells them to root alone: `enjin node logs NODE --local` on its machine"


def questions(home: Path, foundation: Foundation, control: Callable[[str], Path | None], now: Callable[[], int]) -> tuple[Question, ...]:
    """Return the row of the closed table that reads nodes' lines.

    Args:
        home: Ring 0's state directory.
        foundation: Which of the nodes is this ring 0's own.
        control: Node -> its init's supervisor socket; None while it does not run.
        now: Cloud time, in microseconds.
    """

    async def read(query: ReadNodeLogs, world: World, asker: Asker) -> NodeLogs:
        """Return the lines. Raises: NoSuchNode, Forbidden, NodeSilent, NoSuchService."""
        node = lookup.node(world, query.node)
        standing.require(world, asker, node.id)  # it may be named by the beginning of its id
        own = node.id == foundation.node
        path = home / DAEMON_SOCKET if own else control(node.id)
        if path is None:
            raise NodeSilent(f"node {node.label} does not run here ({node.state})")
        parts, elsewhere = await read_at(path, query, offset_us=now() - clock().boot_us, whose=node.label, forbidden=ROOTS)
        if own and query.service in ("", "init"):
            elsewhere = (*elsewhere, Elsewhere(service="init", where=where_init(home, foundation)))
        return NodeLogs(id=node.id, label=node.label, ring=node.ring, services=parts, elsewhere=elsewhere)

    return (Question(ReadNodeLogs, read, Role.OPERATOR, node_place),)


def where_init(home: Path, foundation: Foundation) -> str:
    """Return where ring 0's init itself, the minimal parent of its daemon, writes."""
    if os.path.exists(UNITS / unit_name(foundation)):
        return f"the journal of systemd has them: `journalctl -u {unit_name(foundation)}`"
    return f"in {home / INIT_LOG} on its machine"

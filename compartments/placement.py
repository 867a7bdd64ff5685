"""Where a node should go, and why: candidates, what removed each, and the order of those that are left.

Owns the choice of a supervisor (and with it a home) for a new node. Pure; equal worlds give equal answers.

INV-PLC-1: every candidate gets a verdict, so `explain` never has to guess.
INV-PLC-2: members of one tier and group are spread over failure domains before they are spread over machines.
"""

from __future__ import annotations

from typing import Any

import msgspec

from compartments import graph
from compartments.rows import Compartment, Node, NodeTier
from compartments.world import World
from enjin.errors import Refused


class NowhereToGo(Refused):
    """No node can take another one."""

    code = "E-PLC-001"


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be placed: a node of *ring*, within a compartment, apart from others of its tier and group by *apart*."""

    ring: int
    compartment: str = ""
    tier: str = ""
    group: str = ""
    apart: str = "rack"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Why one candidate was kept or removed; ``rank`` orders those kept, the lowest first."""

    node: str
    kept: bool
    why: str
    rank: tuple[int, int, str] = (0, 0, "")


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen supervisor, the new node's home, and every verdict in order."""

    supervisor: str
    compartment: str
    verdicts: tuple[Verdict, ...]


def place(world: World, need: Need) -> Placement:
    """Return where a node of *need* should go.

    Raises:
        NowhereToGo: No candidate was kept; its details name the reasons.
    """
    verdicts = tuple(_judge(world, node, need) for node in world.all(Node))
    kept = sorted((verdict for verdict in verdicts if verdict.kept), key=lambda verdict: verdict.rank)
    if not kept:
        reasons: dict[str, Any] = {verdict.node: verdict.why for verdict in verdicts}
        raise NowhereToGo(f"no node can take one of ring {need.ring}", hint="; ".join(sorted(set(reasons.values()))), reasons=reasons)
    home = world.need(Node, kept[0].node).compartment
    if need.compartment and world.need(Compartment, need.compartment).kind != "cloud":
        home = need.compartment
    removed = tuple(verdict for verdict in verdicts if not verdict.kept)
    return Placement(supervisor=kept[0].node, compartment=home, verdicts=(*kept, *removed))


def _judge(world: World, node: Node, need: Need) -> Verdict:
    if node.ring != need.ring - 1:
        return Verdict(node=node.id, kept=False, why=f"is of ring {node.ring}, which does not supervise ring {need.ring}")
    if node.wanted != "running":
        return Verdict(node=node.id, kept=False, why=f"is wanted {node.wanted}")
    if node.state in ("failed", "stopped"):
        return Verdict(node=node.id, kept=False, why=f"is {node.state}")
    if need.compartment and not _together(world, node, need.compartment):
        return Verdict(node=node.id, kept=False, why="lies neither in nor around the compartment that was asked for")
    near = _neighbours(world, node, need)
    load = len(world.find(Node, supervisor=node.id))
    why = f"{near} of the same tier in its {need.apart}, {load} nodes on it"
    return Verdict(node=node.id, kept=True, why=why, rank=(near, load, node.id))


def _together(world: World, node: Node, compartment: str) -> bool:
    return compartment in graph.ancestors(world, node.id) or graph.within(world, compartment, node.compartment)


def _neighbours(world: World, node: Node, need: Need) -> int:
    domain = graph.nearest(world, node.id, need.apart) or node.compartment
    count = 0
    for member in world.find(NodeTier, tier=need.tier, group=need.group) if need.tier else []:
        placed = world.get(Node, member.node)
        count += placed is not None and (graph.nearest(world, placed.id, need.apart) or placed.compartment) == domain
    return count

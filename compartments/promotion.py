"""Pawn to queen: a member of a tier takes the place of one in the tier above, in one fact.

Owns the decision. What the new member must do to act (replay its log, open its port) is for the ring that supervises it;
the epoch in the fact is the fence by which everybody else tells the new from the old. Pure.

INV-PRO-1: after a promotion into a single tier its group has exactly one member there.
INV-PRO-2: the epoch of a tier and group rises with every promotion and never falls.
"""

from __future__ import annotations

from compartments.facts.places import NodePromoted, epoch_counter
from compartments.rows import Counter, Node, NodeTier, Tier
from compartments.world import World
from enjin.errors import Refused


class NotPromotable(Refused):
    """The node cannot be promoted."""

    code = "E-PRO-001"


class StillServing(Refused):
    """The place above is taken by a node that runs."""

    code = "E-PRO-002"
    http_status = 409
    remedy = "stop it first, or ask for a switch-over"


def promote(world: World, node: Node, below: Tier, *, switch: bool = False) -> NodePromoted:
    """Return the fact that moves *node* from tier *below* to the tier above it.

    Args:
        switch: A planned switch-over: a running holder of the place steps down to *below*.

    Raises:
        NotPromotable: *node* is not in *below*, is not running, or nothing is above.
        StillServing: Somebody running holds the place, and it is no switch-over.
    """
    member = world.get(NodeTier, node.id, below.id)
    if member is None:
        raise NotPromotable(f"node {node.label} is not in tier {below.name}")
    above = world.get(Tier, below.above)
    if above is None:
        raise NotPromotable(
            f"tier {below.name} has no tier above it", hint="create tiers with one above the other: `enjin tier create --above`"
        )
    if node.wanted != "running" or node.state != "running":
        raise NotPromotable(f"node {node.label} is {node.state}, and only a running node is promoted")
    demoted = []
    for holder in world.find(NodeTier, tier=above.id, group=member.group) if above.single else []:
        row = world.get(Node, holder.node)
        if row is not None and row.state == "running" and not switch:
            raise StillServing(f"node {row.label} holds tier {above.name} and runs", node=row.id)
        demoted.append(holder.node)
    known = world.get(Counter, epoch_counter(above.id, member.group))
    epoch = (known.value if known is not None else 0) + 1
    return NodePromoted(node=node.id, below=below.id, above=above.id, group=member.group, demoted=tuple(demoted), epoch=epoch)

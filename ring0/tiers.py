"""Tiers: the roles that nodes play, and the promotion from one to the one above.

Owns the commands and queries about them; what a promotion means is ``compartments.promotion``'s matter.

INV-TIR-1: a single tier has at most one member per group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import lookup, promotion
from compartments.facts.places import TierAssigned, TierCreated, TierUnassigned, epoch_counter
from compartments.rows import Counter, Node, NodeTier, Tier
from compartments.world import World
from enjin.errors import Invalid, Refused

SUMMARY_CHARACTERS_MAX: Final = 200
GROUP_CHARACTERS_MAX: Final = 64


class TierFull(Refused):
    """A single tier has its member."""

    code = "E-TIR-002"
    http_status = 409
    remedy = "unassign the member, or promote: `enjin node promote`"


class NotAMember(Refused):
    """The node does not play the tier."""

    code = "E-TIR-003"


class CreateTier(Command, kind="tier.create", kw_only=True):
    """Make a tier: a role of nodes.

    Fields:
        above: The tier to which its members can be promoted, by name or id.
        single: At most one member per group.
    """

    name: str
    summary: str = ""
    above: str = ""
    single: bool = False


class AssignTier(Command, kind="tier.assign", kw_only=True):
    """Let a node play a tier, in a group of replicas."""

    tier: str
    node: str
    group: str = ""


class UnassignTier(Command, kind="tier.unassign"):
    """Let a node no longer play a tier."""

    tier: str
    node: str


class PromoteNode(Command, kind="node.promote", kw_only=True):
    """Move a node from a tier to the one above, in one step.

    Fields:
        switch: A planned switch-over: a running holder of the place above steps down.
    """

    node: str
    tier: str
    switch: bool = False


class ListTiers(Query, kind="tier.list"):
    """The tiers there are."""


class ShowTier(Query, kind="tier.show", kw_only=True):
    """One tier and its members."""

    tier: str


def node_place(wish: Any, world: World) -> str:
    """Return the compartment of ``wish.node``, for permission checks; "" stands for the whole cloud."""
    row = world.get(Node, wish.node) or world.first(Node, label=wish.node)
    return row.compartment if row is not None else ""


def create(wish: CreateTier, world: World, at: Moment) -> Iterator[Fact]:
    """Make a tier. Raises: BadName, NameTaken, NoSuchTier, Invalid."""
    name = lookup.fresh_name(world, Tier, wish.name)
    above = lookup.tier(world, wish.above).id if wish.above else ""
    if len(wish.summary) > SUMMARY_CHARACTERS_MAX:
        raise Invalid(f"a summary has at most {SUMMARY_CHARACTERS_MAX} characters")
    yield TierCreated(id=at.id(0, "t"), name=name, summary=wish.summary, above=above, single=wish.single, time=at.time)


def assign(wish: AssignTier, world: World, _at: Moment) -> Iterator[Fact]:
    """Assign a tier; what is so already changes nothing. Raises: NoSuchTier, NoSuchNode, TierFull, Invalid."""
    tier, node = lookup.tier(world, wish.tier), lookup.node(world, wish.node)
    if len(wish.group) > GROUP_CHARACTERS_MAX:
        raise Invalid(f"a group's name has at most {GROUP_CHARACTERS_MAX} characters")
    held = world.get(NodeTier, node.id, tier.id)
    if held is not None and held.group == wish.group:
        return
    members = [member for member in world.find(NodeTier, tier=tier.id, group=wish.group) if member.node != node.id]
    if tier.single and members:
        raise TierFull(f"tier {tier.name} is played by {members[0].node} in group {wish.group!r}")
    yield TierAssigned(node=node.id, tier=tier.id, group=wish.group)


def unassign(wish: UnassignTier, world: World, _at: Moment) -> Iterator[Fact]:
    """Unassign a tier. Raises: NoSuchTier, NoSuchNode, NotAMember."""
    tier, node = lookup.tier(world, wish.tier), lookup.node(world, wish.node)
    if world.get(NodeTier, node.id, tier.id) is None:
        raise NotAMember(f"node {node.label} does not play {tier.name}")
    yield TierUnassigned(node=node.id, tier=tier.id)


def promote(wish: PromoteNode, world: World, _at: Moment) -> Iterator[Fact]:
    """Promote a node. Raises: NoSuchTier, NoSuchNode, NotPromotable, StillServing."""
    yield promotion.promote(world, lookup.node(world, wish.node), lookup.tier(world, wish.tier), switch=wish.switch)


def line(world: World, row: Tier) -> dict[str, Any]:
    """Return a tier as it is listed."""
    above = world.get(Tier, row.above)
    return {
        "id": row.id,
        "name": row.name,
        "summary": row.summary,
        "above": above.name if above is not None else "",
        "single": row.single,
        "members": len(world.find(NodeTier, tier=row.id)),
        "created": row.created,
    }


def list_tiers(_query: ListTiers, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return every tier, by name."""
    return sorted((line(world, row) for row in world.all(Tier)), key=lambda one: str(one["name"]))


def show(query: ShowTier, world: World, _asker: Asker) -> dict[str, Any]:
    """Return one tier with its members. Raises: NoSuchTier."""
    row = lookup.tier(world, query.tier)
    members = []
    for member in world.find(NodeTier, tier=row.id):
        node = world.need(Node, member.node)
        fence = world.get(Counter, epoch_counter(row.id, member.group))
        epoch = fence.value if fence is not None else 0
        members.append({"node": node.id, "label": node.label, "group": member.group, "state": node.state, "epoch": epoch})
    return line(world, row) | {"nodes": members}


def created(wish: CreateTier, world: World, _at: Moment) -> object:
    """Return the new tier's line."""
    return line(world, lookup.tier(world, wish.name))


TABLE: Final = (
    Rule(CreateTier, create, allow=Role.OPERATOR, result=created),
    Rule(AssignTier, assign, allow=Role.OPERATOR, compartment=node_place),
    Rule(UnassignTier, unassign, allow=Role.OPERATOR, compartment=node_place),
    Rule(PromoteNode, promote, allow=Role.OPERATOR, compartment=node_place),
    Question(ListTiers, list_tiers, allow=Role.OPERATOR),
    Question(ShowTier, show, allow=Role.OPERATOR),
)

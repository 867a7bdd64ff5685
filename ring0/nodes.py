"""Nodes: which are wanted, where, and what is seen of them.

Owns the commands and queries about ring 1 nodes and ring 0's own. Deciding changes what is wanted; the daemon's acting part
makes it so and reports what it sees with ``node.seen``, which becomes a fact only when something changed. Where a new node
goes and what it gets is ``placing``'s matter.

INV-NOD-1: a generation rises with every new start and never falls; what was seen of an older one changes nothing.
INV-NOD-2: ring 0 does not stop or remove itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph, lookup
from compartments.facts.nodes import NodeRemoved, NodeSeen, NodeWanted
from compartments.row import State
from compartments.rows import AddressBlock, Compartment, NetworkInterface, Node, NodeObservation, NodeTier, Tier
from compartments.world import World
from enjin.errors import Conflict, Invalid, Refused
from ring0 import addresses
from ring0.placing import PlaceNode, place
from ring0.tiers import node_place

__all__ = [
    "TABLE", "ListNodes", "NodeGone", "OwnNode", "PlaceNode", "RemoveNode", "ReportNode", "RestartNode", "ShowNode", "StaleGeneration",
    "StartNode", "StopNode", "line",
]  # fmt: skip

REASON_CHARACTERS_MAX: Final = 200


class OwnNode(Refused):
    """The node is ring 0's own."""

    code = "E-NOD-002"
    remedy = "`enjin down` stops the whole cloud"


class StaleGeneration(Conflict):
    """What was seen is of another start of the node than the one that is wanted."""

    code = "E-NOD-003"


class NodeGone(Refused):
    """The node is being removed."""

    code = "E-NOD-005"
    http_status = 409


class StartNode(Command, kind="node.start"):
    """Want a stopped or failed node running."""

    node: str


class StopNode(Command, kind="node.stop"):
    """Want a node stopped."""

    node: str


class RestartNode(Command, kind="node.restart"):
    """Want a node started anew."""

    node: str


class RemoveNode(Command, kind="node.remove"):
    """Want a node gone, with everything that is its own."""

    node: str


class ReportNode(Command, kind="node.seen", kw_only=True):
    """Say what was seen of a node; it becomes a fact when something changed. ``gone``: nothing of it is left."""

    node: str
    generation: int
    state: State | Literal["gone"]
    isolation: dict[str, str] = msgspec.field(default_factory=dict)
    reason: str = ""


class ListNodes(Query, kind="node.list", kw_only=True):
    """The nodes of the cloud that ring 0 knows: its own and ring 1's."""

    compartment: str = ""


class ShowNode(Query, kind="node.show", kw_only=True):
    """One node: what is wanted, what was seen, what is its own, and what fails with it."""

    node: str


def _changeable(world: World, text: str) -> Node:
    node = lookup.node(world, text)
    if node.ring == 0:
        raise OwnNode(f"node {node.label} is ring 0's own")
    if node.wanted == "gone":
        raise NodeGone(f"node {node.label} is being removed")
    return node


def start(wish: StartNode, world: World, _at: Moment) -> Iterator[Fact]:
    """Want a node running; one that runs or starts is left alone. Raises: NoSuchNode, OwnNode, NodeGone."""
    node = _changeable(world, wish.node)
    if node.wanted != "running" or node.state in ("failed", "stopped"):
        yield NodeWanted(node=node.id, wanted="running", generation=node.generation + 1)


def stop(wish: StopNode, world: World, _at: Moment) -> Iterator[Fact]:
    """Want a node stopped. Raises: NoSuchNode, OwnNode, NodeGone."""
    node = _changeable(world, wish.node)
    if node.wanted != "stopped":
        yield NodeWanted(node=node.id, wanted="stopped", generation=node.generation)


def restart(wish: RestartNode, world: World, _at: Moment) -> Iterator[Fact]:
    """Want a node started anew. Raises: NoSuchNode, OwnNode, NodeGone."""
    node = _changeable(world, wish.node)
    yield NodeWanted(node=node.id, wanted="running", generation=node.generation + 1)


def remove(wish: RemoveNode, world: World, _at: Moment) -> Iterator[Fact]:
    """Want a node gone; its row stays until nothing of it is left. Raises: NoSuchNode, OwnNode, NodeGone."""
    node = _changeable(world, wish.node)
    yield NodeWanted(node=node.id, wanted="gone", generation=node.generation)


def seen(wish: ReportNode, world: World, at: Moment) -> Iterator[Fact]:
    """Note what was seen, if it is news. Raises: NoSuchNode, StaleGeneration, Invalid."""
    node = lookup.node(world, wish.node)
    if len(wish.reason) > REASON_CHARACTERS_MAX:
        raise Invalid(f"a reason has at most {REASON_CHARACTERS_MAX} characters")
    if wish.state == "gone" and node.wanted == "gone":
        yield NodeRemoved(node=node.id)
        return
    held = world.get(NodeObservation, node.id)
    # An older start may still be seen to end, never to run; and nothing older than what was seen already counts.
    oldest = 0 if wish.state in ("stopped", "gone") else node.generation
    if not max(oldest, held.generation if held is not None else 0) <= wish.generation <= node.generation:
        raise StaleGeneration(f"node {node.label} is at generation {node.generation}, not at {wish.generation}")
    state: State = "stopped" if wish.state == "gone" else wish.state
    known = (held.generation, held.state, held.isolation, held.reason) if held is not None else None
    if known != (wish.generation, state, wish.isolation, wish.reason) or node.state != state:
        yield NodeSeen(node=node.id, generation=wish.generation, state=state, isolation=wish.isolation, reason=wish.reason, time=at.time)


def line(world: World, node: Node) -> dict[str, Any]:
    """Return a node as it is listed; ``since`` (microseconds of cloud time) is when its state last changed."""
    interface = world.first(NetworkInterface, node=node.id)
    place_row, tiers = world.get(Compartment, node.compartment), world.find(NodeTier, node=node.id)
    observed = world.get(NodeObservation, node.id)
    return {
        "id": node.id,
        "ring": node.ring,
        "label": node.label,
        "state": node.state,
        "wanted": node.wanted,
        "strategy": node.strategy,
        "address": interface.ipv4 if interface is not None else "",
        "address6": interface.ipv6 if interface is not None else "",
        "supervisor": node.supervisor,
        "compartment": place_row.name if place_row is not None else "",
        "tiers": sorted(world.need(Tier, row.tier).name for row in tiers),
        "generation": node.generation,
        "observed": observed.generation if observed is not None else 0,
        "since": node.since,
        "reason": node.reason,
        "isolation": observed.isolation if observed is not None else {},
    }


def list_nodes(query: ListNodes, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return the nodes, ring by ring, in one compartment or all. Raises: NoSuchCompartment."""
    inside = None
    if query.compartment:
        inside = set(graph.descendants(world, lookup.compartment(world, query.compartment).id))
    rows = [row for row in world.all(Node) if inside is None or row.id in inside]
    return [line(world, row) for row in sorted(rows, key=lambda row: (row.ring, row.label))]


def show(query: ShowNode, world: World, _asker: Asker) -> dict[str, Any]:
    """Return everything about one node. Raises: NoSuchNode."""
    node = lookup.node(world, query.node)
    return line(world, node) | {
        "uid": node.uid,
        "uid_range": node.uid_range,
        "created": node.created,
        "path": graph.path_text(world, node.id),
        "addresses": [addresses.line(world, row) for row in world.find(NetworkInterface, node=node.id)],
        "blocks": [{"ipv4": row.ipv4, "ipv6": row.ipv6} for row in world.find(AddressBlock, domain=node.id)],
        "supervises": [row.id for row in world.find(Node, supervisor=node.id)],
    }


def placed(wish: PlaceNode, world: World, _at: Moment) -> object:
    """Return the new node's line."""
    return line(world, lookup.node(world, wish.label))


TABLE: Final = (
    Rule(PlaceNode, place, allow=Role.OPERATOR, result=placed),
    Rule(StartNode, start, allow=Role.OPERATOR, compartment=node_place),
    Rule(StopNode, stop, allow=Role.OPERATOR, compartment=node_place, urgent=True),
    Rule(RestartNode, restart, allow=Role.OPERATOR, compartment=node_place),
    Rule(RemoveNode, remove, allow=Role.OPERATOR, compartment=node_place, urgent=True),
    Rule(ReportNode, seen, allow=Role.SUPERVISOR),
    Question(ListNodes, list_nodes, allow=Role.OPERATOR),
    Question(ShowNode, show, allow=Role.OPERATOR, compartment=node_place),
)

"""What fails with what, how much is where, and the drawing of it: answers computed from the graph.

Owns impact, roll-ups and the two renderings (JSON-able dicts and DOT). Pure.

INV-IMP-1: whatever lies in a failing compartment fails, and so does every node that a failing node supervises.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from compartments import graph
from compartments.addressing import range4
from compartments.rows import Compartment, Containment, Network, Node, NodeTier, Tier
from compartments.world import World


def impact(world: World, identity: str) -> dict[str, Any]:
    """Return what fails if compartment or node *identity* fails.

    Returns:
        ``compartments``, ``nodes``, ``networks`` (ids that fail) and ``tiers``: for each tier and group that loses members,
        how many it has, how many fail, how many are left, and whether it goes dark.
    """
    lost = {identity, *graph.descendants(world, identity)}
    nodes = {one for one in lost if world.get(Node, one) is not None}
    pending = sorted(nodes)
    while pending:
        for below in world.find(Node, supervisor=pending.pop()):
            if below.id not in nodes:
                nodes.add(below.id)
                pending.append(below.id)
    return {
        "of": identity,
        "compartments": sorted(lost - nodes),
        "nodes": sorted(nodes),
        "networks": [row.id for row in world.all(Network) if row.compartment in lost],
        "tiers": _tiers(world, nodes),
    }


def _tiers(world: World, lost: set[str]) -> list[dict[str, Any]]:
    found = []
    for tier in world.all(Tier):
        members = world.find(NodeTier, tier=tier.id)
        for group in sorted({member.group for member in members if member.node in lost}):
            here = [member.node for member in members if member.group == group]
            failing = sum(node in lost for node in here)
            found.append(
                {
                    "tier": tier.id,
                    "name": tier.name,
                    "group": group,
                    "members": len(here),
                    "failing": failing,
                    "left": len(here) - failing,
                    "dark": failing == len(here),
                }
            )
    return found


def roll_up(world: World, identity: str) -> dict[str, Any]:
    """Return what lies in compartment *identity* in all: compartments and nodes by kind and state, addresses used and there."""
    inside = [identity, *graph.descendants(world, identity)]
    places = [row for one in inside if (row := world.get(Compartment, one)) is not None]
    nodes = [node for one in inside if (node := world.get(Node, one)) is not None]
    held = {place.id for place in places}
    networks = [row for row in world.all(Network) if row.compartment in held]
    tiers = Counter(member.tier for node in nodes for member in world.find(NodeTier, node=node.id))
    return {
        "compartments": dict(sorted(Counter(place.kind for place in places if place.id != identity).items())),
        "nodes": len(nodes),
        "rings": {str(ring): count for ring, count in sorted(Counter(node.ring for node in nodes).items())},
        "states": dict(sorted(Counter(node.state for node in nodes).items())),
        "tiers": {world.need(Tier, tier).name: count for tier, count in sorted(tiers.items())},
        "networks": len(networks),
        "addresses_used": sum(network.used for network in networks),
        "addresses": sum(range4(network.ipv4).num_addresses - network.reserved - 1 for network in networks),
    }


def to_json(world: World, root: str = "") -> dict[str, Any]:
    """Return the graph (all of it, or what lies in *root*) as ``{"nodes": […], "edges": […]}``, both in the order of ids."""
    inside = None if not root else {root, *graph.descendants(world, root)}

    def here(*ids: str) -> bool:
        return inside is None or all(one in inside for one in ids)

    points: list[dict[str, Any]] = [
        {"id": row.id, "label": row.name, "type": "compartment", "kind": row.kind} for row in world.all(Compartment) if here(row.id)
    ]
    points += [
        {"id": row.id, "label": row.label, "type": "node", "ring": row.ring, "strategy": row.strategy, "state": row.state}
        for row in world.all(Node)
        if here(row.id)
    ]
    edges = [_edge(row.parent, row.id, "home") for row in world.all(Compartment) if row.parent and here(row.parent, row.id)]
    edges += [_edge(row.compartment, row.id, "home") for row in world.all(Node) if here(row.compartment, row.id)]
    edges += [_edge(row.parent, row.child, "contains") for row in world.all(Containment) if here(row.parent, row.child)]
    edges += [_edge(row.supervisor, row.id, "supervises") for row in world.all(Node) if row.supervisor and here(row.supervisor, row.id)]
    return {"nodes": points, "edges": edges}


def _edge(source: str, target: str, kind: str) -> dict[str, Any]:
    return {"from": source, "to": target, "type": kind}


def to_dot(world: World, root: str = "") -> str:
    """Return the graph in Graphviz's language: compartments are folders, nodes boxes; dashed: contained, dotted: supervised."""
    drawn = to_json(world, root)
    lines = ["digraph enjin {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
    for point in drawn["nodes"]:
        detail = point["kind"] if point["type"] == "compartment" else f"ring {point['ring']}, {point['strategy']}, {point['state']}"
        shape = "folder" if point["type"] == "compartment" else "box"
        label = _quoted(f"{point['label']}\n{detail}")
        lines.append(f"  {_quoted(point['id'])} [shape={shape}, label={label}];")
    styles = {"home": "solid", "contains": "dashed", "supervises": "dotted"}
    lines += [f"  {_quoted(edge['from'])} -> {_quoted(edge['to'])} [style={styles[edge['type']]}];" for edge in drawn["edges"]]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

"""The graph service: the cloud's compartments and nodes as data or as a drawing, what fails with what, and where a node would go.

Owns the queries; the computing is ``compartments.graph``, ``compartments.impact`` and ``compartments.placement``.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from bus.messages import Asker, Query, Question, Role
from compartments import impact, lookup, placement
from compartments.rows import Compartment, Node
from compartments.world import World
from ring0.compartments import place_id


class ShowGraph(Query, kind="graph.show", kw_only=True):
    """The graph of compartments and nodes, all of it or what lies in one compartment.

    Fields:
        format: ``json`` for points and edges, ``dot`` for Graphviz.
    """

    compartment: str = ""
    format: Literal["json", "dot"] = "json"


class ShowImpact(Query, kind="graph.impact", kw_only=True):
    """What fails if a compartment or node fails."""

    of: str


class ExplainPlacement(Query, kind="graph.placement", kw_only=True):
    """Where a new node would go now, and why every other candidate would not do."""

    ring: int = 1
    compartment: str = ""
    tier: str = ""
    group: str = ""


def show(query: ShowGraph, world: World, _asker: Asker) -> Any:
    """Return ``{"nodes": […], "edges": […]}``, or the drawing's text. Raises: NoSuchCompartment."""
    root = lookup.compartment(world, query.compartment).id if query.compartment else ""
    return impact.to_dot(world, root) if query.format == "dot" else impact.to_json(world, root)


def show_impact(query: ShowImpact, world: World, _asker: Asker) -> dict[str, Any]:
    """Return what fails. Raises: NoSuchCompartment."""
    is_node = world.get(Node, query.of) is not None or bool(world.find(Node, label=query.of))
    is_place = bool(world.find(Compartment, name=query.of))
    of = lookup.node(world, query.of).id if is_node and not is_place else lookup.compartment(world, query.of).id
    return impact.impact(world, of)


def explain(query: ExplainPlacement, world: World, _asker: Asker) -> dict[str, Any]:
    """Return the choice and every verdict. Raises: NoSuchCompartment, NoSuchTier, NowhereToGo."""
    need = placement.Need(
        ring=query.ring,
        compartment=lookup.compartment(world, query.compartment).id if query.compartment else "",
        tier=lookup.tier(world, query.tier).id if query.tier else "",
        group=query.group,
    )
    chosen = placement.place(world, need)
    return {
        "supervisor": chosen.supervisor,
        "compartment": chosen.compartment,
        "verdicts": [
            {"node": verdict.node, "label": world.need(Node, verdict.node).label, "kept": verdict.kept, "why": verdict.why}
            for verdict in chosen.verdicts
        ],
    }


TABLE: Final = (
    Question(ShowGraph, show, allow=Role.OPERATOR, compartment=lambda query, world: place_id(world, query.compartment)),
    Question(ShowImpact, show_impact, allow=Role.OPERATOR),
    Question(ExplainPlacement, explain, allow=Role.OPERATOR),
)

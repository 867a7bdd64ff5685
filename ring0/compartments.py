"""Compartments and tiers: the localities and groupings of the cloud, and the roles that nodes play.

Owns the commands and queries about them. Home edges are made at creation and never change; further edges come and go.

INV-CPS-1: names of compartments are unique in the cloud, and the graph has no cycle.
INV-CPS-2: what lies beneath a compartment one may not touch is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph, impact, lookup, standing
from compartments.destroying import state_of
from compartments.facts.places import CompartmentContained, CompartmentCreated, CompartmentParted
from compartments.rows import Cloud, Compartment, Containment, Node
from compartments.world import World
from enjin.errors import Invalid, Refused

SUMMARY_CHARACTERS_MAX: Final = 200
DEPTH_MAX: Final = 16
Kind = Literal["site", "rack", "power", "network", "environment"]


class TooDeep(Refused):
    """Homes would be nested too deep."""

    code = "E-CMP-004"


class NotContained(Refused):
    """There is no such further edge."""

    code = "E-CMP-005"
    remedy = "a home never changes; only what `compartment.contain` made can be parted"


class CreateCompartment(Command, kind="compartment.create", kw_only=True):
    """Make a compartment: a site, rack, power feed, network, or a tenant's environment.

    Fields:
        parent: Its home, by name or id; the cloud itself when empty.
    """

    name: str
    kind: Kind = "environment"
    parent: str = ""
    summary: str = ""


class ContainCompartment(Command, kind="compartment.contain"):
    """Let a compartment or node also lie in another compartment; its home and its authority stay."""

    compartment: str
    child: str


class PartCompartment(Command, kind="compartment.part"):
    """Undo what compartment.contain did."""

    compartment: str
    child: str


class ListCompartments(Query, kind="compartment.list"):
    """The compartments that lie in one, or all of them."""

    compartment: str = ""


class ShowCompartment(Query, kind="compartment.show", kw_only=True):
    """One compartment: where it lies, what lies in it, and the sum of it."""

    compartment: str


def place_id(world: World, text: str) -> str:
    """Return the id of the compartment that *text* names, for permission checks; "" stands for the whole cloud."""
    row = world.get(Compartment, text) or world.first(Compartment, name=text)
    return row.id if row is not None else ""


def root(world: World) -> Compartment:
    """Return the cloud's own compartment. Raises: NoSuchCompartment."""
    cloud = next(iter(world.all(Cloud)), None)
    return lookup.compartment(world, cloud.compartment if cloud is not None else "")


def create(wish: CreateCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Make a compartment. Raises: BadName, NameTaken, NoSuchCompartment, BeingDestroyed, TooDeep, Invalid."""
    name = lookup.fresh_name(world, Compartment, wish.name)
    parent = lookup.open_compartment(world, wish.parent) if wish.parent else root(world)
    if len(graph.home_path(world, parent.id)) >= DEPTH_MAX:
        raise TooDeep(f"homes are nested at most {DEPTH_MAX} deep")
    if len(wish.summary) > SUMMARY_CHARACTERS_MAX:
        raise Invalid(f"a summary has at most {SUMMARY_CHARACTERS_MAX} characters")
    yield CompartmentCreated(id=at.id(0, "c"), name=name, sort=wish.kind, parent=parent.id, summary=wish.summary, time=at.time)


def created(wish: CreateCompartment, world: World, _at: Moment) -> object:
    """Return the new compartment's line."""
    return line(world, lookup.compartment(world, wish.name))


def contain(wish: ContainCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Add a further edge. Raises: NoSuchCompartment, BeingDestroyed, NoSuchNode, WouldCycle, AlreadyThere, Forbidden."""
    parent, child = lookup.open_compartment(world, wish.compartment), _child(world, wish.child)
    standing.require(world, at.asker, child)
    graph.check_edge(world, parent.id, child)
    yield CompartmentContained(parent=parent.id, child=child)


def part(wish: PartCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Remove a further edge. Raises: NoSuchCompartment, NoSuchNode, NotContained, Forbidden."""
    parent, child = lookup.compartment(world, wish.compartment), _child(world, wish.child)
    standing.require(world, at.asker, child)
    if world.get(Containment, parent.id, child) is None:
        raise NotContained(f"{wish.child} does not lie in {parent.name} by a further edge")
    yield CompartmentParted(parent=parent.id, child=child)


def _child(world: World, text: str) -> str:
    """Return the id of the compartment or node that *text* names; a compartment comes first."""
    is_node = world.get(Node, text) is not None or bool(world.find(Node, label=text))
    if is_node and not world.find(Compartment, name=text):
        return lookup.node(world, text).id
    return lookup.compartment(world, text).id


def line(world: World, row: Compartment) -> dict[str, Any]:
    """Return a compartment as it is listed."""
    parent = world.get(Compartment, row.parent)
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "parent": parent.name if parent is not None else "",
        "path": graph.path_text(world, row.id),
        "summary": row.summary,
        "state": state_of(world, row.id),
        "created": row.created,
    }


def list_compartments(query: ListCompartments, world: World, asker: Asker) -> list[dict[str, Any]]:
    """Return the compartments in one (itself first), or all, as far as the asker's bound reaches."""
    rows = world.all(Compartment)
    if query.compartment:
        start = lookup.compartment(world, query.compartment)
        inside = {start.id, *graph.descendants(world, start.id)}
        rows = [row for row in rows if row.id in inside]
    lines = [line(world, row) for row in rows if standing.covers(world, asker, row.id)]
    return sorted(lines, key=lambda one: one["path"])


def show(query: ShowCompartment, world: World, asker: Asker) -> dict[str, Any]:
    """Return one compartment with what it lies in, what lies in it, and its roll-up. Raises: NoSuchCompartment."""
    row = lookup.compartment(world, query.compartment)
    standing.require(world, asker, row.id)
    return line(world, row) | {
        "in": [_name(world, one) for one in graph.parents(world, row.id)],
        "holds": [_name(world, one) for one in graph.children(world, row.id)],
        "sum": impact.roll_up(world, row.id),
    }


def _name(world: World, identity: str) -> dict[str, str]:
    place, node = world.get(Compartment, identity), world.get(Node, identity)
    name = place.name if place is not None else node.label if node is not None else ""
    return {"id": identity, "name": name, "kind": place.kind if place is not None else "node"}


TABLE: Final = (
    Rule(CreateCompartment, create, allow=Role.OPERATOR, compartment=lambda wish, world: place_id(world, wish.parent), result=created),
    Rule(ContainCompartment, contain, allow=Role.OPERATOR, compartment=lambda wish, world: place_id(world, wish.compartment)),
    Rule(PartCompartment, part, allow=Role.OPERATOR, compartment=lambda wish, world: place_id(world, wish.compartment)),
    Question(ListCompartments, list_compartments, compartment=lambda query, world: place_id(world, query.compartment)),
    Question(ShowCompartment, show, compartment=lambda query, world: place_id(world, query.compartment)),
)

"""The graph of compartments and nodes: what lies in what, what fails with what, and how much is where.

Owns the questions about it. Edges are homes (one each, along which authority runs) and containments (as many as you like,
for placement, impact and figures). Pure; results are in the order of ids.

INV-GRF-1: the edges form no cycle; ``check_edge`` refuses one before it becomes true.
INV-GRF-2: authority asks ``within`` and ``home_path``, which follow homes alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from compartments.rows import Compartment, Containment, Node
from compartments.world import World
from enjin.errors import Refused, invariant

HOME_DEPTH_MAX: Final = 32


class WouldCycle(Refused):
    """Something would lie in itself."""

    code = "E-CMP-002"


class AlreadyThere(Refused):
    """The edge exists."""

    code = "E-CMP-003"
    http_status = 409


def parents(world: World, identity: str) -> list[str]:
    """Return the compartments in which compartment or node *identity* lies directly: its home first."""
    row = world.get(Compartment, identity)
    if row is not None:
        home = row.parent
    else:
        node = world.get(Node, identity)
        home = node.compartment if node is not None else ""
    further = [edge.parent for edge in world.find(Containment, child=identity) if edge.parent != home]
    return [home, *further] if home else further


def children(world: World, identity: str) -> list[str]:
    """Return the compartments and nodes that lie directly in compartment *identity*."""
    found = {row.id for row in world.find(Compartment, parent=identity)}
    found.update(node.id for node in world.find(Node, compartment=identity))
    found.update(edge.child for edge in world.find(Containment, parent=identity))
    return sorted(found)


def ancestors(world: World, identity: str) -> list[str]:
    """Return everything that *identity* lies in, however far up, without itself."""
    return sorted(_reach([identity], lambda one: parents(world, one)) - {identity})


def descendants(world: World, identity: str) -> list[str]:
    """Return everything that lies in *identity*, however deep, without itself."""
    return sorted(_reach([identity], lambda one: children(world, one)) - {identity})


def _reach(start: Iterable[str], step: Callable[[str], Iterable[str]]) -> set[str]:
    found = set(start)
    pending = deque(sorted(found))
    while pending:
        for one in step(pending.popleft()):
            if one not in found:
                found.add(one)
                pending.append(one)
    return found


def check_edge(world: World, parent: str, child: str) -> None:
    """Check that *child* may be contained in *parent*.

    Raises:
        WouldCycle: *parent* is *child* or lies in it.
        AlreadyThere: It lies there directly already.
    """
    if parent == child or parent in descendants(world, child):
        raise WouldCycle(f"{child} cannot lie in {parent}, which is it or lies in it")
    if parent in parents(world, child):
        raise AlreadyThere(f"{child} lies in {parent} already")


def home_path(world: World, identity: str) -> tuple[Compartment, ...]:
    """Return the homes of compartment or node *identity*, the cloud first, *identity* itself last if it is a compartment."""
    path: list[Compartment] = []
    node = world.get(Node, identity)
    step = node.compartment if node is not None else identity
    while step and (row := world.get(Compartment, step)) is not None:
        path.append(row)
        step = row.parent
        invariant(len(path) <= HOME_DEPTH_MAX, "homes are nested too deep or form a cycle", compartment=identity)
    return tuple(reversed(path))


def path_text(world: World, identity: str) -> str:
    """Return the home path as names: ``cloud/site/rack``, the form in which grants name compartments."""
    return "/".join(row.name for row in home_path(world, identity))


def at_path(world: World, path: str) -> Compartment | None:
    """Return the compartment whose ``path_text`` is *path*, or None."""
    for row in world.find(Compartment, name=path.rpartition("/")[2]):
        if path_text(world, row.id) == path:
            return row
    return None


def within(world: World, identity: str, home: str) -> bool:
    """Whether compartment or node *identity* is compartment *home* or has its home in it."""
    return any(row.id == home for row in home_path(world, identity))


def nearest(world: World, identity: str, kind: str) -> str:
    """Return the nearest home of *identity* that is of *kind*; "" when there is none."""
    return next((row.id for row in reversed(home_path(world, identity)) if row.kind == kind), "")


def locate(world: World, text: str) -> str:
    """Return the path of the compartment that *text* names by id, name or path; *text* itself where there is none."""
    row = world.get(Compartment, text) or (None if "/" in text else world.first(Compartment, name=text))
    return path_text(world, row.id) if row is not None else text

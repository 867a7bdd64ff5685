"""The daemons of a group: who should answer when it is asked, known before it is asked.

Owns the question and its answer's shape, the same in ring 0 (for itself and ring 1) and in ring 1 (for its agents), what a
person's words for a group mean, and which groups a node of the world is in. Pure.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from bus.groups import EVERYBODY, group, groups_of, is_group
from bus.messages import Query
from compartments import graph, lookup
from compartments.rows import Node, NodeTier
from compartments.world import World
from enjin.errors import NotFound

RINGS: Final = {"ring0": 0, "ring1": 1, "ring2": 2}
_AGENT: Final = re.compile(r"a-[0-9a-f]{16}")


class NoSuchGroup(NotFound):
    """There is no compartment, tier, ring or daemon of this name."""

    code = "E-GRP-002"
    remedy = "`enjin compartment list`, `enjin tier list` and `enjin node list` name them; `all` is everybody"


class ListDaemons(Query, kind="daemon.list", kw_only=True):
    """The daemons that should answer when a group is asked: *where* is a group, compartment, tier, ring or node."""

    where: str = EVERYBODY


class Daemon(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One daemon: its id, what people call it, its ring, and the domain on whose channel it hears.

    ``grant`` is its grant's frame as base64url, where the cloud's directory does not have it.
    """

    id: str
    label: str
    ring: int
    domain: str
    grant: str = ""


class Listed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: the group's name, for the audience, and who is in it."""

    group: str
    daemons: tuple[Daemon, ...] = ()


def resolve(world: World, words: str) -> str:
    """Return the group that *words* mean. Raises: NoSuchGroup, Ambiguous."""
    if is_group(words):
        return words
    if words in ("", "all"):
        return EVERYBODY
    if words in RINGS:
        return group("ring", RINGS[words])
    for kind, find in (("compartment", lookup.compartment), ("tier", lookup.tier), ("node", lookup.node)):
        try:
            return group(kind, find(world, words).id)  # type: ignore[operator]
        except NotFound:
            continue
    if _AGENT.fullmatch(words):
        return group("node", words)
    raise NoSuchGroup(f"nothing is called {words[:60]!r}")


def groups_of_node(world: World, node: str) -> frozenset[str]:
    """Return the groups that *node* is in, as *world* has it: its own, its ring's, its compartments', its tiers'."""
    row = world.get(Node, node)
    if row is None:
        return frozenset()
    tiers = [one.tier for one in world.find(NodeTier, node=node)]
    return groups_of(node, row.ring, compartments=graph.ancestors(world, node), tiers=tiers)

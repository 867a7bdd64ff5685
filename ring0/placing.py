"""Placing a node: where a new ring 1 node goes, and the address, block and uids that it gets.

Owns ``node.place``. Everything is chosen here and stands in the facts, so that carrying it out leaves no choice.

INV-PLA-1: no two nodes of a cloud share a block of uids at one time. INV-PLA-2: a node is placed whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from bus.messages import Command, Fact, Moment
from compartments import lookup, placement
from compartments.facts.networks import BlockDelegated
from compartments.facts.nodes import UID_RANGES, NodePlaced
from compartments.facts.places import TierAssigned
from compartments.rows import AddressBlock, Cloud, Counter, Network, Node, Tier
from compartments.world import World
from enjin.errors import Refused
from ring0 import addresses

UID_RANGE: Final = 65_536
INFRASTRUCTURE: Final = "infrastructure"


class OutOfUids(Refused):
    """Every block of uids is a node's."""

    code = "E-NOD-004"
    remedy = "remove a node first: `enjin node remove`"


class OutOfBlocks(Refused):
    """No block of addresses is set aside for another ring 1 node."""

    code = "E-NOD-006"
    remedy = "set one aside: `enjin network delegate`"


class PlaceNode(Command, kind="node.place", kw_only=True):
    """Want a ring 1 node: where, by which strategy, with which address and uids.

    Fields:
        compartment: Where it should lie; empty: where its supervisor does.
        supervisor: The node that is to run it; empty: chosen by placement.
        network: Where it gets its first address; empty: the first network.
        address: The address asked for; empty: the next free one.
        uid_range: Number of the block of uids asked for; -1: the next free one. Only jails have one.
    """

    label: str
    strategy: Literal["vm", "jail", "process"]
    compartment: str = ""
    supervisor: str = ""
    network: str = ""
    address: str = ""
    uid_range: int = -1


def place(wish: PlaceNode, world: World, at: Moment) -> Iterator[Fact]:
    """Want a new node.

    Raises:
        BadName, NameTaken, NoSuchCompartment, NoSuchNode, NowhereToGo, OutOfUids, OutOfBlocks, and what assigning refuses.
    """
    label = lookup.fresh_name(world, Node, wish.label)
    supervisor, home = _where(wish, world)
    number = _uid_range(wish, world) if wish.strategy == "jail" else -1
    cloud = next(iter(world.all(Cloud)))
    node = at.id(0, "n")
    yield NodePlaced(
        node=node,
        ring=1,
        label=label,
        compartment=home,
        strategy=wish.strategy,
        supervisor=supervisor,
        generation=1,
        uid=cloud.first_uid + number * UID_RANGE if number >= 0 else -1,
        uid_range=UID_RANGE if number >= 0 else 0,
        range_index=number,
        time=at.time,
    )
    network = lookup.network(world, wish.network) if wish.network else next(iter(world.all(Network)), None)
    if network is None:
        raise lookup.NoSuchNetwork("there is no network yet")
    yield addresses.give(world, network, node, at, address=wish.address)
    block = next((row for row in world.find(AddressBlock, domain="")), None)
    if block is None:
        raise OutOfBlocks("no block of addresses is set aside for another ring 1 node")
    yield BlockDelegated(network=block.network, domain=node, ipv4=block.ipv4, ipv6=block.ipv6)
    tier = world.first(Tier, name=INFRASTRUCTURE)
    if tier is not None:
        yield TierAssigned(node=node, tier=tier.id)


def _where(wish: PlaceNode, world: World) -> tuple[str, str]:
    """Return the supervisor and the home of the node that is wished for."""
    asked = lookup.open_compartment(world, wish.compartment).id if wish.compartment else ""
    if wish.supervisor:
        supervisor = lookup.node(world, wish.supervisor)
        if supervisor.ring != 0:
            raise Refused(f"node {supervisor.label} is of ring {supervisor.ring} and cannot run a ring 1 node")
        return supervisor.id, asked or supervisor.compartment
    tier = world.first(Tier, name=INFRASTRUCTURE)
    found = placement.place(world, placement.Need(ring=1, compartment=asked, tier=tier.id if tier is not None else ""))
    return found.supervisor, found.compartment


def _uid_range(wish: PlaceNode, world: World) -> int:
    """Return the number of a free block of uids: the next after the last one given, so that a freed one rests longest."""
    cloud = next(iter(world.all(Cloud)), None)
    if cloud is None or cloud.first_uid < 0:
        raise OutOfUids("this cloud has no block of uids", hint="use strategy process, or raise the cloud as root")
    held = {(node.uid - cloud.first_uid) // UID_RANGE for node in world.all(Node) if node.uid >= 0}
    if wish.uid_range >= 0:
        if wish.uid_range in held or not 0 < wish.uid_range < cloud.uid_blocks:
            raise OutOfUids(f"block {wish.uid_range} of uids is a node's, or not this cloud's")
        return wish.uid_range
    counter = world.get(Counter, UID_RANGES)
    last = counter.value if counter is not None else 0
    around = [1 + (last + step) % (cloud.uid_blocks - 1) for step in range(cloud.uid_blocks - 1)] if cloud.uid_blocks > 1 else []
    number = next((one for one in around if one not in held), None)
    if number is None:
        raise OutOfUids(f"all {cloud.uid_blocks} blocks of uids are taken")
    return number

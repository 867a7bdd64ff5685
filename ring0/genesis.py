"""Genesis: the first command of ring 0's journal, from which everything else follows.

Owns ``cloud.found`` and what it makes true: the first compartments, tiers, network, node, account and keys. Makes no key
and no id of its own will: keys and the ids they name come in the wish (``foundation``), the rest follows from the request.

INV-GEN-1: a cloud is founded once. INV-GEN-2: the same wish under the same request gives the same facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from bus.messages import Command, Fact, Moment, Role, Rule
from compartments import addressing
from compartments.facts.accounts import AccountCreated, RoleNamed
from compartments.facts.networks import AddressAssigned, BlockDelegated, NetworkCreated
from compartments.facts.nodes import NodePlaced, NodeSeen
from compartments.facts.places import CloudFounded, CompartmentCreated, EndpointSet, TierAssigned, TierCreated
from compartments.row import CompartmentKind
from compartments.rows import Cloud, Compartment, Network
from compartments.world import World
from enjin.errors import Conflict, Invalid
from enjin.names import CloudId, Name, NodeId
from ring0.keys import read_enrolled

TIERS: Final = (
    ("meta", "runs ring 0"),
    ("infrastructure", "runs ring 1"),
    ("web", "serves apps"),
)
ROLES: Final = (
    ("operator", Role.OPERATOR, "runs the cloud, or a compartment of it"),
    ("tenant", Role.TENANT, "runs apps in a compartment"),
)
DEFAULT: Final = "default"
RESERVED: Final = 2
LOOPBACK6: Final = "::1/128"
UID_RANGE: Final = 65_536


class AlreadyFounded(Conflict):
    """The cloud exists."""

    code = "E-GEN-001"


class Listener(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A public listener of the cloud: ``api0``, ``api1`` or ``router``."""

    name: str
    address: str
    port: int
    ring: int = 0


class FoundCloud(Command, kind="cloud.found", kw_only=True):
    """Begin a cloud: its first places, tiers, network, node, operator and keys.

    Fields:
        node: Ring 0's own node, as its grant names it.
        operator: The first account's id, as its grant names it.
        grants: Frames (base64url) of the grants made at genesis, parents first.
        ipv6: "" takes the first /64 of the unique local /48 that follows from the cloud's id; ``none`` for a network without.
        blocks: Parts of the network set aside for ring 1 nodes, one each.
        first_uid: First of *uid_blocks* blocks of 65,536 host uids; block 0 is ring 0's own. -1: everything runs as one user.
    """

    cloud: CloudId
    name: str = "cloud"
    site: str = "site"
    rack: str = "rack"
    node: NodeId
    label: str = "ring0"
    operator: NodeId
    operator_name: str = "operator"
    grants: tuple[str, ...]
    network: str = "fabric"
    ipv4: str = "10.80.0.0/16"
    ipv6: str = ""
    blocks: tuple[str, ...] = ("10.80.64.0/18",)
    listeners: tuple[Listener, ...] = ()
    first_uid: int = -1
    uid_blocks: int = 0


def found(wish: FoundCloud, world: World, at: Moment) -> Iterator[Fact]:
    """Found the cloud. Raises: AlreadyFounded, Invalid, BadAddress, OutsideNetwork, GrantRefused."""
    for cloud in world.all(Cloud):
        raise AlreadyFounded(f"cloud {cloud.id[:6]} was founded already")
    names = tuple(Name.parse(name) for name in (wish.name, wish.site, wish.rack, DEFAULT))
    Name.parse(wish.network)
    Name.parse(wish.operator_name)
    if len(set(names)) != len(names):
        raise Invalid(f"cloud, site and rack need different names, none of them {DEFAULT}")
    root, rack = at.id(0, "c"), at.id(2, "c")
    yield CloudFounded(
        cloud=wish.cloud, name=wish.name, compartment=root, first_uid=wish.first_uid, uid_blocks=wish.uid_blocks, time=at.time
    )
    yield from _places(wish, at)
    for ordinal, (name, summary) in enumerate(TIERS):
        yield TierCreated(id=at.id(10 + ordinal, "t"), name=name, summary=summary, time=at.time)
    yield NodePlaced(
        node=wish.node,
        ring=0,
        label=wish.label,
        compartment=rack,
        strategy="host",
        generation=1,
        uid=wish.first_uid,
        uid_range=UID_RANGE if wish.first_uid >= 0 else 0,
        range_index=0 if wish.first_uid >= 0 else -1,
        time=at.time,
    )
    yield NodeSeen(node=wish.node, generation=1, state="running", reason="founded the cloud", time=at.time)
    yield TierAssigned(node=wish.node, tier=at.id(10, "t"))
    yield from _network(wish, root, world, at)
    for name, level, summary in ROLES:
        yield RoleNamed(name=name, level=int(level), summary=summary)
    yield AccountCreated(id=wish.operator, name=wish.operator_name, compartment=root, role="operator", time=at.time)
    for frame in wish.grants:
        enrolled = read_enrolled(frame, wish.cloud, at)
        if enrolled.subject not in (wish.node, wish.operator):
            raise Invalid(f"a grant at genesis is for ring 0 or the first operator, not for {enrolled.subject}")
        yield enrolled
    for listener in wish.listeners:
        yield EndpointSet(name=listener.name, address=listener.address, port=listener.port, ring=listener.ring)


def _places(wish: FoundCloud, at: Moment) -> Iterator[Fact]:
    root, site = at.id(0, "c"), at.id(1, "c")
    kinds: tuple[tuple[str, CompartmentKind, str, str], ...] = (
        (wish.name, "cloud", "", "everything"),
        (wish.site, "site", root, "the first site"),
        (wish.rack, "rack", site, "the first rack"),
        (DEFAULT, "environment", root, "where apps run that name no other compartment"),
    )
    for ordinal, (name, kind, parent, summary) in enumerate(kinds):
        yield CompartmentCreated(id=at.id(ordinal, "c"), name=name, sort=kind, parent=parent, summary=summary, time=at.time)


def _network(wish: FoundCloud, root: str, world: World, at: Moment) -> Iterator[Fact]:
    """Yield the first network, ring 0's own address in it (the gateway), and what is set aside for ring 1 nodes."""
    ipv6 = {"": addressing.local_range6(wish.cloud), "none": ""}.get(wish.ipv6, wish.ipv6)
    network = Network(id=at.id(20, "net"), name=wish.network, compartment=root, ipv4=wish.ipv4, ipv6=ipv6, reserved=RESERVED)
    addressing.check_ranges(world, network)
    gateway = addressing.pair_at(network, 1)
    yield NetworkCreated(
        id=network.id,
        name=network.name,
        compartment=root,
        ipv4=network.ipv4,
        ipv6=network.ipv6,
        gateway4=gateway.ipv4,
        gateway6=gateway.ipv6,
        reserved=RESERVED,
        time=at.time,
    )
    yield AddressAssigned(network=network.id, offset=1, node=wish.node, name="eth0", ipv4=gateway.ipv4, ipv6=gateway.ipv6, time=at.time)
    for text in wish.blocks:
        block = addressing.block_at(network, text)
        yield BlockDelegated(network=network.id, domain="", ipv4=block.ipv4, ipv6=block.ipv6)


def founded(wish: FoundCloud, world: World, _at: Moment) -> object:
    """Return what a founder wants to know next."""
    return {"cloud": wish.cloud, "node": wish.node, "compartments": {row.name: row.id for row in world.all(Compartment)}}


TABLE: Final = (Rule(FoundCloud, found, allow=Role.SUPERVISOR, result=founded),)

"""Networks and addresses: which ranges there are, who has which address, what is delegated to ring 1.

Owns the commands and queries about them; which address is free is ``compartments.addressing``'s matter. Assigning an
address configures nothing by itself: the node's next start does.

INV-ADD-1: a node's first address (``eth0``) stays while the node is wanted running.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import addressing, lookup
from compartments.facts.networks import AddressAssigned, AddressReleased, BlockDelegated, NetworkCreated
from compartments.rows import AddressBlock, Cloud, Network, NetworkInterface, Node
from compartments.world import World
from enjin.errors import Invalid, Refused
from enjin.names import shorten
from ring0 import compartments as places

RESERVED_MIN: Final = 2
RESERVED_MAX: Final = 1_024
FIRST_INTERFACE: Final = "eth0"
INTERFACES_MAX: Final = 16
INTERFACE_CHARACTERS_MAX: Final = 15


class InterfaceTaken(Refused):
    """The node has an interface of that name, or too many."""

    code = "E-ADR-008"
    http_status = 409


class AddressInUse(Refused):
    """The node needs the address to run."""

    code = "E-ADR-009"
    http_status = 409
    remedy = "stop the node first: `enjin node stop`"


class CreateNetwork(Command, kind="network.create", kw_only=True):
    """Make a network: a range of IPv4 addresses and, side by side, one of IPv6.

    Fields:
        ipv6: "" takes the next free /64 of the cloud's own range; ``none`` for a network without.
        compartment: Where it lies, by name or id; the cloud itself when empty.
        reserved: How many addresses from the start are never given away.
    """

    name: str
    ipv4: str
    ipv6: str = ""
    compartment: str = ""
    reserved: int = RESERVED_MIN


class DelegateBlock(Command, kind="network.delegate", kw_only=True):
    """Set a part of a network aside for a ring 1 node, which gives out its addresses alone.

    Fields:
        node: Whose it is; empty: the next ring 1 node's.
    """

    network: str
    ipv4: str
    ipv6: str = ""
    node: str = ""


class AssignAddress(Command, kind="address.assign", kw_only=True):
    """Give a node an address in a network: the next free one, or the one asked for; IPv4 and IPv6 come together.

    Fields:
        address: An IPv4 or IPv6 address; empty: the next free one.
        interface: The interface that gets it; empty: the next ``eth``.
    """

    network: str
    node: str
    address: str = ""
    interface: str = ""


class ReleaseAddress(Command, kind="address.release"):
    """Take an address (and the one beside it) back."""

    address: str


class ListNetworks(Query, kind="network.list"):
    """The networks and how full they are."""


class ListAddresses(Query, kind="address.list", kw_only=True):
    """Who has which address, in one network or all, of one node or all."""

    network: str = ""
    node: str = ""


def create(wish: CreateNetwork, world: World, at: Moment) -> Iterator[Fact]:
    """Make a network. Raises: BadName, NameTaken, NoSuchCompartment, BadAddress, AddressTaken, Invalid."""
    name = lookup.fresh_name(world, Network, wish.name)
    place = lookup.open_compartment(world, wish.compartment) if wish.compartment else places.root(world)
    if not RESERVED_MIN <= wish.reserved <= RESERVED_MAX:
        raise Invalid(f"a network reserves {RESERVED_MIN} to {RESERVED_MAX} addresses")
    ipv4 = str(addressing.range4(wish.ipv4))
    ipv6 = "" if wish.ipv6 == "none" else str(addressing.range6(wish.ipv6)) if wish.ipv6 else _free_range6(world)
    network = Network(id=at.id(0, "net"), name=name, compartment=place.id, ipv4=ipv4, ipv6=ipv6, reserved=wish.reserved)
    if wish.reserved >= addressing.range4(ipv4).num_addresses - 1:
        raise Invalid(f"network {ipv4} has no room for {wish.reserved} reserved addresses")
    addressing.check_ranges(world, network)
    gateway = addressing.pair_at(network, 1)
    yield NetworkCreated(
        id=network.id,
        name=name,
        compartment=place.id,
        ipv4=ipv4,
        ipv6=ipv6,
        gateway4=gateway.ipv4,
        gateway6=gateway.ipv6,
        reserved=wish.reserved,
        time=at.time,
    )


def _free_range6(world: World) -> str:
    """Return the first /64 of the cloud's unique local range that no network overlaps."""
    cloud = next(iter(world.all(Cloud)), None)
    if cloud is None:
        return ""
    taken = [addressing.range6(network.ipv6) for network in world.all(Network) if network.ipv6]
    for number in range(len(taken) + 1):
        candidate = addressing.local_range6(cloud.id, number)
        if not any(addressing.range6(candidate).overlaps(other) for other in taken):
            return candidate
    raise addressing.OutOfRoom("the cloud has no free IPv6 range")


def delegate(wish: DelegateBlock, world: World, _at: Moment) -> Iterator[Fact]:
    """Set a block aside. Raises: NoSuchNetwork, NoSuchNode, BadAddress, OutsideNetwork, AddressTaken, AddressReserved."""
    network = lookup.network(world, wish.network)
    domain = lookup.node(world, wish.node).id if wish.node else ""
    block = addressing.block_at(network, wish.ipv4, wish.ipv6)
    inner = addressing.range4(block.ipv4)
    for other in world.find(AddressBlock, network=network.id):
        if inner.overlaps(addressing.range4(other.ipv4)):
            raise addressing.AddressTaken(f"{inner} overlaps block {other.ipv4} of {other.domain or 'nobody yet'}")
    first = int(inner.network_address) - int(addressing.range4(network.ipv4).network_address)
    if first < network.reserved:
        raise addressing.AddressReserved(f"{inner} holds reserved addresses of network {network.name}")
    for interface in world.find(NetworkInterface, network=network.id):
        if first <= interface.offset < first + inner.num_addresses:
            raise addressing.AddressTaken(f"{interface.ipv4} in {inner} belongs to node {interface.node}")
    yield BlockDelegated(network=network.id, domain=domain, ipv4=block.ipv4, ipv6=block.ipv6)


def assign(wish: AssignAddress, world: World, at: Moment) -> Iterator[Fact]:
    """Assign an address.

    Raises:
        NoSuchNetwork, NoSuchNode, InterfaceTaken, OutOfRoom, BadAddress, OutsideNetwork, AddressReserved, AddressTaken.
    """
    network, node = lookup.network(world, wish.network), lookup.node(world, wish.node)
    yield give(world, network, node.id, at, address=wish.address, interface=wish.interface)


def give(world: World, network: Network, node: str, at: Moment, *, address: str = "", interface: str = "") -> AddressAssigned:
    """Return the fact that gives *node* an address; a part of other decisions too. Raises: as ``assign``."""
    names = {row.name for row in world.find(NetworkInterface, node=node)}
    name = interface or next((f"eth{number}" for number in range(INTERFACES_MAX) if f"eth{number}" not in names), "")
    if not name or name in names or len(names) >= INTERFACES_MAX:
        raise InterfaceTaken(f"node {node} has {f'an interface {name}' if name else f'{INTERFACES_MAX} interfaces'} already")
    if not name.isascii() or not name.isalnum() or len(name) > INTERFACE_CHARACTERS_MAX:
        raise Invalid(f"{shorten(name)!r} is not an interface's name", hint="use letters and digits, such as eth1")
    pair = addressing.claim(world, network, address) if address else addressing.next_free(world, network)
    return AddressAssigned(network=network.id, offset=pair.offset, node=node, name=name, ipv4=pair.ipv4, ipv6=pair.ipv6, time=at.time)


def release(wish: ReleaseAddress, world: World, _at: Moment) -> Iterator[Fact]:
    """Take an address back. Raises: BadAddress, NoSuchAddress, AddressReserved, AddressInUse."""
    interface = addressing.holder_of(world, wish.address)
    network, node = world.need(Network, interface.network), world.get(Node, interface.node)
    if interface.offset < network.reserved:
        raise addressing.AddressReserved(f"{wish.address} is reserved in network {network.name}")
    if node is not None and node.wanted == "running" and interface.name == FIRST_INTERFACE:
        raise AddressInUse(f"node {node.label} is wanted running and has no other first address")
    yield AddressReleased(network=interface.network, offset=interface.offset)


def assigned(wish: AssignAddress, world: World, at: Moment) -> object:
    """Return the interface that the wish made: the node's newest."""
    node = lookup.node(world, wish.node)
    newest = max(world.find(NetworkInterface, node=node.id), key=lambda row: (row.since == at.time, row.since, row.name))
    return line(world, newest)


def line(world: World, row: NetworkInterface) -> dict[str, Any]:
    """Return an address as it is listed."""
    network, node = world.need(Network, row.network), world.get(Node, row.node)
    return {
        "network": network.name,
        "ipv4": row.ipv4,
        "ipv6": row.ipv6,
        "node": row.node,
        "label": node.label if node is not None else "",
        "interface": row.name,
        "since": row.since,
    }


def network_line(world: World, row: Network) -> dict[str, Any]:
    """Return a network as it is listed; ``free`` is what can still be given out here."""
    delegated = addressing.blocks(world, row)
    room = addressing.range4(row.ipv4).num_addresses - row.reserved - 1 - sum(after - first for first, after in delegated)
    return {
        "id": row.id,
        "name": row.name,
        "compartment": row.compartment,
        "ipv4": row.ipv4,
        "ipv6": row.ipv6,
        "gateway4": row.gateway4,
        "gateway6": row.gateway6,
        "used": row.used,
        "free": max(0, room - row.used),
        "blocks": [{"ipv4": block.ipv4, "ipv6": block.ipv6, "domain": block.domain} for block in world.find(AddressBlock, network=row.id)],
    }


def list_networks(_query: ListNetworks, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return every network, by name."""
    return sorted((network_line(world, row) for row in world.all(Network)), key=lambda one: str(one["name"]))


def list_addresses(query: ListAddresses, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return the addresses that are given out, by network and offset. Raises: NoSuchNetwork, NoSuchNode."""
    wanted: dict[str, Any] = {}
    if query.network:
        wanted["network"] = lookup.network(world, query.network).id
    if query.node:
        wanted["node"] = lookup.node(world, query.node).id
    return [line(world, row) for row in world.find(NetworkInterface, **wanted)]


def created(wish: CreateNetwork, world: World, _at: Moment) -> object:
    """Return the new network's line."""
    return network_line(world, lookup.network(world, wish.name))


TABLE: Final = (
    Rule(CreateNetwork, create, allow=Role.OPERATOR, result=created),
    Rule(DelegateBlock, delegate, allow=Role.OPERATOR),
    Rule(AssignAddress, assign, allow=Role.OPERATOR, result=assigned),
    Rule(ReleaseAddress, release, allow=Role.OPERATOR, urgent=True),
    Question(ListNetworks, list_networks, allow=Role.OPERATOR),
    Question(ListAddresses, list_addresses, allow=Role.OPERATOR),
)

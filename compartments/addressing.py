"""Which addresses are whose: pairs of IPv4 and IPv6 by their offset in a network, and which one is free.

Owns the arithmetic and the choice. Pure: what was chosen becomes true by a fact. The search goes on after the address that was
given last, so an address that was released rests as long as the network has others.

INV-ADR-1: an address belongs to one interface at most. INV-ADR-2: nothing reserved, delegated or outside is ever chosen.
INV-ADR-3: the search looks at each taken address and each delegated block at most twice.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final, NamedTuple

from compartments.rows import AddressBlock, Network, NetworkInterface
from compartments.world import World
from enjin.errors import Invalid, NotFound, Refused
from enjin.names import shorten

IPV4_PREFIX_MAX: Final = 30
IPV4_PREFIX_MIN: Final = 8

Range4 = ipaddress.IPv4Network
Range6 = ipaddress.IPv6Network


class OutOfRoom(Refused):
    """A network has no free address."""

    code = "E-ADR-002"
    remedy = "release an address, or create a larger network"


class AddressTaken(Refused):
    """An address belongs to somebody."""

    code = "E-ADR-003"
    http_status = 409


class OutsideNetwork(Refused):
    """An address does not lie in the network."""

    code = "E-ADR-004"


class AddressReserved(Refused):
    """An address is the network's own, its gateway, or delegated."""

    code = "E-ADR-005"


class BadAddress(Invalid):
    """Text is not an address, or a range is not one that a network can have."""

    code = "E-ADR-006"
    remedy = "write addresses like 10.80.0.7 or fd00::7, ranges like 10.80.0.0/16 or fd00::/48"


class NoSuchAddress(NotFound):
    """An address belongs to nobody."""

    code = "E-ADR-007"
    remedy = "`enjin address list` shows who has which"


class Pair(NamedTuple):
    """The addresses at one offset of a network; *ipv6* is empty where it has none."""

    offset: int
    ipv4: str
    ipv6: str


@lru_cache(maxsize=1024)
def range4(text: str) -> Range4:
    """Return the IPv4 range *text*. Raises: BadAddress."""
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise BadAddress(f"{shorten(text)!r} is not an IPv4 range: {error}") from error
    if not IPV4_PREFIX_MIN <= found.prefixlen <= IPV4_PREFIX_MAX:
        raise BadAddress(f"an IPv4 range has a prefix of {IPV4_PREFIX_MIN} to {IPV4_PREFIX_MAX}, not {found.prefixlen}")
    return found


@lru_cache(maxsize=1024)
def range6(text: str) -> Range6:
    """Return the IPv6 range *text*. Raises: BadAddress."""
    try:
        return ipaddress.IPv6Network(text)
    except ValueError as error:
        raise BadAddress(f"{shorten(text)!r} is not an IPv6 range: {error}") from error


def local_range6(cloud: str, number: int = 0) -> str:
    """Return the /64 with *number* of a cloud's unique local /48, whose global id is the first 40 bits of the cloud's.

    Source: RFC 4193, 3.1; the cloud's id is a SHA-256, so its bits are as good as random ones.
    """
    high = int("fd" + cloud[:10], 16)
    return str(ipaddress.IPv6Network((high << 80 | number << 64, 64)))


def pair_at(network: Network, offset: int) -> Pair:
    """Return the pair at *offset*, which lies in *network*; one whose IPv6 range is a single address shares it."""
    ipv4 = str(range4(network.ipv4)[offset])
    if not network.ipv6:
        return Pair(offset, ipv4, "")
    outer = range6(network.ipv6)
    return Pair(offset, ipv4, str(outer[0 if is_shared(outer) else offset]))


def is_shared(outer: Range6) -> bool:
    """Whether every interface of a network has the same IPv6 address (loopback's; ports tell them apart)."""
    return outer.num_addresses == 1


def offset_of(network: Network, text: str) -> int:
    """Return where address *text* (IPv4 or IPv6) lies in *network*.

    Raises:
        BadAddress: Not an address.
        OutsideNetwork: Not in it, or an IPv6 address without an IPv4 one beside it.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise BadAddress(f"{shorten(text)!r} is not an IP address") from error
    size = range4(network.ipv4).num_addresses
    start: Range4 | Range6 | None = range4(network.ipv4) if address.version == 4 else None
    if address.version == 6 and network.ipv6 and not is_shared(range6(network.ipv6)):
        start = range6(network.ipv6)
    offset = -1 if start is None else int(address) - int(start.network_address)
    if not 0 <= offset < size:
        ranges = " ".join(filter(None, (network.ipv4, network.ipv6)))
        raise OutsideNetwork(f"{address} does not lie in network {network.name} ({ranges})")
    return offset


def block_at(network: Network, ipv4: str, ipv6: str = "") -> AddressBlock:
    """Return the block that range *ipv4* of *network* makes; its IPv6 range lies beside it unless *ipv6* says otherwise.

    Raises:
        BadAddress, OutsideNetwork.
    """
    outer, inner = range4(network.ipv4), range4(ipv4)
    if not inner.subnet_of(outer):
        raise OutsideNetwork(f"{inner} does not lie in network {network.name} ({outer})")
    if not ipv6 and network.ipv6 and is_shared(range6(network.ipv6)):
        ipv6 = network.ipv6
    elif not ipv6 and network.ipv6:
        offset = int(inner.network_address) - int(outer.network_address)
        ipv6 = str(ipaddress.IPv6Network((int(range6(network.ipv6).network_address) + offset, 96 + inner.prefixlen)))
    elif ipv6 and not (network.ipv6 and range6(ipv6).subnet_of(range6(network.ipv6))):
        raise OutsideNetwork(f"{ipv6} does not lie in network {network.name} ({network.ipv6 or 'which has no IPv6'})")
    return AddressBlock(network=network.id, ipv4=str(inner), ipv6=ipv6)


def blocks(world: World, network: Network) -> list[tuple[int, int]]:
    """Return the (first, after last) offsets of what was delegated of *network*, in order."""
    start = int(range4(network.ipv4).network_address)
    ranges = [range4(block.ipv4) for block in world.find(AddressBlock, network=network.id)]
    return sorted((int(one.network_address) - start, int(one.broadcast_address) - start + 1) for one in ranges)


def next_free(world: World, network: Network) -> Pair:
    """Return the next free pair of *network*.

    Raises:
        OutOfRoom: Every address is taken, reserved or delegated.
    """
    end = range4(network.ipv4).num_addresses - 1
    delegated = blocks(world, network)
    start = min(max(network.next, network.reserved), end)
    for first, last in ((start, end), (network.reserved, start)):
        offset = first
        while offset < last:
            beyond = next((after for before, after in delegated if before <= offset < after), None)
            if beyond is not None:
                offset = beyond
            elif world.get(NetworkInterface, network.id, offset) is not None:
                offset += 1
            else:
                return pair_at(network, offset)
    raise OutOfRoom(f"network {network.name} ({network.ipv4}) has no free address", network=network.id)


def claim(world: World, network: Network, address: str) -> Pair:
    """Return the pair of *address* in *network* if it is free.

    Raises:
        BadAddress, OutsideNetwork.
        AddressReserved: It is the network's own, its gateway, its broadcast address, or delegated.
        AddressTaken: Somebody has it.
    """
    offset = offset_of(network, address)
    if offset < network.reserved or offset == range4(network.ipv4).num_addresses - 1:
        raise AddressReserved(f"{address} is reserved in network {network.name}")
    if any(first <= offset < after for first, after in blocks(world, network)):
        raise AddressReserved(f"{address} lies in a block of network {network.name} that was delegated")
    holder = world.get(NetworkInterface, network.id, offset)
    if holder is not None:
        raise AddressTaken(f"{address} belongs to node {holder.node}", node=holder.node)
    return pair_at(network, offset)


def holder_of(world: World, address: str) -> NetworkInterface:
    """Return the interface that has *address*. Raises: BadAddress, NoSuchAddress."""
    try:
        text = str(ipaddress.ip_address(address))
    except ValueError as error:
        raise BadAddress(f"{shorten(address)!r} is not an IP address") from error
    found = world.first(NetworkInterface, ipv4=text) or world.first(NetworkInterface, ipv6=text)
    if found is None:
        raise NoSuchAddress(f"nobody has address {text}")
    return found


def check_ranges(world: World, network: Network) -> None:
    """Check that *network*'s ranges fit each other and overlap no other network.

    Raises:
        BadAddress: Not ranges, or the IPv6 one is smaller than the IPv4 one (a single shared address is allowed).
        AddressTaken: They overlap another network's.
    """
    inner4 = range4(network.ipv4)
    inner6 = range6(network.ipv6) if network.ipv6 else None
    if inner6 is not None and not is_shared(inner6) and inner6.num_addresses < inner4.num_addresses:
        raise BadAddress(f"{inner6} holds fewer addresses than {inner4}")
    for other in world.all(Network):
        if inner4.overlaps(range4(other.ipv4)):
            raise AddressTaken(f"{inner4} overlaps network {other.name} ({other.ipv4})")
        outer6 = range6(other.ipv6) if other.ipv6 else None
        if inner6 is not None and outer6 is not None and not is_shared(inner6) and inner6.overlaps(outer6):
            raise AddressTaken(f"{inner6} overlaps network {other.name} ({other.ipv6})")

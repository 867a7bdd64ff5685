"""Facts about networks: what ranges there are, who has which addresses, what was delegated.

Owns one fact per thing that can become true of them, and its ``apply``. Which address is free is ``addressing``'s matter.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bus.messages import Fact
from compartments.rows import AddressBlock, Network, NetworkInterface
from compartments.world import World


class NetworkCreated(Fact, kind="network.created", kw_only=True):
    """A network exists; its first *reserved* addresses are never given away."""

    id: str
    name: str
    compartment: str
    ipv4: str
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    reserved: int
    time: int

    def apply(self, world: World) -> None:
        """Add the network's row."""
        world.put(
            Network(
                id=self.id,
                name=self.name,
                compartment=self.compartment,
                ipv4=self.ipv4,
                ipv6=self.ipv6,
                gateway4=self.gateway4,
                gateway6=self.gateway6,
                reserved=self.reserved,
                next=self.reserved,
                created=self.time,
            )
        )


class BlockDelegated(Fact, kind="network.delegated", kw_only=True):
    """A part of *network* is *domain*'s to give out."""

    network: str
    domain: str
    ipv4: str
    ipv6: str = ""

    def apply(self, world: World) -> None:
        """Add the block's row."""
        world.put(AddressBlock(network=self.network, domain=self.domain, ipv4=self.ipv4, ipv6=self.ipv6))


class AddressAssigned(Fact, kind="address.assigned", kw_only=True):
    """The pair of addresses at *offset* of *network* belongs to interface *name* of *node*."""

    network: str
    offset: int
    node: str
    name: str
    ipv4: str
    ipv6: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Add the interface and move the network's search on."""
        network = world.need(Network, self.network)
        world.put(
            NetworkInterface(
                network=self.network, offset=self.offset, node=self.node, name=self.name, ipv4=self.ipv4, ipv6=self.ipv6, since=self.time
            )
        )
        further = max(self.offset + 1, network.reserved)
        world.put(msgspec.structs.replace(network, used=network.used + (self.offset >= network.reserved), next=further))


class AddressReleased(Fact, kind="address.released"):
    """The pair of addresses at *offset* of *network* is free again."""

    network: str
    offset: int

    def apply(self, world: World) -> None:
        """Remove the interface."""
        release(world, self.network, self.offset)


def release(world: World, network: str, offset: int) -> None:
    """Remove the interface at *offset* of *network* and count it as free; a part of several facts' ``apply``."""
    row = world.need(Network, network)
    if world.get(NetworkInterface, network, offset) is not None:
        world.delete(NetworkInterface, network, offset)
        world.put(msgspec.structs.replace(row, used=row.used - (offset >= row.reserved)))


FACTS: Final = (NetworkCreated, BlockDelegated, AddressAssigned, AddressReleased)

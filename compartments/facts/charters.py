"""Facts about charters: issued by the ring above, received by the domain.

Owns the two facts and their ``apply``. What a charter says is ``compartments.charter``'s matter.

INV-FCH-1: a received charter is whole evidence: replay of the child's journal needs nothing of its parent's.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

from bus.messages import Fact
from compartments import charter
from compartments.rows import AddressBlock, Charter, Compartment, Network, RevokedKey
from compartments.rows_endings import Ending
from compartments.world import World


class CharterIssued(Fact, kind="charter.issued"):
    """A domain has a new charter: *frame* is its signed bytes as base64url, *hash* their SHA-256."""

    domain: str
    version: int
    epoch: int
    decider: str
    hash: str
    frame: str
    time: int

    def apply(self, world: World) -> None:
        """Keep it as the domain's newest."""
        world.put(
            Charter(
                domain=self.domain,
                version=self.version,
                epoch=self.epoch,
                decider=self.decider,
                hash=self.hash,
                frame=self.frame,
                time=self.time,
            )
        )


class CharterReceived(Fact, kind="charter.received"):
    """This domain follows *charter* from now on."""

    charter: charter.Charter
    hash: str
    frame: str
    time: int

    def apply(self, world: World) -> None:
        """Keep it, and unfold what it delegates: compartments, blocks with a network each, revoked keys."""
        given = self.charter
        world.put(
            Charter(
                domain=given.domain,
                version=given.version,
                epoch=given.epoch,
                decider=given.decider,
                hash=self.hash,
                frame=self.frame,
                time=self.time,
            )
        )
        for place in given.compartments:
            ending = world.get(Ending, place.id)
            if ending is not None and ending.state == "destroyed":  # the ring above hears of it after us
                continue
            known = world.get(Compartment, place.id) or Compartment(id=place.id, name="", kind=place.kind, created=self.time)
            world.put(msgspec.structs.replace(known, name=place.name, kind=place.kind, parent=place.parent))
        for block in given.blocks:
            world.put(AddressBlock(network=block.network, ipv4=block.ipv4, ipv6=block.ipv6, domain=given.domain))
            if world.get(Network, f"{block.network}/{block.ipv4}") is None:
                world.put(_network_of(block, given, self.time))
        for key in given.revoked:
            if world.get(RevokedKey, key) is None:
                number = max((row.number for row in world.all(RevokedKey)), default=0) + 1
                world.put(RevokedKey(key=key, number=number, time=self.time, by=given.parent, reason="revoked by the ring above"))


def _network_of(block: charter.Block, given: charter.Charter, time: int) -> Network:
    first4 = ipaddress.ip_network(block.ipv4)[1]
    range6 = ipaddress.ip_network(block.ipv6) if block.ipv6 else None
    gateway6 = "" if range6 is None else str(range6[1 if range6.num_addresses > 1 else 0])
    home = next((place.id for place in given.compartments if not place.parent), "")
    return Network(
        id=f"{block.network}/{block.ipv4}",
        name="apps",
        compartment=home,
        ipv4=block.ipv4,
        ipv6=block.ipv6,
        gateway4=str(first4),
        gateway6=gateway6,
        created=time,
    )


FACTS: Final = (CharterIssued, CharterReceived)

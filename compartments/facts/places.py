"""Facts about the cloud's places and tiers: compartments, what contains what, and the roles of nodes.

Owns one fact per thing that can become true of them, and its ``apply``. Decides nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bus.messages import Fact
from compartments.row import CompartmentKind
from compartments.rows import Cloud, Compartment, Containment, Counter, Endpoint, NodeTier, Tier
from compartments.world import World


class CloudFounded(Fact, kind="cloud.founded", kw_only=True):
    """The cloud exists; *compartment* is the root of its compartments, *first_uid* starts its blocks of host uids."""

    cloud: str
    name: str
    compartment: str
    first_uid: int = -1
    uid_blocks: int = 0
    time: int

    def apply(self, world: World) -> None:
        """Add the cloud's row."""
        world.put(
            Cloud(
                id=self.cloud,
                name=self.name,
                compartment=self.compartment,
                founded=self.time,
                first_uid=self.first_uid,
                uid_blocks=self.uid_blocks,
            )
        )


class BusMoved(Fact, kind="cloud.bus_moved"):
    """The cloud's messages travel over *bus* (``zmq`` or ``nats``) from now on."""

    cloud: str
    bus: str

    def apply(self, world: World) -> None:
        """Change the cloud's row."""
        world.put(msgspec.structs.replace(world.need(Cloud, self.cloud), bus=self.bus))


class EndpointSet(Fact, kind="endpoint.set", kw_only=True):
    """A public listener has this address from now on."""

    name: str
    address: str
    port: int
    ring: int = 0

    def apply(self, world: World) -> None:
        """Add or replace the endpoint's row."""
        world.put(Endpoint(name=self.name, address=self.address, port=self.port, ring=self.ring))


class CompartmentCreated(Fact, kind="compartment.created", kw_only=True):
    """A compartment exists; ``sort`` is its kind, ``parent`` its one home."""

    id: str
    name: str
    sort: CompartmentKind
    parent: str = ""
    summary: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Add the compartment's row."""
        row = Compartment(id=self.id, name=self.name, kind=self.sort, parent=self.parent, summary=self.summary, created=self.time)
        world.put(row)


class CompartmentContained(Fact, kind="compartment.contained"):
    """*child* (a compartment or a node) also lies in *parent*."""

    parent: str
    child: str

    def apply(self, world: World) -> None:
        """Add the edge."""
        world.put(Containment(parent=self.parent, child=self.child))


class CompartmentParted(Fact, kind="compartment.parted"):
    """*child* no longer lies in *parent* by a further edge; its home stays."""

    parent: str
    child: str

    def apply(self, world: World) -> None:
        """Remove the edge."""
        world.delete(Containment, self.parent, self.child)


class TierCreated(Fact, kind="tier.created", kw_only=True):
    """A tier exists; members can be promoted to the tier *above* (its id), if there is one."""

    id: str
    name: str
    summary: str = ""
    above: str = ""
    single: bool = False
    time: int

    def apply(self, world: World) -> None:
        """Add the tier's row."""
        world.put(Tier(id=self.id, name=self.name, summary=self.summary, above=self.above, single=self.single, created=self.time))


class TierAssigned(Fact, kind="tier.assigned", kw_only=True):
    """*node* plays *tier*, in the set of replicas *group*."""

    node: str
    tier: str
    group: str = ""

    def apply(self, world: World) -> None:
        """Add or replace the assignment."""
        world.put(NodeTier(node=self.node, tier=self.tier, group=self.group))


class TierUnassigned(Fact, kind="tier.unassigned"):
    """*node* no longer plays *tier*."""

    node: str
    tier: str

    def apply(self, world: World) -> None:
        """Remove the assignment."""
        world.delete(NodeTier, self.node, self.tier)


class NodePromoted(Fact, kind="node.promoted", kw_only=True):
    """*node* left *below* for *above* in *group*, and *demoted* went the other way, all at once.

    ``epoch`` is the group's fence: whoever acts for the tier above with a lower one is refused.
    """

    node: str
    below: str
    above: str
    group: str
    demoted: tuple[str, ...] = ()
    epoch: int

    def apply(self, world: World) -> None:
        """Swap the assignments and raise the fence."""
        for node in self.demoted:
            world.delete(NodeTier, node, self.above)
            world.put(NodeTier(node=node, tier=self.below, group=self.group))
        world.delete(NodeTier, self.node, self.below)
        world.put(NodeTier(node=self.node, tier=self.above, group=self.group))
        world.put(Counter(name=epoch_counter(self.above, self.group), value=self.epoch))


def epoch_counter(tier: str, group: str) -> str:
    """Return the name of the counter that fences *tier* in *group*."""
    return f"epoch/{tier}/{group}"


FACTS: Final = (
    CloudFounded, BusMoved, EndpointSet, CompartmentCreated, CompartmentContained, CompartmentParted, TierCreated, TierAssigned,
    TierUnassigned, NodePromoted,
)  # fmt: skip

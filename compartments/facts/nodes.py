"""Facts about nodes and what happens with them: placed, wanted otherwise, seen, removed; and tasks that take time.

Owns one fact per thing that can become true of them, and its ``apply``. Decides nothing.

INV-FND-1: ``since`` of a node moves exactly when its state does.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bus.messages import Fact
from compartments.facts.networks import release
from compartments.row import State, Strategy, Wanted
from compartments.rows import AddressBlock, Containment, Counter, NetworkInterface, Node, NodeObservation, NodeTier, Task
from compartments.world import World

UID_RANGES: Final = "uid_ranges"


class NodePlaced(Fact, kind="node.placed", kw_only=True):
    """A node is wanted running; *range_index* is its block of uids (-1: it has none of its own)."""

    node: str
    ring: int
    label: str
    compartment: str
    strategy: Strategy
    supervisor: str = ""
    generation: int
    uid: int = -1
    uid_range: int = 0
    range_index: int = -1
    time: int

    def apply(self, world: World) -> None:
        """Add the node's row, and let the search for a block of uids go on after its own."""
        world.put(
            Node(
                id=self.node,
                ring=self.ring,
                label=self.label,
                compartment=self.compartment,
                strategy=self.strategy,
                supervisor=self.supervisor,
                generation=self.generation,
                uid=self.uid,
                uid_range=self.uid_range,
                since=self.time,
                created=self.time,
            )
        )
        if self.range_index >= 0:
            world.put(Counter(name=UID_RANGES, value=self.range_index))


class NodeWanted(Fact, kind="node.wanted"):
    """*node* is wanted otherwise; *generation* rises when it is to be started anew."""

    node: str
    wanted: Wanted
    generation: int

    def apply(self, world: World) -> None:
        """Change the intent; what is seen stays."""
        node = world.need(Node, self.node)
        world.put(msgspec.structs.replace(node, wanted=self.wanted, generation=self.generation))


class NodeSeen(Fact, kind="node.seen", kw_only=True):
    """*node* was seen in *state* at *generation*."""

    node: str
    generation: int
    state: State
    isolation: dict[str, str] = msgspec.field(default_factory=dict)
    reason: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Change what is known of the node; not what is wanted."""
        node = world.need(Node, self.node)
        held = world.get(NodeObservation, self.node)
        same = node.state == self.state and (held is None or held.generation == self.generation)
        since = node.since if same else self.time
        world.put(msgspec.structs.replace(node, state=self.state, reason=self.reason, since=since))
        world.put(
            NodeObservation(
                node=self.node,
                generation=self.generation,
                state=self.state,
                time=self.time,
                isolation=self.isolation,
                reason=self.reason,
            )
        )


class NodeRemoved(Fact, kind="node.removed"):
    """*node* is gone: its addresses, tiers and edges are too, its blocks wait for another. Its id is never used again."""

    node: str

    def apply(self, world: World) -> None:
        """Remove every row that hangs from the node."""
        for interface in world.find(NetworkInterface, node=self.node):
            release(world, interface.network, interface.offset)
        for assignment in world.find(NodeTier, node=self.node):
            world.delete(NodeTier, assignment.node, assignment.tier)
        for edge in world.find(Containment, child=self.node):
            world.delete(Containment, edge.parent, edge.child)
        for block in world.find(AddressBlock, domain=self.node):
            world.put(msgspec.structs.replace(block, domain=""))
        world.delete(NodeObservation, self.node)
        world.delete(Node, self.node)


class TaskStarted(Fact, kind="task.started", kw_only=True):
    """Something that takes time began; ``sort`` is its kind, ``id`` the request that asked for it."""

    id: str
    sort: str
    subject: str
    compartment: str = ""
    asker: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Add the task's row."""
        world.put(Task(id=self.id, kind=self.sort, subject=self.subject, compartment=self.compartment, asker=self.asker, started=self.time))


class TaskEnded(Fact, kind="task.ended", kw_only=True):
    """A task is done or has failed."""

    id: str
    state: Literal["done", "failed"]
    stage: str = ""
    reason: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Close the task's row."""
        task = world.need(Task, self.id)
        world.put(msgspec.structs.replace(task, state=self.state, stage=self.stage, reason=self.reason, ended=self.time))


FACTS: Final = (NodePlaced, NodeWanted, NodeSeen, NodeRemoved, TaskStarted, TaskEnded)

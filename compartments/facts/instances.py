"""Facts about instances of apps: begun, wanted otherwise, seen otherwise, gone; and which uids and ports they took.

Owns how these rows change. Decides nothing. Nodes and addresses of instances are facts of ``nodes`` and ``networks``.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bus.messages import Fact
from compartments.row import State
from compartments.rows import Counter, Node
from compartments.rows_apps import AppStrategy, Instance, InstanceState, InstanceWanted, Limits, UsedUid
from compartments.world import World

UID_COUNTER: Final = "apps/uid"
PORT_COUNTER: Final = "apps/port"
NODE_STATES: Final[dict[str, State]] = {
    "pending": "pending",
    "starting": "starting",
    "ready": "running",
    "unhealthy": "running",
    "exited": "starting",
    "failed": "failed",
}


class InstanceBegun(Fact, kind="instance.begun", kw_only=True):
    """An instance is wanted: a process of a release, in a node with a uid, a port and addresses of its own."""

    node: str
    app: str
    compartment: str
    release: int
    process: str
    index: int
    generation: int
    strategy: AppStrategy
    memory_bytes: int
    processes: int
    cpu_millicores: int
    files: int
    uid: int
    port: int
    network: str
    offset: int
    ipv4: str
    ipv6: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Put the instance and take its uid and port; its addresses are facts of their own."""
        world.put(
            Instance(
                id=self.node,
                app=self.app,
                compartment=self.compartment,
                release=self.release,
                process=self.process,
                index=self.index,
                generation=self.generation,
                strategy=self.strategy,
                limits=Limits(
                    memory_bytes=self.memory_bytes, processes=self.processes, cpu_millicores=self.cpu_millicores, files=self.files
                ),
                uid=self.uid,
                port=self.port,
                network=self.network,
                offset=self.offset,
                ipv4=self.ipv4,
                ipv6=self.ipv6,
                since=self.time,
                created=self.time,
            )
        )
        take_uid(world, self.uid)
        world.put(Counter(name=PORT_COUNTER, value=self.port))


class InstancesChanged(Fact, kind="instances.changed", kw_only=True):
    """Instances are to drain, or to end without it."""

    nodes: tuple[str, ...]
    wanted: InstanceWanted
    time: int

    def apply(self, world: World) -> None:
        """Change the instances."""
        for node in self.nodes:
            world.put(replace(world.need(Instance, node), wanted=self.wanted, since=self.time))


class InstanceSaw(Fact, kind="instance.saw", kw_only=True):
    """The state of an instance's process is another one than before."""

    node: str
    state: InstanceState
    status: int = 0
    why: str = ""
    exits: int = 0
    time: int

    def apply(self, world: World) -> None:
        """Change the instance, and its node with it."""
        instance = world.need(Instance, self.node)
        ready = instance.ready or (self.time if self.state == "ready" else 0)
        seen = replace(instance, state=self.state, status=self.status, why=self.why, exits=self.exits, ready=ready, since=self.time)
        world.put(seen)
        if (node := world.get(Node, self.node)) is not None and node.state != NODE_STATES[self.state]:
            world.put(replace(node, state=NODE_STATES[self.state], reason=self.why[:200], since=self.time))


class InstanceGone(Fact, kind="instance.gone", kw_only=True):
    """Nothing is left of an instance: its port is free, its uid waits until *uid_free*."""

    node: str
    uid_free: int

    def apply(self, world: World) -> None:
        """Delete the instance and reserve its uid."""
        instance = world.need(Instance, self.node)
        world.delete(Instance, self.node)
        world.put(UsedUid(uid=instance.uid, until=self.uid_free))


def take_uid(world: World, uid: int) -> None:
    """Note that *uid* was given out last, and that it waits no longer; a part of several facts' ``apply``."""
    world.put(Counter(name=UID_COUNTER, value=uid))
    world.delete(UsedUid, uid)


FACTS: Final = (
    InstanceBegun, InstancesChanged, InstanceSaw, InstanceGone,
)  # fmt: skip

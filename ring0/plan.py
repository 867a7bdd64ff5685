"""From what is wanted of ring 1 nodes and what was seen of them to actions: pure.

Owns the specification of a ring 1 node, with every address, uid and path in it, and the order of what is done to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from compartments.rows import Network, NetworkInterface, Node
from compartments.world import World
from ring0.offspring import DAEMON_UID, HOME_INSIDE, ROUTER_UID, RUNTIME_INSIDE, controls, services
from supervision.reconcile import Action
from supervision.steps import DestroyNode, EnsureFabric, Interface, Limits, Mount, NodeSpec, Running, Service, StartNode, StopNode

GRACE_MS: Final = 5_000
LISTENERS: Final = ("router", "api1")


class Setting(NamedTuple):
    """What plans need to know of this machine."""

    tag: str
    home: str
    runtime: str
    daemon_uid: int
    host_paths: tuple[str, ...]
    closed: tuple[str, ...]


def plan(world: World, seen: Sequence[Running], setting: Setting) -> list[Action]:
    """Return what has to be done so that every ring 1 node is as wanted."""
    there = {running.node: running for running in seen}
    actions: list[Action] = []
    for node in world.find(Node, ring=1):
        running = there.pop(node.id, None)
        actions += _node(world, node, running, setting)
    for running in there.values():
        actions.append(Action(running.node, running.generation + 1, DestroyNode(node=running.node, keep_state=True)))
    return actions


def _node(world: World, node: Node, running: Running | None, setting: Setting) -> list[Action]:
    alive = running is not None and running.state == "running"
    if node.wanted == "gone":
        return [Action(node.id, node.generation, DestroyNode(node=node.id))] if running is not None else []
    if node.wanted == "stopped":
        return [Action(node.id, node.generation, StopNode(node=node.id, grace_ms=GRACE_MS))] if alive else []
    if running is not None and alive and running.generation == node.generation and not running.missing:
        return []
    return [Action(node.id, node.generation, StartNode(spec=specification(world, node, setting)))]


def fabric(world: World, setting: Setting) -> EnsureFabric:
    """Return the step that makes ring 0's bridge, in a network namespace of the cloud's own."""
    addresses = []
    for network in world.all(Network):
        for text, gateway in ((network.ipv4, network.gateway4), (network.ipv6, network.gateway6)):
            if text and gateway:
                addresses.append(f"{gateway}/{text.rpartition('/')[2]}")
    return EnsureFabric(bridge=f"enj{setting.tag}0", addresses=tuple(addresses), netns=f"enjin-{setting.tag}")


def specification(world: World, node: Node, setting: Setting) -> NodeSpec:
    """Return how *node* is made."""
    jail = node.strategy == "jail"
    home, runtime = (HOME_INSIDE, RUNTIME_INSIDE) if jail else (f"{setting.home}/nodes/{node.id}/state", setting.runtime)
    return NodeSpec(
        node=node.id,
        generation=node.generation,
        strategy="jail" if jail else "process",
        purpose="ring1",
        label=node.label,
        range=node.uid if jail else 0,
        hostname=node.label,
        interface=interface(world, node, setting) if jail else None,
        outgoing=jail,
        limits=Limits(files=65_536),
        mounts=tuple(Mount(root="host", source=path, target=path) for path in setting.host_paths) if jail else (),
        services=(*directories(jail, home), *services(jail, home, runtime, node.id)),
        control_uid=setting.daemon_uid,
        controls=controls(jail, home),
        listeners=(*LISTENERS, f"identity-{node.id}", f"hands-{node.id}"),
        channels=("hands",),
        closed=setting.closed,
    )


def interface(world: World, node: Node, setting: Setting) -> Interface | None:
    """Return the node's interface with the addresses that it was assigned."""
    addresses = []
    for row in world.find(NetworkInterface, node=node.id):
        network = world.need(Network, row.network)
        addresses.append(f"{row.ipv4}/{network.ipv4.rpartition('/')[2]}")
        if row.ipv6:
            addresses.append(f"{row.ipv6}/{network.ipv6.rpartition('/')[2]}")
    return Interface(bridge=f"enj{setting.tag}0", addresses=tuple(addresses)) if addresses else None


def directories(jail: bool, home: str) -> tuple[Service, ...]:
    """Return the one-off services that make the directories which ring 1's daemon owns."""
    owned = [f"{home}/{name}" for name in ("ring1", "blobs", "bus")]
    if not jail:
        return (Service(name="directories", argv=("/usr/bin/install", "-d", "-m", "0711", f"{home}/router", *owned), restart="never"),)
    make = ("/usr/bin/install", "-d", "-m")
    daemon = ("-o", str(DAEMON_UID), "-g", str(DAEMON_UID))
    return (
        Service(name="directories", argv=(*make, "0711", *daemon, *owned), restart="never", uid=0),
        Service(name="releases-directory", argv=(*make, "0755", f"{home}/releases"), restart="never", uid=0),
        Service(
            name="router-directory",
            argv=(*make, "0770", "-o", str(DAEMON_UID), "-g", str(ROUTER_UID), f"{home}/router"),
            restart="never",
            uid=0,
        ),
    )

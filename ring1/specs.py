"""What hands is told about a node of ring 2: one specification per instance and per build, complete.

Owns the shape of those nodes: what is mounted where, which network, which limits. Nothing in them is secret: settings go to
the agent, never into a specification. Pure.

INV-SPC-1: everything that execution needs stands in the specification: uid, addresses, paths, limits, generation.
INV-SPC-2: an app's node reaches its own network and nothing else; a build's node reaches outside, and no network of ours.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

from compartments.rows import Network
from compartments.rows_apps import Agent, App, Build, Instance, Release
from compartments.world import World
from supervision.steps import Interface, Limits, Mount, NodeSpec, Service

TREE: Final = "/app"
SOURCE: Final = "/source.tar"
OUT: Final = "/out"
BUILDER: Final = "build"
RELEASES: Final = "releases"
BLOBS: Final = "blobs"
NODES: Final = "nodes"
BUILD_LIMITS: Final = Limits(memory_bytes=2 << 30, processes=512, cpu_millicores=0, files=4096, disk_bytes=2 << 30)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon knows of the place it runs in.

    Args:
        bridge: Link on which apps' nodes hang; "": there is no network of our own (strategy process).
        runtime: The runtime copy as a node sees it.
        daemon_uid: Our own uid, which speaks with the inits of builds.
        map_path: HAProxy's map of host names.
        build_environment: Variables that a build gets (the machine's own settings of its package registries).
        host_paths: Directories and files of the host that a build may read, at their own paths.
        closed: Addresses and networks that a build must not reach.
    """

    bridge: str = "apps"
    runtime: str = "/opt/enjin"
    daemon_uid: int = 100
    map_path: str
    build_environment: dict[str, str] = msgspec.field(default_factory=dict)
    host_paths: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


def app_spec(world: World, instance: Instance, ground: Ground) -> NodeSpec:
    """Return the specification of *instance*'s node. Its process is the agent's to start."""
    agent, release = world.need(Agent, instance.compartment), world.need(Release, instance.app, instance.release)
    limits = instance.limits
    return NodeSpec(
        node=instance.id,
        generation=instance.generation,
        strategy=instance.strategy,
        purpose="app",
        label=f"{instance.app}.{instance.process}.{instance.index}",
        compartment=instance.compartment,
        uid=max(instance.uid, 0),
        hostname=instance.app,
        interface=_interface(world, instance, ground),
        limits=Limits(
            memory_bytes=limits.memory_bytes, processes=limits.processes, cpu_millicores=limits.cpu_millicores, files=limits.files
        ),
        mounts=(Mount(root=RELEASES, source=release.tree, target=TREE),),
        control_uid=max(agent.uid, 0),
    )


def _interface(world: World, instance: Instance, ground: Ground) -> Interface | None:
    if not ground.bridge or instance.strategy == "process":
        return None
    network = world.need(Network, instance.network)
    addresses = [f"{instance.ipv4}/{ipaddress.ip_network(network.ipv4).prefixlen}"]
    if instance.ipv6:
        addresses.append(f"{instance.ipv6}/{ipaddress.ip_network(network.ipv6).prefixlen}")
    return Interface(bridge=ground.bridge, addresses=tuple(addresses))


def build_spec(world: World, build: Build, ground: Ground) -> NodeSpec:
    """Return the specification of *build*'s node: it builds as soon as it runs, once."""
    app = world.need(App, build.app)
    python = f"{ground.runtime}/bin/python"
    service = Service(
        name=BUILDER,
        argv=(python, "-I", "-m", "ring2.packaging", "--source", SOURCE, "--out", OUT, "--digest", build.source, "--app-root", TREE),
        env=ground.build_environment,
        cwd="/tmp",
        restart="never",
    )
    shown = tuple(Mount(root="host", source=path, target=path) for path in ground.host_paths)
    return NodeSpec(
        node=build.id,
        generation=1,
        strategy=build.strategy,
        purpose="build",
        label=f"{build.app}.build.{build.release}",
        compartment=build.compartment,
        uid=max(build.uid, 0),
        hostname=app.name,
        outgoing=build.strategy == "jail",
        limits=BUILD_LIMITS,
        mounts=(
            Mount(root=BLOBS, source=build.source, target=SOURCE),
            Mount(root=NODES, source=f"{build.id}/out", target=OUT, writable=True),
            *shown,
        ),
        services=(service,),
        control_uid=ground.daemon_uid,
        closed=ground.closed,
    )

"""What ring 1's daemon carries out itself, beside what it asks of hands: agents, routes, builds, wishes.

Owns the shapes and the last check before any step is applied, against the world as it is at that moment: a plan may have
grown old. Carries nothing out.

INV-RST-1: nothing is started that is not wanted at that generation, and nothing ended or removed that is.
"""

from __future__ import annotations

import ipaddress

import msgspec

from bus.messages import Command
from compartments.rows import NetworkInterface
from compartments.rows_apps import Build, Instance, Release
from compartments.world import World
from enjin.errors import Conflict, Refused
from ring1 import routing
from supervision.reconcile import Action
from supervision.steps import DestroyNode, NodeSpec, RemoveTree, StartNode, StopNode


class StalePlan(Conflict):
    """An action is about something that is wanted otherwise by now."""

    code = "E-PLN-001"


class ForeignStep(Refused):
    """An action names a uid, an address or a tree that is not the node's."""

    code = "E-PLN-002"


class RunAgent(msgspec.Struct, frozen=True, tag="agent.run"):
    """Start the ring 2 agent of a compartment, under its uid."""

    compartment: str
    name: str
    uid: int


class EndAgent(msgspec.Struct, frozen=True, tag="agent.end"):
    """End the agent of a compartment in which nothing runs any more."""

    compartment: str


class RunInstance(msgspec.Struct, frozen=True, kw_only=True, tag="instance.run"):
    """Tell the agent to run an instance's process and to watch it.

    Args:
        control: Socket of the node's init, below home.
        settings: Version of the app's settings, of which the daemon opens *keys* for this message alone.
        health: Path that must answer below 500; "": TCP is enough; None: the process has no port to probe.
    """

    instance: str
    generation: int
    compartment: str
    app: str
    release: int
    process: str
    index: int
    line: str
    address: str
    port: int
    control: str
    settings: int
    keys: tuple[str, ...] = ()
    health: str | None = None
    drain_ms: int


class SetRoutes(msgspec.Struct, frozen=True, tag="routes.set"):
    """Make the router serve exactly these routes."""

    routes: tuple[routing.Route, ...]


class DrainServer(msgspec.Struct, frozen=True, tag="server.drain"):
    """Wait until no request is in progress on an instance that gets no new ones, then take it out of the router."""

    instance: str
    deadline_ms: int


class CollectBuild(msgspec.Struct, frozen=True, tag="build.collect"):
    """Read what a build left behind, seal its tree, and say that the release is built, or why it is not."""

    node: str
    app: str
    release: int
    status: int


class Say(msgspec.Struct, frozen=True, tag="say"):
    """Send a wish to the decider: what was seen becomes true."""

    wish: Command


def check(action: Action, world: World) -> None:
    """Check *action* against what is wanted now.

    Raises:
        StalePlan: It starts what is not wanted, or ends what is.
        ForeignStep: It gives a node what the world gave to another.
    """
    step = action.step
    if isinstance(step, StartNode):
        _check_start(step.spec, world)
    elif isinstance(step, StopNode | DestroyNode):
        _check_unwanted(step.node, world)
    elif isinstance(step, DrainServer):
        _check_unwanted(step.instance, world)
    elif isinstance(step, RunInstance):
        _wanted(step.instance, step.generation, world)
    elif isinstance(step, RemoveTree) and (world.count(Build) or world.find(Release, tree=step.path)):
        raise StalePlan(f"tree {step.path[:12]} may be wanted")


def _wanted(node: str, generation: int, world: World) -> Instance:
    instance = world.get(Instance, node)
    if instance is None or instance.wanted != "running" or instance.generation != generation:
        raise StalePlan(f"instance {node} is not wanted at generation {generation}")
    return instance


def _check_start(spec: NodeSpec, world: World) -> None:
    build = world.get(Build, spec.node)
    row: Build | Instance = build if build is not None else _wanted(spec.node, spec.generation, world)
    if spec.uid != max(row.uid, 0):
        raise ForeignStep(f"node {spec.node} has uid {row.uid}, not {spec.uid}")
    given = {str(ipaddress.ip_interface(text).ip) for text in (spec.interface.addresses if spec.interface else ())}
    own = {address for one in world.find(NetworkInterface, node=spec.node) for address in (one.ipv4, one.ipv6)}
    if not given <= own:
        raise ForeignStep(f"addresses {', '.join(sorted(given - own))} are not those of node {spec.node}")


def _check_unwanted(node: str, world: World) -> None:
    instance = world.get(Instance, node)
    if world.get(Build, node) is not None or (instance is not None and instance.wanted == "running"):
        raise StalePlan(f"node {node} is wanted")

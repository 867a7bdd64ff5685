"""From what is wanted and what is seen to what is to be done: pure, complete, in order.

Owns the plan of ring 1 for ring 2. Level-triggered: an action is planned when what is seen says that it is due, and every
round plans anew, so nothing has to be remembered and any action may be lost or repeated. What was seen and must bind others
becomes a ``Say``: a wish that the daemon sends to the decider. Carries nothing out.

INV-PLN-1: a plan leaves no choice to execution: every uid, address, path and generation stands in its steps.
INV-PLN-2: what is seen as it is wanted plans nothing: a settled world has an empty plan.
INV-PLN-3: an instance ends only after the router has let go of it, and is forgotten only after its node is gone.
INV-PLN-4: only nodes and trees of this domain that nothing refers to are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from bus.messages import Command
from compartments.rows import Compartment
from compartments.rows_apps import Agent, App, Build, Instance, InstanceState, Release, Rollout
from compartments.rows_apps import Route as RouteRow
from compartments.world import World
from ring1 import rollouts, routing
from ring1.haproxy import Server
from ring1.instances import WHY_MAX, Drained, SawInstance
from ring1.releases import BuildFailed, BuildTimedOut, Crashed, Failed, Live, NoAnswer
from ring1.specs import RELEASES, Ground, app_spec, build_spec
from ring1.steps import CollectBuild, DrainServer, EndAgent, RunAgent, RunInstance, Say, SetRoutes
from supervision.reconcile import Action
from supervision.steps import DestroyNode, EnsureFabric, RemoveTree, Running, StartNode, StopNode

BUILD_US: Final = 15 * 60 * 1_000_000
ROUTER_US: Final = 30 * 1_000_000
CRASHES_MAX: Final = 3
FORCED_GRACE_MS: Final = 2_000
SECOND_US: Final = 1_000_000
ROUTER: Final = "router"
FABRIC: Final = "fabric"
TREES: Final = "trees"


class ProcessSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of an instance's process."""

    generation: int
    state: InstanceState
    status: int = 0
    text: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything observed in one round.

    Args:
        now: Cloud time in microseconds; *since* is when this daemon began to look.
        nodes: What hands knows, by node.
        agents: Compartments (ids) whose agent runs and can be spoken to.
        processes: What agents report, by instance; nothing of an agent that has just started.
        builds: Exit status of the builder of each build node in which it has ended.
        routes: What the running HAProxy has; None: it does not answer.
        trees: Digests of the sealed trees on disk.
        fabric: Whether the bridge is as it should be.
    """

    now: int
    since: int = 0
    nodes: dict[str, Running] = msgspec.field(default_factory=dict)
    agents: frozenset[str] = frozenset()
    processes: dict[str, ProcessSeen] = msgspec.field(default_factory=dict)
    builds: dict[str, int] = msgspec.field(default_factory=dict)
    routes: routing.Seen | None = None
    trees: frozenset[str] = frozenset()
    fabric: bool = True


def wanted_agents(world: World) -> list[Agent]:
    """Return the agents that must run: one per compartment with instances."""
    return [agent for agent in world.all(Agent) if world.find(Instance, compartment=agent.compartment)]


def wanted_routes(world: World) -> tuple[routing.Route, ...]:
    """Return every app's route: its hosts, and those of its web instances that were ready once and are not given up.

    A roll-out whose instances are all ready takes the route before it is said to be live: whoever hears "live" finds it so.
    A process that ended and is being started again stays in the route: the router's own checks bridge that moment.
    """
    routes = []
    for app in world.all(App):
        hosts = tuple(route.host for route in world.find(RouteRow, app=app.name))
        if app.destroyed or not hosts:
            continue
        rollout = world.get(Rollout, app.name)
        if rollout is not None and not _waiting(world, rollout):
            serving = rollouts.running(world, app.name, rollout.generation)
        else:
            serving = rollouts.running(world, app.name, app.generation) if app.live else []
        servers = [
            Server(name=one.id, address=one.ipv4, port=one.port)
            for one in serving
            if one.process == rollouts.WEB and one.ready and one.state != "failed"
        ]
        routes.append(routing.Route(app=app.name, hosts=hosts, servers=tuple(sorted(servers))))
    return tuple(routes)


def plan(world: World, seen: Seen, ground: Ground) -> list[Action]:
    """Return what is to be done, first things first."""
    return [
        *_fabric(world, seen, ground),
        *_agents(world, seen),
        *_instances(world, seen, ground),
        *_routes(world, seen, ground),
        *_rollouts(world, seen, ground),
        *_builds(world, seen, ground),
        *_strays(world, seen),
        *_trees(world, seen),
    ]


def _fabric(world: World, seen: Seen, ground: Ground) -> Iterator[Action]:
    networks = rollouts.networks(world)
    if seen.fabric or not ground.bridge or not networks:
        return
    addresses = [
        f"{gateway}/{block.rpartition('/')[2]}"
        for network in networks
        for gateway, block in ((network.gateway4, network.ipv4), (network.gateway6, network.ipv6))
        if gateway
    ]
    yield Action(FABRIC, 1, EnsureFabric(bridge=ground.bridge, addresses=tuple(addresses)))


def _agents(world: World, seen: Seen) -> Iterator[Action]:
    wanted = wanted_agents(world)
    for agent in wanted:
        if agent.compartment not in seen.agents:
            name = world.need(Compartment, agent.compartment).name
            yield Action(_lane(agent.compartment), 1, RunAgent(agent.compartment, name, agent.uid))
    for compartment in sorted(seen.agents - {agent.compartment for agent in wanted}):
        yield Action(_lane(compartment), 1, EndAgent(compartment))


def _lane(compartment: str) -> str:
    return f"agent/{compartment}"


def _instances(world: World, seen: Seen, ground: Ground) -> Iterator[Action]:
    for instance in world.all(Instance):
        if instance.wanted == "running":
            yield from _run(world, seen, instance, ground)
        else:
            yield from _end(world, seen, instance)


def _run(world: World, seen: Seen, one: Instance, ground: Ground) -> Iterator[Action]:
    """Node, then process, then what is seen of it."""
    node, process = seen.nodes.get(one.id), seen.processes.get(one.id)
    if node is None or node.state != "running" or node.generation != one.generation or node.missing:
        yield Action(one.id, one.generation, StartNode(spec=app_spec(world, one, ground)), after=(FABRIC,))
        return
    if process is None or process.generation != one.generation:
        yield Action(one.id, one.generation, _run_instance(world, one, node), after=(_lane(one.compartment),))
        return
    if (process.state, process.status, process.text[-WHY_MAX:]) != (one.state, one.status, one.why):
        wish = SawInstance(
            instance=one.id,  # type: ignore[arg-type]
            generation=one.generation,
            state=process.state,
            status=process.status,
            text=process.text,
        )
        yield Action(f"say/{one.id}", one.generation, Say(wish))


def _run_instance(world: World, one: Instance, node: Running) -> RunInstance:
    app, release = world.need(App, one.app), world.need(Release, one.app, one.release)
    return RunInstance(
        instance=one.id,
        generation=one.generation,
        compartment=one.compartment,
        app=one.app,
        release=one.release,
        process=one.process,
        index=one.index,
        line=release.processes[one.process],
        address=one.ipv4,
        port=one.port,
        control=node.control,
        settings=release.settings,
        keys=rollouts.setting_keys(world, one.app, release.settings),
        health=app.health.path if one.process == rollouts.WEB else None,
        drain_ms=app.health.drain_ms,
    )


def _end(world: World, seen: Seen, one: Instance) -> Iterator[Action]:
    """Out of the router, then the node, then forgotten."""
    node, app = seen.nodes.get(one.id), world.need(App, one.app)
    grace_ms = app.health.drain_ms if one.wanted == "draining" else FORCED_GRACE_MS
    if seen.routes is None and seen.now < one.since + ROUTER_US and one.ready:
        return
    server = next((server for server in seen.routes.servers if server.server.name == one.id), None) if seen.routes else None
    if server is not None:
        if one.id in (seen.routes.draining if seen.routes else ()):
            deadline_ms = grace_ms if one.wanted == "draining" else 0
            yield Action(one.id, one.generation, DrainServer(one.id, deadline_ms))
        return
    if node is None:
        yield Action(one.id, one.generation, Say(Drained(instance=one.id)))  # type: ignore[arg-type]
        return
    if node.state == "running":
        yield Action(one.id, one.generation, StopNode(node=one.id, generation=node.generation, grace_ms=grace_ms))
    yield Action(one.id, one.generation, DestroyNode(node=one.id, generation=node.generation))


def _routes(world: World, seen: Seen, ground: Ground) -> Iterator[Action]:
    if seen.routes is not None and not _routed(world, seen.routes, ground):
        yield Action(ROUTER, 1, SetRoutes(wanted_routes(world)))


def _routed(world: World, seen: routing.Seen, ground: Ground) -> bool:
    return not routing.changes(routing.place(wanted_routes(world), seen), seen, ground.map_path)


def _waiting(world: World, rollout: Rollout) -> list[Instance]:
    """Return the instances that must become ready before the roll-out is live."""
    return [one for one in rollouts.gate(rollouts.running(world, rollout.app, rollout.generation)) if one.state != "ready"]


def _rollouts(world: World, seen: Seen, ground: Ground) -> Iterator[Action]:
    """Go live when all that must be ready are and the route has moved; give up when they will not be."""
    for rollout in world.all(Rollout):
        waiting = _waiting(world, rollout)
        crashed = next((one for one in waiting if one.state == "failed" or one.exits >= CRASHES_MAX), None)
        deadline = max(rollout.since, seen.since) + rollout.ready_ms * 1000
        if not waiting:
            if seen.routes is None or not _routed(world, seen.routes, ground):
                continue
            wish: Command = Live(app=rollout.app, release=rollout.release, generation=rollout.generation)  # type: ignore[arg-type]
        elif crashed is not None:
            text = f"{crashed.process}.{crashed.index} ended with status {crashed.status}: {crashed.why}"
            wish = _failed(rollout.app, rollout.release, rollout.generation, "start", Crashed.code, text)
        elif seen.now >= deadline:
            one = waiting[0]
            text = (
                f"{one.process}.{one.index} did not answer on port {one.port} within {rollout.ready_ms // 1000} s ({one.state}); {one.why}"
            )
            wish = _failed(rollout.app, rollout.release, rollout.generation, "health", NoAnswer.code, text.rstrip("; "))
        else:
            continue
        yield Action(f"rollout/{rollout.app}", rollout.generation, Say(wish))


def _failed(app: str, release: int, generation: int, stage: str, code: str, text: str) -> Failed:
    return Failed(app=app, release=release, generation=generation, stage=stage, code=code, text=text)  # type: ignore[arg-type]


def _builds(world: World, seen: Seen, ground: Ground) -> Iterator[Action]:
    for build in world.all(Build):
        node, status = seen.nodes.get(build.id), seen.builds.get(build.id)
        if seen.now >= max(build.since, seen.since) + BUILD_US:
            text = f"the build did not end within {BUILD_US // SECOND_US} s"
            yield Action(build.id, 1, Say(_failed(build.app, build.release, 0, "build", BuildTimedOut.code, text)))
        elif status is not None:
            yield Action(build.id, 1, CollectBuild(build.id, build.app, build.release, status), after=(TREES,))
        elif node is None:
            yield Action(build.id, 1, StartNode(spec=build_spec(world, build, ground)))
        elif node.state != "running":
            text = f"the build's node ended before the build did (status {node.status})"
            yield Action(build.id, 1, Say(_failed(build.app, build.release, 0, "build", BuildFailed.code, text)))


def _strays(world: World, seen: Seen) -> Iterator[Action]:
    """Nodes that nothing wants: ended builds, and what an earlier decision has forgotten."""
    for name, node in sorted(seen.nodes.items()):
        if node.purpose in ("app", "build") and world.get(Instance, name) is None and world.get(Build, name) is None:
            yield Action(name, node.generation, DestroyNode(node=name, generation=node.generation))


def _trees(world: World, seen: Seen) -> Iterator[Action]:
    """Trees that no release names; none while a build may be about to name one, or what is left of a destroyed app may use one."""
    if world.count(Build) or any(world.get(Release, one.app, one.release) is None for one in world.all(Instance)):
        return
    named = {release.tree for release in world.all(Release)}
    for tree in sorted(seen.trees - named):
        yield Action(TREES, 1, RemoveTree(root=RELEASES, path=tree))

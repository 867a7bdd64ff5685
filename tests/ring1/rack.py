"""Hands, agents, builders and router as they behave, without a process: carries out ring 1's plans against a Domain."""

from __future__ import annotations

from typing import Any

import msgspec

from compartments.rows_apps import App, Instance, Release
from enjin.errors import Conflict
from enjin.names import Name
from ring1 import releases, routing
from ring1.haproxy_control import SeenServer
from ring1.plan import ProcessSeen, Seen, plan
from ring1.specs import Ground
from ring1.steps import CollectBuild, DrainServer, EndAgent, RunAgent, RunInstance, Say, SetRoutes, check
from supervision.reconcile import Action
from supervision.steps import DestroyNode, EnsureFabric, RemoveTree, Running, StartNode, StopNode
from tests.ring1.domain import DAEMON, Domain, digest

GROUND = Ground(
    map_path="/run/hosts.map",
    build_environment={"PIP_INDEX_URL": "x"},
    host_paths=("/srv/mirror",),
    closed=("192.0.2.0/24",),
)
READY, DRAINING = 0, 8


class Rack:
    """What runs, and what becomes of it when a plan is carried out.

    ``moods`` says how an app's processes turn out: ``ready`` (the default), ``starting`` for ever, ``failed``; ``lines`` what its
    build finds, None for a build that fails.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.nodes: dict[str, Running] = {}
        self.agents: set[str] = set()
        self.processes: dict[str, ProcessSeen] = {}
        self.builds: dict[str, int] = {}
        self.hosts: dict[str, int] = {}
        self.servers: dict[str, SeenServer] = {}
        self.trees: set[str] = set()
        self.fabric = False
        self.router = True
        self.moods: dict[str, str] = {}
        self.lines: dict[str, dict[str, str] | None] = {}
        self.log: list[Any] = []
        self.started: dict[str, int] = {}

    def seen(self) -> Seen:
        """Observe everything."""
        routes = routing.Seen(dict(self.hosts), tuple(self.servers.values())) if self.router else None
        return Seen(
            now=self.domain.time,
            since=0,
            nodes=dict(self.nodes),
            agents=frozenset(self.agents),
            processes=dict(self.processes),
            builds=dict(self.builds),
            routes=routes,
            trees=frozenset(self.trees),
            fabric=self.fabric,
        )

    def plan(self) -> list[Action]:
        """Return the plan for what is seen now, made twice."""
        actions = plan(self.domain.world, self.seen(), GROUND)
        assert actions == plan(self.domain.world, self.seen(), GROUND)
        return actions

    def round(self) -> list[Action]:
        """Plan once and carry it out as the loop does: lanes that others wait for first, stale actions left out."""
        actions = self.plan()
        targets = {action.target for action in actions}
        stopped: set[str] = set()
        for action in actions:
            if action.target in stopped or targets & set(action.after):
                continue
            try:
                check(action, self.domain.world)
                self.apply(action.step)
            except Conflict:
                stopped.add(action.target)
            self.watch()
        return actions

    def settle(self, rounds: int = 40) -> None:
        """Go round until nothing is left to do."""
        for _ in range(rounds):
            if not self.round():
                return
        raise AssertionError(f"not settled: {self.plan()}")

    def apply(self, step: Any) -> None:
        """Carry one step out."""
        self.log.append(step)
        if isinstance(step, Say):
            self.domain.do(step.wish, DAEMON)
        elif isinstance(step, StartNode):
            self._start(step)
        elif isinstance(step, StopNode):
            self.nodes[step.node] = msgspec.structs.replace(self.nodes[step.node], state="stopped")
            self.processes.pop(step.node, None)
        elif isinstance(step, DestroyNode):
            self.nodes.pop(step.node, None)
            self.processes.pop(step.node, None)
            self.builds.pop(step.node, None)
        elif isinstance(step, RunInstance):
            assert self.nodes[step.instance].state == "running"
            assert step.compartment in self.agents
            mood = self.moods.get(step.app, "ready")
            self.processes[step.instance] = ProcessSeen(generation=step.generation, state=mood)  # type: ignore[arg-type]
        elif isinstance(step, RunAgent):
            self.agents.add(step.compartment)
        elif isinstance(step, EndAgent):
            self.agents.discard(step.compartment)
        elif isinstance(step, SetRoutes):
            self._set_routes(step)
        elif isinstance(step, DrainServer):
            assert self.servers[step.instance].admin == DRAINING
            del self.servers[step.instance]
        elif isinstance(step, CollectBuild):
            self._collect(step)
        elif isinstance(step, RemoveTree):
            self.trees.discard(step.path)
        elif isinstance(step, EnsureFabric):
            self.fabric = True
        else:
            raise AssertionError(f"unknown step {step}")

    def _start(self, step: StartNode) -> None:
        spec = step.spec
        assert spec.interface is None or self.fabric
        if spec.purpose == "app":
            assert spec.mounts[0].source in self.trees, "an instance starts without its tree"
        self.started[spec.node] = self.started.get(spec.node, 0) + 1
        self.nodes[spec.node] = Running(
            node=spec.node,
            generation=spec.generation,
            state="running",
            strategy=spec.strategy,
            purpose=spec.purpose,
            control=f"run/agents/{spec.compartment}/{spec.node}.sock",
        )
        if spec.purpose == "build":
            self.builds[spec.node] = 0

    def _set_routes(self, step: SetRoutes) -> None:
        slots = routing.place(step.routes, routing.Seen(dict(self.hosts), tuple(self.servers.values())))
        wanted = {server.name for slot in slots for server in slot.servers}
        for slot in slots:
            for server in slot.servers:
                self.servers[server.name] = SeenServer(slot.number, server, READY, 2)
        for name, one in self.servers.items():
            if name not in wanted:
                self.servers[name] = SeenServer(one.slot, one.server, DRAINING, 2)
        self.hosts = {host: slot.number for slot in slots for host in slot.hosts}

    def _collect(self, step: CollectBuild) -> None:
        lines = self.lines.get(step.app, {"web": "serve"})
        if lines is None:
            wish: Any = releases.Failed(app=Name(step.app), release=step.release, stage="build", code="E-REL-007", text="boom")
        else:
            tree = digest(f"tree of {self.domain.release(step.app, step.release).source}")
            self.trees.add(tree)
            wish = releases.Built(app=Name(step.app), release=step.release, tree=tree, language="python", processes=lines)
        self.domain.do(wish, DAEMON)

    def watch(self) -> None:
        """INV-PLN-3, INV-ROL-3: what takes requests runs, and an app that serves has somebody who does."""
        for name, one in self.servers.items():
            node = self.nodes.get(name)
            assert one.admin != READY or (node is not None and node.state == "running"), f"{name} is routed and does not run"
            assert node is not None, f"{name} is in the router and has no node"

    def serving(self, app: str) -> set[str]:
        """Return the instances of *app* that get requests."""
        number = self.hosts.get(f"{app}.localhost")
        return {name for name, one in self.servers.items() if one.slot == number and one.admin == READY}

    def kill(self, node: str) -> None:
        """End a node from outside: its processes are gone, hands has its record still."""
        self.nodes[node] = msgspec.structs.replace(self.nodes[node], state="gone", missing=("process",))
        self.processes.pop(node, None)

    def end_agent(self, compartment: str) -> None:
        """Kill an agent: what it reported is known no more."""
        self.agents.discard(compartment)
        for name in list(self.processes):
            instance = self.domain.world.get(Instance, name)
            if instance is not None and instance.compartment == compartment:
                del self.processes[name]

    def live_trees(self) -> set[str]:
        """Return the trees that releases name."""
        return {release.tree for release in self.domain.world.all(Release) if release.tree}

    def apps(self) -> list[App]:
        """Return the apps that exist."""
        return [app for app in self.domain.world.all(App) if not app.destroyed]

"""Ring 1's acting part: observes nodes, agents, builds and router, and carries out what ``ring1.plan`` says.

Owns the one loop and the table from a step to what is done. Chooses nothing: every address, uid and path stands in the
step. What it sees becomes true only by a wish that goes through the decider.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from bus.http.blobs import BlobStore
from compartments.domain import Domain
from compartments.identity import Identity
from compartments.rows import Compartment
from compartments.rows_apps import Build, Release, Settings
from enjin import log
from enjin.errors import StepFailed
from keys.sealing import open_value
from ring1 import steps
from ring1.agents import Agents
from ring1.builds import Builds, NoSource
from ring1.ending import Endings
from ring1.packages import list_trees
from ring1.plan import Seen, plan
from ring1.releases import BuildFailed, Built, Failed
from ring1.routing import Router
from ring1.sealing_keys import SealingKeys
from ring1.settings import place_of
from ring1.specs import NODES, Ground
from supervision import instances
from supervision.hands_link import HandsLink, NodeExited
from supervision.reconcile import Action, Pace, Reconciler
from supervision.steps import Done, EnsureFabric, InspectAll, RemoveTree, Running, Sealed, SealTree, StartNode, StopNode
from supervision.steps import Seen as SeenNodes

PACE: Final = Pace(tick_s=1.0, gap_s=0.003, concurrency=8, apply_s=120.0)
WHY_LINES: Final = 40


class Acting:
    """What ring 1 does for ring 2."""

    def __init__(
        self, domain: Domain, identity: Identity, hands: int, agents: Agents, router: Router, ground: Ground, blobs: BlobStore
    ) -> None:
        self._domain, self._identity, self._agents, self._router, self._ground = domain, identity, agents, router, ground
        self._home = Path(identity.home)
        self._blobs = blobs
        self._log = log.get("acting")
        self._hands = HandsLink(hands, self._exited)
        self._builds = Builds(self._home, self.poke)
        self._secrets = SealingKeys(domain, self._home)
        self._endings = Endings(domain, agents, self._secrets)
        self._nodes: dict[str, Running] = {}
        self._fabric = not ground.bridge
        self._since = domain.journal.now()
        self._loop: Reconciler[Seen] = Reconciler(
            observe=self._observe, plan=self._plan, check=self._check, apply=self._apply, name="acting", pace=PACE
        )
        self._table: dict[type, Callable[[Any], Awaitable[object]]] = {
            steps.RunAgent: lambda step: self._agents.run(step.compartment, step.uid),
            steps.EndAgent: lambda step: self._agents.end(step.compartment),
            steps.RunInstance: self._run_instance,
            steps.SetRoutes: lambda step: self._router.apply(step.routes),
            steps.DrainServer: lambda step: self._router.drained(step.instance, step.deadline_ms / 1000),
            steps.CollectBuild: self._collect,
            steps.Say: lambda step: self._domain.wish(step.wish),
            StartNode: self._start_node,
            EnsureFabric: self._ensure_fabric,
            RemoveTree: lambda step: self._hands.step(step, Done),
        }

    def poke(self) -> None:
        """Say that something changed."""
        self._loop.poke()

    def running(self) -> dict[str, Running]:
        """Return what hands last said of each node."""
        return self._nodes

    def logs(self) -> Callable[[str, str, int], Awaitable[instances.Lines]]:
        """Return (compartment, instance, after) -> lines."""
        return self._agents.read_log

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            await self._loop.run()
        finally:
            await self._builds.close()
            self._hands.close()

    def _exited(self, event: NodeExited) -> None:
        self._log.info("node.exited", node=event.node, generation=event.generation, status=event.status)
        self.poke()

    async def _observe(self) -> Seen:
        seen = await self._hands.step(InspectAll(), SeenNodes)
        found, self._fabric = seen.nodes, self._fabric and not seen.fabrics
        self._nodes = {node.node: node for node in found}
        world = self._domain.world
        self._builds.watch({node.node: node.control for node in found if world.get(Build, node.node) is not None})
        routes = None
        with contextlib.suppress(StepFailed):
            routes = await self._router.observe()
        await self._secrets.settle()
        await self._endings.settle()
        return Seen(
            now=self._domain.journal.now(),
            since=self._since,
            nodes=self._nodes,
            agents=self._agents.running(),
            processes=self._agents.processes(),
            builds=dict(self._builds.statuses),
            routes=routes,
            trees=list_trees(self._home / "releases"),
            fabric=self._fabric,
        )

    def _plan(self, seen: Seen) -> list[Action]:
        return plan(self._domain.world, seen, self._ground)

    def _check(self, action: Action) -> None:
        steps.check(action, self._domain.world)

    async def _apply(self, action: Action) -> None:
        await self._domain.journal.settled()
        step = action.step
        carry_out = self._table.get(type(step))
        if carry_out is not None:
            await carry_out(step)
        else:
            await self._hands.step(step, Done)
        self.poke()

    async def _start_node(self, step: StartNode) -> None:
        """Start a node; a build only of a source that its pusher has uploaded."""
        build = self._domain.world.get(Build, step.spec.node)
        if build is not None:
            pusher = self._domain.world.need(Release, build.app, build.release).by
            if not self._blobs.holds(build.source, pusher):
                text = f"the source {build.source[:12]} was not uploaded by {pusher}"
                wish = Failed(app=build.app, release=build.release, stage="build", code=NoSource.code, text=text)  # type: ignore[arg-type]
                await self._domain.wish(wish)
                return
        await self._hands.step(step, Running)

    async def _ensure_fabric(self, step: EnsureFabric) -> None:
        await self._hands.step(step, Done)
        self._fabric = True

    async def _run_instance(self, step: steps.RunInstance) -> None:
        """Tell the agent to run a process, its settings opened for this message alone."""
        path = step.health
        wish = instances.RunInstance(
            instance=step.instance,
            generation=step.generation,
            control=step.control,
            address=step.address,
            port=step.port if path is not None else 0,
            line=step.line,
            environment=self._environment(step),
            health=instances.Health(path=path),
            kind="web" if path is not None else "worker",
        )
        await self._agents.ask(step.compartment, wish)

    def _environment(self, step: steps.RunInstance) -> dict[str, str]:
        world = self._domain.world
        compartment = world.need(Compartment, step.compartment).name
        known = {
            "ENJIN_APP": step.app,
            "ENJIN_COMPARTMENT": compartment,
            "ENJIN_RELEASE": str(step.release),
            "ENJIN_INSTANCE": f"{step.process}.{step.index}",
            "PATH": "/app/.enjin/python/bin:/app/.enjin/bin:/usr/local/bin:/usr/bin:/bin",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/home/app",
        }
        if not self._ground.bridge:
            known["ENJIN_LISTEN"] = step.address  # there is no network of its own: not all of the machine's addresses
        held = world.get(Settings, step.app, step.settings)
        if held is None or not step.keys:
            return known
        pair = self._secrets.pair(step.compartment)
        return known | {key: open_value(pair, place_of(compartment, step.app, key), held.values[key]) for key in step.keys}

    async def _collect(self, step: steps.CollectBuild) -> None:
        """Seal what a build made and say so; or say why it made nothing."""
        node = self._nodes.get(step.node)
        if node is None:
            raise StepFailed(f"the node of build {step.node} is gone")
        report, tail = await self._builds.read(step.node, node.control)
        if node.state == "running":
            await self._hands.step(StopNode(node=step.node, grace_ms=0), Done)
        if step.status != 0 or not report.processes:
            text = "\n".join([*tail[-WHY_LINES:], *([report.message] if report.message and report.message not in tail else [])])
            code = report.code or BuildFailed.code
            await self._domain.wish(Failed(app=step.app, release=step.release, stage="build", code=code, text=text))  # type: ignore[arg-type]
            return
        sealed = await self._hands.step(SealTree(root=NODES, source=f"{step.node}/out/tree"), Sealed)
        await self._domain.wish(
            Built(
                app=step.app,  # type: ignore[arg-type]
                release=step.release,
                tree=sealed.digest,  # type: ignore[arg-type]
                language=report.language,
                processes=report.processes,
                notes=tuple(report.notes),
            )
        )

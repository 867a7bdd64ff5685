"""Ring 0's acting part: makes ring 1 nodes be as wanted, and looks after those that run.

Owns the loop over nodes, the identities that go down to them, and their charters. What is wanted comes from World,
what is there from hands; ``ring0.plan`` says what to do about the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compartments.copies import Copied, witnessed
from compartments.domain import Domain
from compartments.identity import write_identity
from compartments.rows import AddressBlock, Charter, Grant, Node, NodeObservation
from enjin import log
from enjin.canonical import to_text
from enjin.errors import EnjinError, InvariantError
from enjin.failpoints import failpoint
from keys.keyring import Keyring
from ring0 import charters
from ring0.beacons import beacon_for
from ring0.buses import UNSAID, nats_port
from ring0.children import FOLLOWED, Child
from ring0.closing import Closing
from ring0.foundation import Foundation
from ring0.keys import EnrollKey, generation
from ring0.launch import ports, read_build_settings
from ring0.nodes import ReportNode
from ring0.offspring import HOME_INSIDE, RUNTIME_INSIDE, TENANT_UIDS, Offspring, sign_charter
from ring0.plan import Setting, fabric, plan
from ring0.telling import Telling
from supervision.hands_link import HandsLink, NodeExited
from supervision.init_link import InitLink, InitUnknown
from supervision.reconcile import Action, Reconciler
from supervision.steps import Done, InspectAll, Running, Seen, StartNode


class Caring:
    """The ring 1 nodes of this machine, from wanted to running."""

    def __init__(
        self,
        home: Path,
        foundation: Foundation,
        domain: Domain,
        keyring: Keyring,
        init: InitLink,
        channel: int,
        published: Callable[[], None],
    ) -> None:
        self._home, self._foundation, self._domain, self._keyring, self._init = home, foundation, domain, keyring, init
        self._published = published
        self._log = log.get("caring")
        self._settings = read_build_settings(home)
        self._setting = Setting(
            tag=foundation.tag,
            home=str(home),
            runtime=str(self._settings["runtime"]),
            daemon_uid=foundation.uid(0) if foundation.privileged else 0,
            host_paths=tuple(self._settings["paths"]) if foundation.privileged else (),
            closed=tuple(f"{address}/{128 if ':' in address else 32}" for address in self._settings["closed"]),
        )
        self._hands = HandsLink(channel, self._exited)
        self._children: dict[str, Child] = {}
        self._offspring: dict[str, Offspring] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, Running] = {}
        if keyring.issuer is None:
            raise InvariantError("ring 0 has no issuer key")
        self._issuer = keyring.issuer
        self._telling = Telling(domain, self._issuer, lambda: self._children, self._charter)
        self.closing = Closing(domain, lambda: self._children, self._telling.bring)
        self._unmade: tuple[str, ...] = ()
        # Hands checks every step against this cloud's own names; nothing more is known here.
        self._loop = Reconciler(observe=self._observe, plan=self._plan, check=lambda _action: None, apply=self._apply, name="caring")
        for node in domain.world.find(Node, ring=1):
            self._believe(self.offspring(node.id), node.id)

    def poke(self) -> None:
        """Say that World changed."""
        self._loop.poke()
        self._telling.poke()
        self.closing.poke()

    def reachable(self) -> list[tuple[str, str, bool]]:
        """Return the ring 1 nodes that run, each with its hub's public key (hex) and whether we reach it over NATS."""
        return [
            (node, self.offspring(node).keyring.hub.public.hex(), node in self._children and self._children[node].over_nats)
            for node, running in sorted(self._seen.items())
            if running.state == "running"
        ]

    def copies(self) -> list[Copied]:
        """Return how far the copies of the nodes' journals are."""
        return [child.copy() for child in self._children.values()]

    def control(self, node: str) -> Path | None:
        """Return the supervisor socket of *node*'s init; None while it does not run here."""
        running = self._seen.get(node)
        return self._home / running.control if running is not None and running.state == "running" and running.control else None

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._loop.run())
                group.create_task(self._telling.run())
                group.create_task(self.closing.run())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._hands.close()

    def offspring(self, node: str) -> Offspring:
        """Return the keys of *node*, made when there are none."""
        if node not in self._offspring:
            self._offspring[node] = Offspring(self._home / "ring0" / "children", self._foundation.cloud, node)
        return self._offspring[node]

    def _believe(self, offspring: Offspring, node: str) -> bytes:
        """Issue the node's grant, or take the one in force, and believe it ourselves."""
        trust, grant = self._domain.trust, self._domain.grant
        blocks = self._domain.world.find(AddressBlock, domain=node)
        prefixes, now = [block.ipv4 for block in blocks], self._domain.journal.now()
        frame = offspring.grant(trust.grant(grant), grant, self._issuer, prefixes, now, generation(self._domain.world, node))
        trust.add(frame)
        return frame

    def _exited(self, event: NodeExited) -> None:
        self._log.warning("node.exited", node=event.node, generation=event.generation, status=event.status)
        self.poke()

    async def _observe(self) -> list[Running]:
        seen = await self._hands.step(InspectAll(), Seen)
        self._unmade = seen.fabrics
        found = {running.node: running for running in seen.nodes}
        changed = {node: running.state for node, running in found.items()} != {node: running.state for node, running in self._seen.items()}
        self._seen = found
        await self._report(found)
        self._look_after(found)
        if changed:
            self._published()
        return list(seen.nodes)

    async def _report(self, found: dict[str, Running]) -> None:
        """Tell World what is news about ring 1 nodes."""
        for node in self._domain.world.find(Node, ring=1):
            running = found.get(node.id)
            state, generation = ("gone", node.generation) if running is None else (running.state, running.generation)
            if state == "gone":
                state = "gone" if node.wanted == "gone" and running is None else "stopped"
            held = self._domain.world.get(NodeObservation, node.id)
            known = state == node.state and (running is None or state != "running" or (held is not None and held.generation == generation))
            if known or (running is None and node.state == "pending") or (generation < node.generation):
                continue
            isolation = {"means": running.isolation} if running is not None and running.isolation else {}
            with contextlib.suppress(EnjinError):
                await self._domain.wish(ReportNode(node=node.id, generation=generation, state=state, isolation=isolation))  # type: ignore[arg-type]

    def _look_after(self, found: dict[str, Running]) -> None:
        """Keep one task per node that runs, and none for others."""
        for node, task in list(self._tasks.items()):
            if task.done() or node not in found or found[node].state != "running":
                task.cancel()
                del self._tasks[node]
                self._children.pop(node, None)
        for node, running in found.items():
            if running.state == "running" and running.control and node not in self._tasks:
                child = Child(
                    self._home,
                    self.offspring(node),
                    keyring=self._keyring,
                    trust=self._domain.trust,
                    node=self._foundation.node,
                    grant=self._domain.grant,
                    now=self._domain.journal.now,
                    control=self._home / running.control,
                    beacon=functools.partial(beacon_for, self._domain, node),
                    over_nats=self._over_nats,
                    moved=self._published,
                )
                self._children[node] = child
                self._tasks[node] = asyncio.get_running_loop().create_task(child.run(), name=f"child {node}")

    def _nats_port(self) -> int:
        """Return where a ring 1 node's NATS server listens; 0: the bus is ZeroMQ."""
        port = nats_port(self._domain.world, 1)
        return self._foundation.nats_port(1) if port == UNSAID else port

    def _over_nats(self) -> bool:
        return self._nats_port() > 0

    def _plan(self, seen: list[Running]) -> list[Action]:
        actions = plan(self._domain.world, seen, self._setting)
        return [Action("fabric", 1, fabric(self._domain.world, self._setting)), *actions] if self._unmade else actions

    async def _apply(self, action: Action) -> None:
        await self._domain.journal.settled()
        step = action.step
        if isinstance(step, StartNode):
            if step.spec.interface is not None:
                await self._hands.step(fabric(self._domain.world, self._setting), Done)
            await self._give_identity(step.spec.node)
            await self._hands.step(step, Running)
        else:
            await self._hands.step(step, Done)
        self.poke()

    async def _give_identity(self, node: str) -> None:
        """Put the node's identity, and its hands' configuration, where its init will find them: with our own init."""
        charter = await self._charter(node)
        identity = self._identity(node, charter)
        settings = self._hands_settings(node)
        for name, descriptor in ((f"identity-{node}", identity), (f"hands-{node}", _memory(settings))):
            with contextlib.suppress(InitUnknown):
                await self._init.drop(f"listener:{name}")
            try:
                await self._init.give(name, descriptor)
            finally:
                os.close(descriptor)

    def _places(self, node: str) -> tuple[bool, str, str]:
        jail = self._domain.world.need(Node, node).strategy == "jail"
        if jail:
            return True, HOME_INSIDE, RUNTIME_INSIDE
        return False, str(self._home / "nodes" / node / "state"), str(self._settings["runtime"])

    def _identity(self, node: str, charter: str) -> int:
        row = self._domain.world.need(Node, node)
        jail, home, runtime = self._places(node)
        offspring = self.offspring(node)
        frame = self._believe(offspring, node)
        told = self._domain.trust
        listening = ports(self._foundation)
        return write_identity(
            offspring.identity(
                parent=self._foundation.node,
                label=row.label,
                strategy="jail" if jail else "process",
                home=home,
                runtime=runtime,
                root=to_text(told.root_frame),
                roots=tuple(to_text(one) for one in told.roots.successors),
                grant=to_text(frame),
                grants=tuple(to_text(one) for one in told.frames()),
                charter=charter,
                router_port=listening["router"],
                api_port=listening["api1"],
                build_environment=self._settings["environment"],
                host_paths=tuple(self._settings["paths"]),
                closed=self._setting.closed,
                nats_port=self._nats_port(),
                witnessed=witnessed(offspring.directory / FOLLOWED, node),
                time=self._domain.clock.mark(learnt=True),
            )
        )

    def _hands_settings(self, node: str) -> dict[str, Any]:
        jail, home, runtime = self._places(node)
        return {
            "tag": self._foundation.tag,
            "home": home,
            "runtime": runtime,
            "privileged": jail,
            "uids": [list(TENANT_UIDS)] if jail else [],
            "host_paths": list(self._settings["paths"]),
            "closed": list(self._setting.closed),
        }

    async def _charter(self, node: str) -> str:
        """Return the frame of the node's charter, issuing a new version when what it should say has changed."""
        world, trust = self._domain.world, self._domain.trust
        grant = self._believe(self.offspring(node), node)
        if world.get(Grant, trust.add(grant)) is None:
            await self._domain.wish(EnrollKey(frame=to_text(grant)), reason="a ring 1 node")
        draft = charters.due(world, world.need(Node, node))
        if draft is None:
            return world.need(Charter, node).frame
        frame = sign_charter(draft, self._issuer)
        await self._domain.wish(charters.IssueCharter(domain=node, version=draft.version, frame=frame))
        return frame


def _memory(settings: dict[str, Any]) -> int:
    """Return a memory file that holds *settings*."""
    descriptor = os.memfd_create("hands", os.MFD_CLOEXEC)
    failpoint("hands.settings.write")
    os.write(descriptor, json.dumps(settings).encode())
    return descriptor

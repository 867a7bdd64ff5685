"""What ring 0's daemon does about a compartment that is to be destroyed: asks every ring 1 node, step by step, until it is gone or kept.

Owns the loop and its order; remembers nothing that the journal does not: killed anywhere, it asks again, and each node answers as
before. A node that does not run is waited for, since apps or a key may lie there: who will not wait removes the node.

INV-CLO-1: a node is asked to let a compartment go only after it has the charter and the approvals that ring 0 has.
INV-CLO-2: before the first key is condemned every node has closed the compartment and found the approvals to hold by its own trust.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

from compartments.destroying import CompartmentInUse, EndCompartment, Holdings, ShowHoldings, one_line
from compartments.domain import Domain
from compartments.rows import Node
from compartments.rows_approvals import Approval, ApprovalRequest
from compartments.rows_endings import Ending
from compartments.world import World
from enjin import log
from enjin.canonical import from_text, parse
from enjin.errors import EnjinError
from enjin.failpoints import failpoint
from keys.frame import open_frame
from ring0.children import Child
from ring0.destroying import CondemnCompartment, ForgetCompartment, KeepCompartment

AGAIN_S: Final = 1.0
SOON_S: Final = 0.1
ASK_S: Final = 5.0
LATE_US: Final = 180_000_000  # three lives of a command: what a bus held back that long is refused
Stage = Literal["closing", "condemned", "open"]


class Waits(Exception):
    """Something is not so far; the text says what is waited for."""


class Closing:
    """Brings each compartment's end to an end.

    Args:
        domain: Ring 0's.
        children: Returns the nodes that run.
        bring: Brings a node the charter that it should have now.
    """

    def __init__(self, domain: Domain, children: Callable[[], Mapping[str, Child]], bring: Callable[[str, Child], Awaitable[None]]) -> None:
        self._domain, self._children, self._bring = domain, children, bring
        self.notes: dict[str, str] = {}
        self._moved = asyncio.Event()
        self._log = log.get("closing")

    def poke(self) -> None:
        """Say that World changed."""
        self._moved.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        pause = SOON_S
        while True:
            self._moved.clear()
            waits = await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if waits else AGAIN_S):
                    await self._moved.wait()
            pause = min(pause * 2, AGAIN_S) if waits else SOON_S

    async def look(self) -> bool:
        """Take each compartment that ends as far as it goes now; whether one waits for something."""
        world = self._domain.world
        steps = [await self._step(one) for state in ("closing", "condemned") for one in world.find(Ending, state=state)]
        late = self._domain.journal.now() - LATE_US
        steps += [await self._reopen(one) for one in world.find(Ending, state="kept") if one.ended > late]
        return not all(steps)

    async def _reopen(self, ending: Ending) -> bool:
        """Open a compartment that was kept where an order to close it came late; whether every node that runs was heard of it."""
        try:
            for child in self._children().values():
                if (await self._look(child, ending)).state == "closing":
                    await self._tell(child, ending, "open", ending.why)
        except EnjinError as error:
            self._log.warning("compartment.waits", compartment=ending.name, error=error)
            return False
        return True

    async def _step(self, ending: Ending) -> bool:
        """Take one compartment as far as it goes now; whether it waits for nothing."""
        await self._domain.journal.settled()  # nobody hears of it before the entry is on disk
        try:
            if ending.state == "closing":
                await self._close(ending)
            else:
                await self._destroy(ending)
        except Waits as waits:
            self.notes[ending.compartment] = one_line(str(waits))
            return False
        except EnjinError as error:
            self.notes[ending.compartment] = one_line(error.message)
            self._log.warning("compartment.waits", compartment=ending.name, error=error)
            return False
        self.notes.pop(ending.compartment, None)
        return True

    async def _close(self, ending: Ending) -> None:
        """Close it everywhere and condemn it; or open it everywhere and keep it, where one node says what it holds."""
        nodes = self._all()
        try:
            for node, child in nodes.items():
                await self._bring(node, child)
                if (await self._look(child, ending)).state == "open":
                    await self._tell(child, ending, "closing")
                found = await self._look(child, ending)
                if found.state == "closing" and found.why:
                    raise CompartmentInUse(f"node {self._label(node)} keeps compartment {ending.name}: {found.why}")
        except CompartmentInUse as error:
            await self._keep(ending, nodes, one_line(error.message))
            return
        failpoint("compartment.condemn")
        try:
            await self._domain.wish(CondemnCompartment(compartment=ending.compartment, nodes=tuple(nodes)), reason=_reason(ending))
        except CompartmentInUse as error:
            await self._keep(ending, nodes, error.message)

    async def _keep(self, ending: Ending, nodes: Mapping[str, Child], why: str) -> None:
        for child in nodes.values():
            await self._tell(child, ending, "open", why)
        await self._domain.wish(KeepCompartment(compartment=ending.compartment, why=why), reason=_reason(ending))
        self._log.warning("compartment.kept", compartment=ending.name, why=why)

    async def _destroy(self, ending: Ending) -> None:
        """Have every key destroyed, and take the compartment out of the graph when all are."""
        nodes = self._all()
        states = {node: await self._look(child, ending) for node, child in nodes.items()}
        refused: list[str] = []
        for node, found in states.items():
            if found.state in ("open", "closing"):
                try:
                    await self._tell(nodes[node], ending, "condemned")
                except CompartmentInUse as error:  # it came there later than the order; the other nodes go on
                    refused.append(f"node {self._label(node)}: {error.message}")
        if refused:
            raise Waits("; ".join(refused))
        for node, found in states.items():
            if found.state != "destroyed":
                raise Waits(f"node {self._label(node)} {found.why or 'destroys its key'}")
        failpoint("compartment.forget")
        await self._domain.wish(ForgetCompartment(compartment=ending.compartment, nodes=tuple(nodes)), reason=_reason(ending))
        self._log.warning("compartment.destroyed", compartment=ending.name)

    def _all(self) -> dict[str, Child]:
        """Return every ring 1 node's link. Raises: Waits: one does not run."""
        running = self._children()
        rows = self._domain.world.find(Node, ring=1)
        away = [row.label for row in rows if row.id not in running]
        if away:
            raise Waits(f"waits for node {', '.join(away)}, which does not run")
        return {row.id: running[row.id] for row in rows}

    async def _tell(self, child: Child, ending: Ending, stage: Stage, why: str = "") -> None:
        request, given = evidence(self._domain.world, ending)
        wish = EndCompartment(
            compartment=ending.compartment, name=ending.name, stage=stage, asked=ending.asked, request=request, given=given,
            reason=why or ending.reason,
        )  # fmt: skip
        await child.command(wish, reason=_reason(ending), deadline_s=ASK_S)

    async def _look(self, child: Child, ending: Ending) -> Holdings:
        """Return what a node says. Raises: Unreachable, what it refuses with, and Malformed for what is no answer."""
        reply = await child.query(ShowHoldings(compartment=ending.compartment), deadline_s=ASK_S)
        return parse(reply.result, Holdings)

    def _label(self, node: str) -> str:
        row = self._domain.world.get(Node, node)
        return row.label if row is not None else node


def evidence(world: World, ending: Ending) -> tuple[str, tuple[str, ...]]:
    """Return the request by which *ending* was approved, "" when it needed nobody, and the signed approvals (base64url)."""
    if not ending.asked:
        return "", ()
    digest = open_frame(from_text(ending.asked)).digest
    for row in world.find(ApprovalRequest, digest=digest):
        if row.state == "carried":
            return row.id, tuple(one.frame for one in world.find(Approval, request=row.id))
    return "", ()


def _reason(ending: Ending) -> str:
    """Return why the daemon says so: who wants the compartment destroyed, and why."""
    return f"{ending.asker} destroys {ending.name}{ending.reason and ': '}{ending.reason}"[:200]

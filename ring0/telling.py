"""What ring 0 tells each running ring 1 node as soon as it is so: revocations first, then a newer charter.

Owns the loop, the signing of revocations and what each node is known to have. A node that does not answer delays no other.

INV-TEL-1: a revocation is signed after its entry is on disk, and told until the node has confirmed it or a charter that holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from compartments.charter import ReceiveCharter, StaleCharter
from compartments.domain import Domain
from compartments.revocations import Revoke
from compartments.rows import RevokedKey
from enjin import log
from enjin.canonical import to_text
from enjin.errors import EnjinError, Unreachable
from keys.revocation import Revocation, sign_revocation
from keys.signing import Signer
from ring0 import charters
from ring0.children import Child

GAP_S: Final = 0.02  # however fast entries come, looking for what is due takes no more than a part of the time
TELL_S: Final = 5.0
AGAIN_S: Final = 1.0
STATEMENTS_MAX: Final = 8


class Telling:
    """Brings every node what it must know.

    Args:
        domain, issuer: Ring 0's domain and its key for grants.
        children: Returns the nodes that run.
        charter: Returns the frame of a node's charter, issued anew when it should say something else.
    """

    def __init__(
        self,
        domain: Domain,
        issuer: Signer,
        children: Callable[[], dict[str, Child]],
        charter: Callable[[str], Awaitable[str]],
    ) -> None:
        self._domain, self._issuer, self._children, self._charter = domain, issuer, children, charter
        self._moved = asyncio.Event()
        self._chartered: dict[str, str] = {}
        self._revoked: dict[str, int] = {}  # the newest revocation that each node has
        self._statements: dict[int, str] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, tuple[Child, asyncio.Task[None]]] = {}
        self._log = log.get("telling")

    def poke(self) -> None:
        """Say that World changed."""
        for event in (self._moved, *self._news.values()):
            event.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                self._moved.clear()
                self._match(dict(self._children()))
                await _wait(self._moved)
        finally:
            for _, task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._tasks.values()), return_exceptions=True)

    def _match(self, children: dict[str, Child]) -> None:
        """Have one task per node that runs, and none for others."""
        for node, (child, task) in list(self._tasks.items()):
            if children.get(node) is not child or task.done():
                task.cancel()
                del self._tasks[node]
        for node, child in children.items():
            if node not in self._tasks:
                self._news[node] = asyncio.Event()
                self._tasks[node] = child, asyncio.get_running_loop().create_task(self._keep(node, child), name=f"tell {node}")

    async def _keep(self, node: str, child: Child) -> None:
        """Tell one node, again and again: another that does not answer delays it not."""
        while True:
            self._news[node].clear()
            try:
                await self._tell(node, child)
            except Unreachable:
                pass
            except EnjinError as error:
                self._log.warning("charter.failed", node=node, error=error)
            await asyncio.sleep(GAP_S)
            await _wait(self._news[node])

    async def bring(self, node: str, child: Child) -> None:
        """Tell *node* what it must know now, and return when it has it. Raises: what it refuses with; Unreachable."""
        await self._tell(node, child)

    async def _tell(self, node: str, child: Child) -> None:
        await self._domain.journal.settled()
        count = self._domain.world.count(RevokedKey)
        await self._tell_revocations(node, child, count)
        frame = await self._charter(node)
        if self._chartered.get(node) != frame:
            with contextlib.suppress(StaleCharter):
                await child.command(ReceiveCharter(frame=frame), reason="charter", deadline_s=TELL_S)
            self._chartered[node] = frame
        self._revoked[node] = max(self._revoked[node], count)  # what was not told by itself stands in the charter

    async def _tell_revocations(self, node: str, child: Child, count: int) -> None:
        """Tell *node* what its charter does not say yet; where that is much at once, the charter that follows is faster."""
        if node not in self._revoked:
            held = charters.in_force(self._domain.world, node)
            self._revoked[node] = len(held.revoked) if held is not None else 0
        if count - self._revoked[node] > STATEMENTS_MAX:
            return
        for number in range(self._revoked[node] + 1, count + 1):
            await child.command(Revoke(frame=self._statement(number)), reason="revoked by the ring above", deadline_s=TELL_S)
            self._revoked[node] = number

    def _statement(self, number: int) -> str:
        """Return revocation *number*, signed once for every node. They count from 1 without a gap."""
        if number not in self._statements:
            domain = self._domain
            row = next(row for row in domain.world.all(RevokedKey) if row.number == number)
            said = Revocation(
                cloud=str(domain.keyring.cloud), name=row.key, issuer=domain.grant, number=number, since=row.time, reason=row.reason
            )
            self._statements[number] = to_text(sign_revocation(said, self._issuer))
        return self._statements[number]


async def _wait(event: asyncio.Event) -> None:
    """Return when *event* is set, or after a second: what could not be told is tried again."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AGAIN_S):
            await event.wait()

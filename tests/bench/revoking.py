"""revoke_p50_ms, revoke_p99_ms: from an operator's wish to a node's signed word that it holds, over every (revocation, node).

A real decider (journal on disk) and ring 0's own telling on one side, a hundred emulated ring 1 nodes on pipes on the other: each
verifies the command and the statement in it, commits to its own journal, believes the key no longer and answers. That a revoked key is
refused afterwards, and another one is not, is checked on every node.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any, Final

from bus.caller import Caller
from bus.messages import Command, Reply, Role, Rule
from bus.over_pipe import PipeTransport
from bus.permission import Place
from bus.transport import MemoryNetwork
from compartments.domain import Domain
from compartments.revocations import Revoke, open_statement, revoke
from enjin.errors import Unreachable, from_reply
from enjin.host import clock, monotonic_s
from keys.revocation import read_revocation
from keys.trust import TrustSet
from ring0.telling import Telling
from tests.bench.figures import FIGURES, Row
from tests.bench.ring1_nodes import crowd, everybody
from tests.bus.waiting import until
from tests.cloud import Cloud as RealCloud
from tests.compartments.parents import PARENT, Parents, Touch
from tests.places import temporary_home

NODES: Final = 100
TIMES: Final = 20
SILENT_S, DEADLINE_S = 0.5, 60.0


class Way:
    """Ring 0's way to one node, with a note of when it had each revocation."""

    def __init__(self, parents: Parents, node: str, descriptor: int) -> None:
        self.parents, self.node = parents, node
        self.transport = PipeTransport(descriptor)
        self.confirmed: dict[str, float] = {}
        self.trust = TrustSet(parents.root)
        for one in (PARENT, node):
            self.trust.add(parents.people[one].frame)
        self._callers: dict[str, Caller] = {}

    def caller(self, who: str) -> Caller:
        """Return *who*'s way to ask the node."""
        if who not in self._callers:
            speaker = self.parents.speaker(self.parents.people[who], f"ring1.{self.node}", daemon=who == PARENT)
            self._callers[who] = Caller(self.transport, speaker, self.trust, responder=self.node)
        return self._callers[who]

    async def command(self, wish: Command, *, rid: str = "", reason: str = "", deadline_s: float = 30.0) -> Reply:
        """Want something of the node, as ring 0's child does."""
        reply = await self.caller(PARENT).command(wish, rid=rid, reason=reason, deadline_s=deadline_s)
        if not reply.ok:
            raise from_reply(reply.code, reply.message, reply.hint)
        if isinstance(wish, Revoke):
            self.confirmed[read_revocation(open_statement(wish)).name] = monotonic_s()
        return reply

    async def refuses(self, who: str) -> bool:
        """Return whether the node does not answer *who*."""
        try:
            return not (await self.caller(who).command(Touch(), deadline_s=SILENT_S)).ok
        except Unreachable:
            return True


def decider(parents: Parents, folder: Path) -> Domain:
    """Return ring 0's domain, as far as it decides revocations."""
    ours = parents.people[PARENT]
    trust = TrustSet(parents.root)
    for one in parents.people.values():
        trust.add(one.frame)
    return Domain(
        place=Place(node=PARENT, domain="ring0", channel="ring0", ring=0, path="cloud"), keyring=ours.keyring, trust=trust,
        grant=ours.grant, epoch=1, path=folder / "ring0" / "journal.db", rows=((Rule(Revoke, revoke, allow=Role.OPERATOR),),),
        locate=lambda _world, _name: "cloud", groups=lambda _world: frozenset(),
    )  # fmt: skip


async def latencies(folder: Path, total: int, times: int) -> list[float]:
    """Return for every revocation and node after how many milliseconds it was confirmed."""
    began, victims = clock().wall_us, tuple(f"victim {number}" for number in range(times))
    parents = everybody(began, victims, total)
    with crowd(folder, began, victims, total) as ends:
        ways = {node: Way(parents, node, end.detach()) for node, end in ends.items()}
        domain, issuer = decider(parents, folder), parents.people[PARENT].keyring.issuer
        assert issuer is not None
        await domain.serve(MemoryNetwork().join("ring0"))

        async def charter(_node: str) -> str:
            return ""

        children: Any = ways
        telling = Telling(domain, issuer, lambda: children, charter)
        telling._chartered = dict.fromkeys(ways, "")
        domain.on_change.append(telling.poke)
        running = asyncio.ensure_future(telling.run())
        found: list[float] = []
        try:
            await _warm(ways)
            for name in victims:
                parents.revoke(parents.people[name])
                key = parents.revoked[-1]
                since = monotonic_s()
                await domain.wish(Revoke(frame=parents.statement(parents.people[name])), reason="lost")
                await until(lambda key=key: all(key in way.confirmed for way in ways.values()), "every node has confirmed", DEADLINE_S)  # type: ignore[misc]
                found += [(way.confirmed[key] - since) * 1000 for way in ways.values()]
            if not all(await asyncio.gather(*(way.refuses(victims[-1]) for way in ways.values()))):
                raise AssertionError("a node takes commands of a revoked key")
            await _warm(ways)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for way in ways.values():
                await way.transport.close()
            await domain.close()
    return found


async def _warm(ways: dict[str, Way]) -> None:
    """Check that an operator's key is taken everywhere. Raises: AssertionError."""
    for way in ways.values():
        if await way.refuses("operator"):
            raise AssertionError(f"node {way.node} refuses a key that nobody revoked")


def measure(_cloud: RealCloud) -> list[Row]:
    """Return both figures."""
    with temporary_home() as folder:
        found = asyncio.run(latencies(folder, NODES, TIMES))
    centiles = statistics.quantiles(found, n=100)
    return [Row(FIGURES["revoke_p50_ms"], centiles[49]), Row(FIGURES["revoke_p99_ms"], centiles[98])]

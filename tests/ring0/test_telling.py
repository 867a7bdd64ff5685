"""Ring 0 tells every ring 1 node of a revocation at once: signed, in order, and one that does not answer delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bus.messages import Command, Reply
from compartments.rows import RevokedKey
from compartments.world import World
from enjin.canonical import canonical, to_text
from enjin.errors import from_reply
from keys.frame import CHARTER, seal
from ring0.telling import Telling
from tests.bus.waiting import asynchronous, until
from tests.compartments.parents import PARENT, Node, Parents, Shift, nodes
from tests.compartments.test_revocations import NEIGHBOUR, with_neighbour


@pytest.fixture
def shift() -> Iterator[Shift]:
    with pytest.MonkeyPatch.context() as patch:
        yield Shift(patch)


class Way:
    """Ring 0's way to a node; a silent one never answers."""

    def __init__(self, node: Node, *, silent: bool) -> None:
        self.node, self.silent = node, silent

    async def command(self, wish: Command, *, rid: str = "", reason: str = "", deadline_s: float = 30.0) -> Reply:
        """Want something of the node."""
        if self.silent:
            await asyncio.Event().wait()
        reply = await self.node.command(self.node.parents.people[PARENT], wish)
        if not reply.ok:
            raise from_reply(reply.code, reply.message, reply.hint)
        return reply


def ring0(parents: Parents) -> Any:
    """Return as much of ring 0's domain as telling needs: its world, keys and a journal with nothing under way."""

    async def settled() -> None:
        return None

    ours = parents.people[PARENT]
    return SimpleNamespace(
        world=World(), keyring=SimpleNamespace(cloud=parents.cloud), grant=ours.grant, journal=SimpleNamespace(settled=settled)
    )


@asynchronous
async def test_each_node_is_told_for_itself_and_in_order(tmp_path: Path, shift: Shift) -> None:
    """Two revocations: both nodes that answer enforce both at once, though the first node of the three never answers."""
    async with nodes(tmp_path, shift, 3, prepare=with_neighbour) as made:
        parents = made[0].parents
        domain, issuer = ring0(parents), parents.people[PARENT].keyring.issuer
        assert issuer is not None
        ways = {node.node: Way(node, silent=number == 0) for number, node in enumerate(made)}

        async def charter(node: str) -> str:
            await asyncio.Event().wait()
            return node

        telling = Telling(domain, issuer, lambda: ways, charter)  # type: ignore[arg-type, return-value]
        running = asyncio.ensure_future(telling.run())
        for number, who in enumerate((parents.people[NEIGHBOUR], parents.operator), 1):
            domain.world.put(RevokedKey(key=str(who.keyring.message.key_id), number=number, time=shift.now(), by="u-1", reason="lost"))
        telling.poke()
        await until(lambda: [node.gate.view()["revocations"] for node in made] == [0, 2, 2], "two of the nodes were told")
        assert [node.domain.world.count(RevokedKey) for node in made] == [0, 2, 2]
        assert [await node.dead(parents.operator) for node in made] == [False, True, True]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynchronous
async def test_many_revocations_at_once_come_with_the_charter(tmp_path: Path, shift: Shift) -> None:
    """Twelve keys: one charter tells of all, in one entry of the node's journal; the one revoked after that comes by itself again."""
    async with nodes(tmp_path, shift, prepare=with_neighbour) as (node,):
        parents = node.parents
        domain, issuer = ring0(parents), parents.people[PARENT].keyring.issuer
        assert issuer is not None
        ways = {node.node: Way(node, silent=False)}
        charters = {count: parents.charter(node.node) for count in (0, 12, 13)}

        async def charter(_node: str) -> str:
            made = msgspec.structs.replace(charters[len(parents.revoked)], revoked=tuple(parents.revoked))
            return to_text(seal(CHARTER, canonical(made), issuer))

        def revoked(key: str) -> None:
            parents.revoked.append(key)
            domain.world.put(RevokedKey(key=key, number=len(parents.revoked), time=shift.now(), by="u-1"))

        telling = Telling(domain, issuer, lambda: ways, charter)  # type: ignore[arg-type, return-value]
        running = asyncio.ensure_future(telling.run())
        await until(lambda: telling._chartered, "the first charter")
        before = node.domain.journal.head.number
        for number in range(12):
            revoked(f"{number:064x}")
        telling.poke()
        await until(lambda: node.gate.view()["revocations"] == 12, "the node has twelve")
        assert node.domain.journal.head.number == before + 1
        revoked(str(parents.operator.keyring.message.key_id))
        telling.poke()
        await until(lambda: node.gate.view()["revocations"] == 13, "the node has thirteen")
        assert await node.dead(parents.operator)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

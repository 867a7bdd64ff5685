"""rotate_100_s: every online key of a hundred nodes, from the order to do so to the last node's word that it refuses all the old ones.

Ring 0's own telling on one side; a hundred emulated ring 1 nodes on pipes on the other, each with its own journal and the product's
renewing. An operator commands every node in turn all the while: one refusal or silence, and nothing is measured. The five seconds for
which a key is published before it is used are part of it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec

from bus.transport import MemoryNetwork
from compartments.beacons import ShowStanding
from compartments.charter import Charter
from compartments.revocations import Revoke
from enjin.canonical import canonical, to_text
from enjin.host import clock, monotonic_s
from keys.frame import CHARTER, open_frame, seal
from keys.grants import read_grant, sign_grant
from ring0.telling import Telling
from tests.bench.figures import FIGURES, Row
from tests.bench.revoking import Way, decider
from tests.bench.ring1_nodes import crowd, everybody
from tests.bus.waiting import until, until_async
from tests.cloud import Cloud as RealCloud
from tests.compartments.parents import PARENT, Parents, Touch
from tests.places import temporary_home

NODES: Final = 100
DEADLINE_S, ANSWER_S = 120.0, 20.0


class Nodes:
    """What ring 0 says to its nodes: charters that name their newest grants and all revocations."""

    def __init__(self, parents: Parents, nodes: tuple[str, ...]) -> None:
        self.parents, self.nodes = parents, nodes
        self.frames: dict[str, bytes] = {}
        self._charters: dict[str, tuple[tuple[int, bool], str]] = {}
        self._versions: dict[str, int] = {}
        issuer = parents.people[PARENT].keyring.issuer
        assert issuer is not None
        self.issuer = issuer

    def replace(self) -> None:
        """Grant every node its next key."""
        for node in self.nodes:
            who = self.parents.people[node]
            old = read_grant(open_frame(who.frame))
            keys = msgspec.structs.replace(old.keys, message=who.keyring.message_of(2).public.hex())
            new = msgspec.structs.replace(old, keys=keys, not_before=old.not_before + 1)
            self.frames[node] = sign_grant(new, self.issuer)

    async def charter(self, node: str) -> str:
        """Return the frame of *node*'s charter; a new version when it would say something else."""
        said = len(self.parents.revoked), node in self.frames
        if node not in self._charters or self._charters[node][0] != said:
            self._versions[node] = self._versions.get(node, 0) + 1
            frames = [self.parents.people[one].frame for one in (PARENT, "operator", node)]
            frames += [self.frames[node]] if node in self.frames else []
            made = Charter(
                cloud=self.parents.cloud, domain=node, epoch=1, version=self._versions[node], decider=node, parent=PARENT,
                grant=open_frame(frames[-1]).digest, grants=tuple(map(to_text, frames)), revoked=tuple(self.parents.revoked),
            )  # fmt: skip
            self._charters[node] = said, to_text(seal(CHARTER, canonical(made), self.issuer))
        return self._charters[node][1]


async def commands(ways: dict[str, Way], ending: asyncio.Event) -> int:
    """Command every node in turn as an operator until *ending*, and return how often. Raises: AssertionError: one was refused."""
    count = 0
    while not ending.is_set():
        for way in ways.values():
            reply = await way.caller("operator").command(Touch(), deadline_s=ANSWER_S)
            if not reply.ok:
                raise AssertionError(f"node {way.node} has refused a command: {reply.code} {reply.message}")
            count += 1
    return count


async def standing(way: Way) -> dict[str, Any]:
    """Return what a node knows of the ring above, and with which grant it speaks."""
    reply = await way.caller("operator").query(ShowStanding())
    found: dict[str, Any] = msgspec.json.decode(reply.result)
    return found


async def seconds(folder: Path, total: int) -> float:
    """Return how long the rotation takes. Raises: AssertionError: a command was refused meanwhile, or a node does not follow."""
    began = clock().wall_us
    parents = everybody(began, (), total)
    with crowd(folder, began, (), total) as ends:
        ways: Any = {node: Way(parents, node, end.detach()) for node, end in ends.items()}
        domain, nodes = decider(parents, folder), Nodes(parents, tuple(ways))
        await domain.serve(MemoryNetwork().join("ring0"))
        telling = Telling(domain, nodes.issuer, lambda: ways, nodes.charter)
        domain.on_change.append(telling.poke)
        running, ending = asyncio.ensure_future(telling.run()), asyncio.Event()
        try:
            await until(lambda: len(telling._chartered) == total, "every node has its charter", DEADLINE_S)
            commanding = asyncio.ensure_future(commands(ways, ending))
            since = monotonic_s()
            nodes.replace()
            for node, way in ways.items():
                way.trust.add(nodes.frames[node])
            telling.poke()
            for node, way in ways.items():
                await until_async(lambda node=node, way=way: _speaks(way, nodes.frames[node]), f"{node} uses its new key", DEADLINE_S)  # type: ignore[misc]
            for node in ways:
                parents.revoke(parents.people[node])
                await domain.wish(Revoke(frame=parents.statement(parents.people[node])), reason="rotated")
            for node, way in ways.items():
                await until_async(lambda way=way: _holds(way, total), f"{node} refuses the old keys", DEADLINE_S)  # type: ignore[misc]
            taken = monotonic_s() - since
            ending.set()
            if await commanding < total:
                raise AssertionError("too few commands were given meanwhile")
            return taken
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for way in ways.values():
                await way.transport.close()
            await domain.close()


async def _speaks(way: Way, frame: bytes) -> bool:
    return bool((await standing(way))["grant"] == open_frame(frame).digest)


async def _holds(way: Way, count: int) -> bool:
    return bool((await standing(way))["revocations"] >= count)


def measure(_cloud: RealCloud) -> list[Row]:
    """Return the figure."""
    with temporary_home() as folder:
        return [Row(FIGURES["rotate_100_s"], asyncio.run(seconds(folder, NODES)))]

"""What the agents are told to believe: the grants of people and of ring 0, and every key that was revoked.

Owns what each agent was told last and the telling. An agent believes nothing that does not chain to the root it was started
with, and obeys whom it believes only as far as their grants go.

INV-BEL-1: an agent is told of a revocation as soon as its ring 1 believes it, and again from the start when the agent begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bus.caller import Caller
from enjin import log
from enjin.canonical import to_text
from enjin.errors import EnjinError
from keys.frame import open_frame
from keys.grants import read_grant
from keys.trust import TrustSet
from supervision.instances import OfferGrants

GRANTS_PER_MESSAGE, REVOKED_PER_MESSAGE = 16, 256
ANSWER_S: Final = 15.0
AGAIN_S: Final = 1.0


class Belief(NamedTuple):
    """What to believe: frames as base64url, parents first, and what was revoked."""

    grants: tuple[str, ...]
    revoked: tuple[str, ...]
    roots: tuple[str, ...] = ()


class Beliefs:
    """One domain's agents and what they were told.

    Args:
        trust: What the domain believes.
        now: Cloud time in microseconds.
    """

    def __init__(self, trust: TrustSet, now: Callable[[], int]) -> None:
        self._trust, self._now = trust, now
        self._told: dict[str, Belief] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = log.get("beliefs")

    def wanted(self) -> Belief:
        """Return what every agent should believe now: ring 0's grants that are in force, and all revocations."""
        now, frames = self._now(), []
        for data in self._trust.frames():
            grant = read_grant(open_frame(data))
            if grant.ring == 0 and now < grant.expiry:
                frames.append(to_text(data))
        return Belief(tuple(frames), tuple(sorted(self._trust.revoked)), tuple(to_text(one) for one in self._trust.roots.successors))

    def forget(self, node: str) -> None:
        """Take it that agent *node* was told nothing."""
        self._told.pop(node, None)

    def tell(self, callers: Mapping[str, Caller]) -> None:
        """Tell the agents behind *callers* what they do not know yet."""
        belief = self.wanted()
        for node in [node for node in self._told if node not in callers]:
            self.forget(node)
        for node, caller in callers.items():
            if self._told.get(node) != belief:
                self._told[node] = belief
                if (task := self._tasks.pop(node, None)) is not None:
                    task.cancel()
                self._tasks[node] = asyncio.get_running_loop().create_task(self._tell(node, caller, belief))

    async def _tell(self, node: str, caller: Caller, belief: Belief) -> None:
        """Tell one agent, until it has heard or is told something newer."""
        grants = [belief.grants[at : at + GRANTS_PER_MESSAGE] for at in range(0, len(belief.grants), GRANTS_PER_MESSAGE)]
        revoked = [belief.revoked[at : at + REVOKED_PER_MESSAGE] for at in range(0, len(belief.revoked), REVOKED_PER_MESSAGE)]
        roots = [OfferGrants(grants=(), roots=(root,)) for root in belief.roots]  # before what only they vouch for
        while True:
            try:
                told = (*(OfferGrants(grants=(), revoked=part) for part in revoked), *roots, *(OfferGrants(grants=part) for part in grants))
                for wish in told:
                    reply = await caller.command(wish, deadline_s=ANSWER_S)
                    if not reply.ok:
                        self._log.warning("belief.refused", node=node, code=reply.code, why=reply.message)
                return
            except EnjinError as error:
                self._log.warning("belief.lost", node=node, error=error)
                await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """Tell no more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

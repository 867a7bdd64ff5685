"""Our own grant, while we run: as soon as the ring above has made a newer one, we and all our agents speak with it.

Owns the moment of the change: the agents are told first, with the grant that they know, then we speak with the newer one. An agent that
cannot be told, because what it believes of us has ended meanwhile (the machine slept), is started anew and finds its grants with init.

INV-RNW-1: a newer grant needs no secret that has ended: whoever was away for longer than its grant is told by the ring above.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from compartments.domain import Domain
from enjin import log
from enjin.canonical import to_text
from enjin.errors import EnjinError, StepFailed, from_reply
from enjin.host import monotonic_s
from keys.term import end_at_home
from ring1.agents import Agent, Agents
from supervision.instances import OfferGrants

TELL_S: Final = 10.0
LOOK_S: Final = 1.0
PUBLISHED_S: Final = 5.0


class NewKey(StepFailed):
    """An agent has to be started anew."""

    code = "E-AGT-102"


class Renewing:
    """Keeps one domain's voice at its newest grant.

    Args:
        domain: Ours.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._seen: dict[str, float] = {}  # since when we know of each grant that we do not speak with yet
        self._log = log.get("renewing")
        self._moved = asyncio.Event()
        self._told: dict[str, tuple[Agent, str]] = {}

    def poke(self) -> None:
        """Say that more may be believed than before."""
        self._moved.set()

    def newest(self) -> str:
        """Return the hash of the newest grant of ours, in force or not: one that has ended says no less than an older one."""
        return self._domain.trust.grant_of(self._domain.place.node) or self._domain.grant

    def take(self) -> None:
        """Issue and speak with the newest grant and its key, at once: nobody hears us yet, or all have been told. Raises: BadKeyFile."""
        found, domain = self.newest(), self._domain
        grant = domain.trust.grant(found)
        if found != domain.speaker.grant:
            signer = domain.keyring.message_of(domain.keyring.generation(grant.keys.message))
            self._log.info("grant.renewed", grant=found, expiry=grant.expiry, key=str(signer.key_id))
            domain.speaker.signer = signer
        domain.grant = domain.speaker.grant = found
        if domain.gate is not None:
            domain.gate.own = found

    def _published(self, found: str) -> bool:
        """Whether those who verify our answers have had the time to hear of grant *found*.

        It is used only after it was published: whoever asked us a moment ago still waits for an answer with the old one, unless
        nobody believes that any longer.
        """
        old = self._domain.trust.grant(self._domain.speaker.grant)
        if found == self._domain.speaker.grant or not old.not_before <= self._domain.journal.now() < end_at_home(old):
            return True
        return monotonic_s() - self._seen.setdefault(found, monotonic_s()) >= PUBLISHED_S

    async def run(self, agents: Agents) -> None:
        """Change whenever there is a newer one, until cancelled."""
        while True:
            self._moved.clear()
            found = self.newest()
            if self._published(found):
                self._domain.grant = found  # what we issue from now on hangs from it
                due = [agent for agent in agents.all() if self._told.get(agent.node) != (agent, found)]
                await asyncio.gather(*(self._tell(agents, agent) for agent in due))
                self.take()
                self._seen.clear()
                if due:
                    self._domain.trust.forget(self._domain.journal.now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._moved.wait()

    async def _tell(self, agents: Agents, agent: Agent) -> None:
        """Have *agent* speak with a grant that hangs from ours; it may have run before we began, or been granted by an older one."""
        domain = self._domain
        before = domain.trust.grant(agent.grant).keys
        try:
            if domain.trust.grant(agent.grant).parent != domain.grant:
                await agents.give_configuration(agent, f"agent-{agent.compartment}")
                if domain.trust.grant(agent.grant).keys != before:
                    raise NewKey("it gets another key, which it is given at its start alone")
            if agent.caller is None:
                return
            ours = to_text(domain.trust.frame(domain.grant))
            reply = await agent.caller.command(OfferGrants(grants=(ours, agents.frame(agent))), deadline_s=TELL_S)
            if not reply.ok:
                raise from_reply(reply.code, reply.message, reply.hint)
            self._told[agent.node] = agent, domain.grant
        except EnjinError as error:
            self._log.warning("agent.restarted", node=agent.node, error=error)
            await agents.end(agent.compartment)  # whatever runs goes on; the loop that acts starts it again, with what init holds

"""What ring 1's daemon does about the end of a compartment: looks at the approvals, removes what is left, says that nothing is.

Owns the question that the ring above asks between its steps, and the last files of a compartment: an agent's key, and a sealing key
that the journal never came to know. The sealing key itself is ``ring1.sealing_keys``'s. What it sees becomes true by a wish.

INV-ENA-1: nothing is removed before the entry that condemns the compartment is on disk, nor while anything of it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from bus.messages import Asker, Question, Role
from compartments import approved, graph
from compartments.destroying import HELD_MAX, Holdings, ShowHoldings, one_line, state_of
from compartments.domain import Domain
from compartments.lookup import NoSuchCompartment
from compartments.rows import Compartment
from compartments.rows_endings import Ending
from compartments.world import World
from enjin import log
from enjin.errors import EnjinError, Refused
from enjin.failpoints import failpoint
from enjin.names import shorten
from keys.keyring import destroy_seed
from keys.trust import TrustSet
from ring1.agents import Agents
from ring1.destroying import SawEnded, held, left
from ring1.sealing_keys import SealingKeys
from ring1.tenancy import agent_node, name_of, sees
from supervision.init_link import InitUnknown


class Endings:
    """Ends condemned compartments on this ring 1 node."""

    def __init__(self, domain: Domain, agents: Agents, secrets: SealingKeys) -> None:
        self._domain, self._agents, self._secrets = domain, agents, secrets
        self._log = log.get("endings")

    async def settle(self) -> None:
        """Forget each condemned compartment of which nothing is left."""
        world = self._domain.world
        for ending in world.find(Ending, state="condemned"):
            compartment = ending.compartment
            if left(world, compartment):
                continue
            await self._domain.journal.settled()  # never before the order is on disk
            self._secrets.remove(compartment)
            await self._forget_agent(compartment)
            failpoint("compartment.ended")
            with contextlib.suppress(EnjinError):
                await self._domain.wish(SawEnded(compartment=compartment))
                self._log.warning("compartment.destroyed", compartment=ending.name)

    async def _forget_agent(self, compartment: str) -> None:
        """End the agent of *compartment*, which may be another daemon's, destroy its key and what init keeps for its next start."""
        await self._agents.end(compartment)
        directory = self._agents.home / "ring1" / "agents" / compartment
        with contextlib.suppress(InitUnknown):
            await self._agents.init.drop(f"listener:agent-{compartment}")
        destroy_seed(directory / "node.seed")
        trust = self._domain.trust
        if (grant := trust.grant_of(agent_node(compartment))) is not None:  # no journal has it: nobody learns it anew
            trust.revoke(grant, "its compartment is destroyed")
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()


def questions(trust: TrustSet, clock: Callable[[], int]) -> tuple[Question, ...]:
    """Return the row of the closed table that tells what a compartment holds here, and whether we find its end approved."""

    def show(query: ShowHoldings, world: World, asker: Asker) -> Holdings:
        """Return what is left of a compartment. Raises: NoSuchCompartment."""
        row = world.get(Compartment, query.compartment) or world.first(Compartment, name=query.compartment)
        ending = world.get(Ending, row.id if row is not None else query.compartment)
        if asker.role < Role.SUPERVISOR and (row is None or not sees(world, asker, row.id)):
            raise NoSuchCompartment(f"there is no compartment {shorten(query.compartment)!r}")
        identity = row.id if row is not None else query.compartment
        name = row.name if row is not None else ending.name if ending is not None else ""
        state, found = state_of(world, identity), held(world, identity, clock())
        rest = left(world, identity) if state == "condemned" else []
        why = f"waits for {', '.join(rest[:3])}" if rest else ""
        if state == "closing" and ending is not None and row is not None:
            why = _doubt(world, trust, ending, row)
        return Holdings(ring=1, id=identity, name=name, state=state, holds=tuple(found[:HELD_MAX]), why=one_line(why))

    return (Question(ShowHoldings, show, Role.OPERATOR, lambda query, world: name_of(world, query.compartment)),)


def _doubt(world: World, trust: TrustSet, ending: Ending, row: Compartment) -> str:
    """Return why we would not destroy the compartment's key; "" when its end has all the approvals that it needs."""
    try:
        approved.check_order(world, trust, ending, graph.path_text(world, row.id))
    except Refused as error:
        return error.message
    return ""

"""The end of a compartment in this domain: what it holds here, closing, condemned, gone.

Owns what ring 1 says to the ring above, which asks step by step (``compartments.destroying``). A compartment that was never heard of
closes too: whatever a later charter says of it, nothing is pushed there. Who approved is checked by whoever acts. Pure.

INV-END-1: from closing on no app, token or key is new in a compartment; what holds it is refused before, so nothing is lost by closing.
INV-END-2: a compartment is gone after its key, its agent and everything that ran in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bus.messages import Command, Fact, Moment, Role, Rule
from compartments.destroying import EndCompartment, in_use, state_of
from compartments.facts.accounts import AccountClosed, TokenRevoked
from compartments.facts.endings import CompartmentClosing, CompartmentCondemned, CompartmentDestroyed, CompartmentKept
from compartments.facts.secrets import SealingKeyCondemned
from compartments.rows import Account, Compartment, Node, Token
from compartments.rows_apps import Agent, App, Build, Instance, SealingKey
from compartments.rows_endings import Ending
from compartments.world import World
from enjin.errors import Conflict
from ring1.allocation import UID_REST_US


class TooFar(Conflict):
    """A compartment's end has come too far for that, or not far enough."""

    code = "E-CMP-101"


class SawEnded(Command, kind="compartment.ended"):
    """Nothing is left of a condemned compartment: neither key nor agent."""

    compartment: str


def held(world: World, compartment: str, time: int) -> list[str]:
    """Return the apps, tokens and compartments that *compartment* (an id) has in this domain at *time*, in words."""
    apps = [f"app {app.name}" for app in world.find(App, compartment=compartment) if not app.destroyed]
    tokens = [
        f"token {token.name} of {token.account}"
        for token in world.all(Token)
        if token.compartment == compartment and not token.revoked and (not token.expires or time < token.expires)
    ]
    inner = [f"compartment {row.name}" for row in world.find(Compartment, parent=compartment)]
    return sorted(inner) + sorted(apps) + sorted(tokens)


def left(world: World, compartment: str) -> list[str]:
    """Return what still goes on in *compartment* (an id) though nothing holds it: instances and builds that end, a key that is there."""
    running = [f"instance {one.id}" for one in world.find(Instance, compartment=compartment)]
    builds = [f"build {one.id}" for one in world.all(Build) if one.compartment == compartment]
    nodes = [f"node {one.id}" for one in world.find(Node, compartment=compartment) if world.get(Instance, one.id) is None]
    key = world.get(SealingKey, compartment)
    return [*running, *builds, *nodes, *(["its key"] if key is not None and key.state != "shredded" else [])]


def end(wish: EndCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Close, condemn or open a compartment; what it is already is no news. Raises: CompartmentInUse, TooFar."""
    ending = world.get(Ending, wish.compartment)
    state = state_of(world, wish.compartment)
    if wish.stage == "open":
        if state in ("condemned", "destroyed"):
            raise TooFar(f"compartment {wish.name} is {state}")
        if ending is not None and state == "closing":
            yield CompartmentKept(compartment=wish.compartment, why=wish.reason[:200], time=at.time)
        return
    if state == "open":
        yield from _close(wish, world, at)
    if wish.stage == "condemned" and state in ("open", "closing"):
        yield from _condemn(wish, world, at)


def _close(wish: EndCompartment, world: World, at: Moment) -> Iterator[Fact]:
    found = held(world, wish.compartment, at.time)
    if found:
        raise in_use(wish.name, found)
    yield CompartmentClosing(
        compartment=wish.compartment, name=wish.name, asker=at.asker.id, asked=wish.asked, request=wish.request, given=wish.given,
        reason=wish.reason, time=at.time,
    )  # fmt: skip


def _condemn(wish: EndCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """The key goes, and what is bound to the compartment and counts no more by time alone."""
    yield CompartmentCondemned(compartment=wish.compartment, time=at.time)
    key = world.get(SealingKey, wish.compartment)
    if key is not None and key.state == "in use":
        yield SealingKeyCondemned(compartment=wish.compartment, public=key.public, time=at.time)
    closed = {row.id for row in world.find(Account, compartment=wish.compartment) if row.state == "active"}
    for account in sorted(closed):
        yield AccountClosed(id=account, time=at.time)
    for token in world.all(Token):
        if token.compartment == wish.compartment and not token.revoked and token.account not in closed:
            yield TokenRevoked(id=token.id, time=at.time)


def ended(wish: SawEnded, world: World, at: Moment) -> Iterator[Fact]:
    """Forget a condemned compartment of which nothing is left; once more is no news. Raises: TooFar."""
    ending = world.get(Ending, wish.compartment)
    if ending is not None and ending.state == "destroyed":
        return
    rest = left(world, wish.compartment)
    if ending is None or ending.state != "condemned" or rest:
        state, what = state_of(world, wish.compartment), ", ".join(rest) or "nothing"
        raise TooFar(f"compartment {wish.compartment[:40]} is {state}, and {what} is left of it")
    agent = world.get(Agent, ending.compartment)
    yield CompartmentDestroyed(
        compartment=ending.compartment,
        name=ending.name,
        asker=ending.asker,
        reason=ending.reason,
        uid=agent.uid if agent is not None else -1,
        uid_free=at.time + UID_REST_US if agent is not None else 0,
        time=at.time,
    )


TABLE: Final = (
    Rule(EndCompartment, end, allow=Role.SUPERVISOR, urgent=True),
    Rule(SawEnded, ended, allow=Role.SUPERVISOR),
)

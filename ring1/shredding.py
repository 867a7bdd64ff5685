"""Shredding: the key of a compartment's secrets is condemned, destroyed, and known to be gone.

Owns the decisions and their order: first the journal says that the key must go, and from that entry on nothing is sealed to it
or opened with it; then the daemon destroys the file and says so by a wish of its own. Pure.

INV-SHR-1: a key that was condemned is never in use again, whatever dies in between; a new one is made only on an explicit wish.
INV-SHR-2: the journal is not changed: it holds ciphertext, and verifies as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bus.messages import Asker, Command, Fact, Moment, Question, Role, Rule, always
from compartments.facts.secrets import SealingKeyCondemned, SealingKeyForgotten, SealingKeyShredded
from compartments.rows_apps import App, SealingKey
from compartments.shredding import RenewKey, ShowSecrets, ShredSecrets
from compartments.world import World
from enjin.errors import Conflict, Invalid
from ring1.settings import NoSealingKey, current
from ring1.tenancy import find_compartment, open_compartment, where_compartment


class NotConfirmed(Invalid):
    """The name that confirms a destruction is another one."""

    code = "E-SHR-001"
    remedy = "name the compartment twice: what is shredded is gone for ever"


class AlreadyShredded(Conflict):
    """The compartment's key is condemned or destroyed already."""

    code = "E-SHR-002"
    remedy = "`enjin compartment new-key` makes another one for values that are set from then on"


class NotShredded(Conflict):
    """The compartment's key is in use."""

    code = "E-SHR-003"
    remedy = "shred it first: `enjin compartment shred`"


class SawShredded(Command, kind="compartment.shredded"):
    """The key file of a condemned key was seen to be gone."""

    compartment: str
    public: str


def shred(wish: ShredSecrets, world: World, at: Moment) -> Iterator[Fact]:
    """Condemn a compartment's key. Raises: NoSuchCompartment, NotConfirmed, NoSealingKey, AlreadyShredded."""
    compartment = find_compartment(world, wish.compartment, at.asker)
    if wish.confirm != compartment.name:
        raise NotConfirmed(f"{wish.confirm[:40]!r} does not confirm the shredding of {compartment.name}")
    key = world.get(SealingKey, compartment.id)
    if key is None:
        raise NoSealingKey(f"compartment {compartment.name} has no sealing key")
    if key.state != "in use":
        raise AlreadyShredded(f"the secrets of {compartment.name} are shredded already")
    yield SealingKeyCondemned(compartment=compartment.id, public=key.public, time=at.time)


def shredded(wish: SawShredded, world: World, at: Moment) -> Iterator[Fact]:
    """Note that a condemned key is gone; the same again is no news. Raises: NoSuchCompartment, NotShredded."""
    compartment = find_compartment(world, wish.compartment, at.asker)
    key = world.get(SealingKey, compartment.id)
    if key is None or key.public != wish.public or key.state == "in use":
        raise NotShredded(f"that key of {compartment.name} was not condemned")
    if key.state == "condemned":
        yield SealingKeyShredded(compartment=compartment.id, public=key.public, time=at.time)


def renew(wish: RenewKey, world: World, at: Moment) -> Iterator[Fact]:
    """Forget a shredded key, so that the daemon makes another. Raises: NoSuchCompartment, BeingDestroyed, NotShredded."""
    compartment = open_compartment(world, wish.compartment, at.asker)
    key = world.get(SealingKey, compartment.id)
    if key is None or key.state != "shredded":
        raise NotShredded(f"the key of {compartment.name} is not shredded")
    yield SealingKeyForgotten(compartment=compartment.id)


def show(query: ShowSecrets, world: World, asker: Asker) -> object:
    """Return the state of a compartment's key and the apps that have settings. Raises: NoSuchCompartment."""
    compartment = find_compartment(world, query.compartment, asker)
    key = world.get(SealingKey, compartment.id)
    apps = [app.name for app in world.find(App, compartment=compartment.id) if current(world, app)]
    return {
        "compartment": compartment.name,
        "state": key.state if key is not None else "no key",
        "public": key.public if key is not None else "",
        "apps": sorted(apps),
    }


TABLE: Final = (
    Rule(ShredSecrets, shred, allow=Role.OPERATOR, compartment=where_compartment, urgent=True, approvals=always),
    Rule(RenewKey, renew, allow=Role.OPERATOR, compartment=where_compartment),
    Rule(SawShredded, shredded, allow=Role.SUPERVISOR),
    Question(ShowSecrets, show, allow=Role.OPERATOR, compartment=where_compartment),
)

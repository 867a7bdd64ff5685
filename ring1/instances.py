"""Instances: what was seen of them, that they are gone, listed.

Owns what becomes of an instance after it was made. Only a change of state is a fact; the same thing seen again is none.
Pure decisions.

INV-INS-1: what was seen of another generation, or of an instance that is gone, changes nothing.
INV-INS-2: an instance is gone only after it was wanted so; its uid then rests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments.facts.instances import InstanceGone, InstanceSaw
from compartments.facts.nodes import NodeRemoved
from compartments.rows_apps import Instance, InstanceState
from compartments.world import World
from enjin.errors import Conflict
from enjin.names import NodeId
from ring1.allocation import UID_REST_US
from ring1.tenancy import find_app, visible_apps, where_app

WHY_MAX: Final = 2000
ENDED: Final = frozenset({"exited", "failed"})


class StaleInstance(Conflict):
    """What was seen is of an instance or a generation that is over."""

    code = "E-APP-013"


class InstanceServes(Conflict):
    """An instance is still wanted."""

    code = "E-APP-014"


class SawInstance(Command, kind="instance.seen", kw_only=True):
    """The process of an instance was seen in a state."""

    instance: NodeId
    generation: int
    state: InstanceState
    status: int = 0
    text: str = ""


class Drained(Command, kind="instance.drained"):
    """Nothing is left of an instance that was to go."""

    instance: NodeId


class ListInstances(Query, kind="instance.list"):
    """The instances of an app, or of all apps that the asker may see."""

    app: str = ""


def seen(wish: SawInstance, world: World, at: Moment) -> Iterator[Fact]:
    """Note a change of state. Raises: StaleInstance."""
    instance = world.get(Instance, wish.instance)
    if instance is None or instance.generation != wish.generation:
        raise StaleInstance(f"there is no instance {wish.instance} at generation {wish.generation}")
    why = wish.text[-WHY_MAX:]
    if (instance.state, instance.status, instance.why) == (wish.state, wish.status, why):
        return
    ended = wish.state in ENDED and instance.state not in ENDED
    yield InstanceSaw(
        node=instance.id, state=wish.state, status=wish.status, why=why, exits=instance.exits + 1 if ended else instance.exits, time=at.time
    )


def drained(wish: Drained, world: World, at: Moment) -> Iterator[Fact]:
    """Forget an instance and free what it had. Raises: StaleInstance, InstanceServes."""
    instance = world.get(Instance, wish.instance)
    if instance is None:
        raise StaleInstance(f"there is no instance {wish.instance}")
    if instance.wanted == "running":
        raise InstanceServes(f"instance {wish.instance} is wanted running")
    yield InstanceGone(node=instance.id, uid_free=at.time + UID_REST_US)
    yield NodeRemoved(node=instance.id)


def list_instances(query: ListInstances, world: World, asker: Asker) -> object:
    """Return a row per instance, by app, process and index. Raises: UnknownApp."""
    apps = [find_app(world, query.app, asker)] if query.app else visible_apps(world, asker)
    rows = [one for app in apps for one in world.find(Instance, app=app.name)]
    return [
        {
            "id": one.id,
            "app": one.app,
            "release": one.release,
            "process": one.process,
            "index": one.index,
            "generation": one.generation,
            "wanted": one.wanted,
            "state": one.state,
            "status": one.status,
            "exits": one.exits,
            "why": one.why,
            "strategy": one.strategy,
            "address": one.ipv4,
            "port": one.port,
            "uid": one.uid,
            "since": one.since,
        }
        for one in sorted(rows, key=lambda one: (one.app, one.process, one.index, one.generation))
    ]


TABLE: Final = (
    Rule(SawInstance, seen, allow=Role.SUPERVISOR),
    Rule(Drained, drained, allow=Role.SUPERVISOR),
    Question(ListInstances, list_instances, allow=Role.TENANT, compartment=where_app),
)

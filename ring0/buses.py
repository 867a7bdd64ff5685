"""What the cloud's messages travel over: ZeroMQ or NATS, and moving from one to the other while it runs.

Owns ``cloud.move_bus`` and where each decider's NATS server listens. The decision changes the world alone; the deciders follow
it by themselves (``supervision.bus_keeper``), ring 1's as its charter says.

INV-BUC-1: until a bus was chosen by command, the world says nothing about it: the cloud has the one that it was founded with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from bus.messages import Command, Fact, Moment, Role, Rule
from compartments.facts.places import BusMoved
from compartments.rows import Cloud, Endpoint
from compartments.world import World
from enjin.errors import Refused

Bus = Literal["zmq", "nats"]
API: Final = "api0"
PORTS_AFTER_API: Final = 10
UNSAID: Final = -1


class NoCloudYet(Refused):
    """There is no cloud whose bus could move."""

    code = "E-BUS-131"


class MoveBus(Command, kind="cloud.move_bus"):
    """Have the cloud's messages travel over ZeroMQ (``zmq``) or NATS (``nats``) from now on; nothing is started again for it."""

    bus: Bus


def port_after(api_port: int, ring: int) -> int:
    """Return where on loopback the NATS server of *ring*'s decider listens in a cloud whose ring 0 API has *api_port*."""
    return api_port + PORTS_AFTER_API + ring


def nats_port(world: World, ring: int) -> int:
    """Return where the NATS server of *ring*'s decider listens; 0: the bus is ZeroMQ, -1: *world* does not say."""
    cloud, api = next(iter(world.all(Cloud)), None), world.get(Endpoint, API)
    if cloud is None or not cloud.bus or api is None:
        return UNSAID
    return port_after(api.port, ring) if cloud.bus == "nats" else 0


def move(wish: MoveBus, world: World, _at: Moment) -> Iterator[Fact]:
    """Choose a bus; what is chosen already changes nothing. Raises: NoCloudYet."""
    cloud = next(iter(world.all(Cloud)), None)
    if cloud is None:
        raise NoCloudYet("there is no cloud yet")
    if cloud.bus != wish.bus:
        yield BusMoved(cloud=cloud.id, bus=wish.bus)


def moved(_wish: MoveBus, world: World, _at: Moment) -> object:
    """Return which bus the cloud has now."""
    return {"bus": next(iter(world.all(Cloud))).bus}


TABLE: Final = (Rule(MoveBus, move, allow=Role.OPERATOR, result=moved),)

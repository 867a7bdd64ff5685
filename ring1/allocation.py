"""What an instance or a build needs of its own: a uid, a port and addresses nobody else has.

Owns the choice, next fit: a search goes on where the last one ended, so that what was freed is given out as late as
possible. One ``Room`` serves one decision and remembers what it gave out. Pure; the facts say what was chosen.

INV-ALL-1: nothing is given out twice while its first holder is there; a uid also not within 30 days afterwards.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from compartments import addressing
from compartments.facts.apps import AGENT_COUNTER
from compartments.facts.instances import PORT_COUNTER, UID_COUNTER
from compartments.rows import Charter, Counter, Network, NetworkInterface
from compartments.rows_apps import Agent, Build, Instance, UsedUid
from compartments.world import World

AGENT_UIDS: Final = range(1000, 2000)
NODE_UIDS: Final = range(2000, 65_000)
PORTS: Final = range(20_000, 30_000)
NETWORK: Final = "apps"
UID_REST_US: Final = 30 * 24 * 3600 * 1_000_000
NO_UID: Final = -1


class OutOfRoom(addressing.OutOfRoom):
    """There is no free uid or port."""

    code = "E-APP-003"
    http_status = 507
    remedy = "destroy or scale down apps, or ask for a larger block"


class Pair(NamedTuple):
    """The addresses at one offset of a network."""

    network: str
    offset: int
    ipv4: str
    ipv6: str


class Room:
    """What is free in *world* at *now* (microseconds), less what was taken from here.

    Args:
        own_uids: False where everything runs as one user: uids are then ``NO_UID``.
    """

    def __init__(self, world: World, now: int, *, own_uids: bool) -> None:
        self._world, self._now, self._own_uids = world, now, own_uids
        self._uids = {one.uid for one in world.all(Instance)} | {one.uid for one in world.all(Build)}
        self._ports = {instance.port for instance in world.all(Instance)}
        self._last = {name: row.value if (row := world.get(Counter, name)) else -1 for name in (UID_COUNTER, PORT_COUNTER)}
        if not own_uids and self._last[PORT_COUNTER] < 0:
            self._last[PORT_COUNTER] = _first_port(world) - 1
        self._networks = world.find(Network, name=NETWORK)
        self._next = {network.id: network.next for network in self._networks}
        self._taken: set[tuple[str, int]] = set()

    def uid(self) -> int:
        """Return a uid that no node has and none had within 30 days. Raises: OutOfRoom."""
        if not self._own_uids:
            return NO_UID
        uid = _next_fit(NODE_UIDS, self._last[UID_COUNTER], self._uid_free)
        if uid is None:
            raise OutOfRoom(f"all {len(NODE_UIDS)} uids are in use or rest", hint="a uid rests for 30 days: push and restart less often")
        self._last[UID_COUNTER] = uid
        self._uids.add(uid)
        return uid

    def _uid_free(self, uid: int) -> bool:
        if uid in self._uids:
            return False
        rest = self._world.get(UsedUid, uid)
        return rest is None or rest.until <= self._now

    def port(self) -> int:
        """Return a port that no instance has. Raises: OutOfRoom."""
        port = _next_fit(PORTS, self._last[PORT_COUNTER], lambda one: one not in self._ports)
        if port is None:
            raise OutOfRoom(f"all {len(PORTS)} ports of instances are taken")
        self._last[PORT_COUNTER] = port
        self._ports.add(port)
        return port

    def addresses(self) -> Pair:
        """Return a free pair of addresses of the first network that has one. Raises: addressing.OutOfRoom."""
        for network in self._networks:
            block = ipaddress.ip_network(network.ipv4)
            offsets = range(network.reserved, block.num_addresses - 1)
            offset = _next_fit(offsets, self._next[network.id] - 1, partial(self._offset_free, network.id))
            if offset is not None:
                self._next[network.id] = offset + 1
                self._taken.add((network.id, offset))
                return Pair(network.id, offset, str(block[offset]), _nth(network.ipv6, offset))
        ranges = ", ".join(network.ipv4 for network in self._networks)
        raise addressing.OutOfRoom(f"network {NETWORK} ({ranges}) is full" if ranges else f"this domain has no network {NETWORK} yet")

    def _offset_free(self, network: str, offset: int) -> bool:
        return (network, offset) not in self._taken and self._world.get(NetworkInterface, network, offset) is None


def _first_port(world: World) -> int:
    """Return where a domain without networks of its own begins to give out ports: clouds of one machine begin at different ones."""
    domain = next((charter.domain for charter in world.all(Charter)), "")
    return PORTS[int.from_bytes(hashlib.blake2b(domain.encode(), digest_size=4).digest(), "big") % len(PORTS)]


def agent_uid(world: World, now: int) -> int:
    """Return a uid for one more agent. Raises: OutOfRoom."""
    taken = {agent.uid for agent in world.all(Agent)} | {row.uid for row in world.all(UsedUid) if row.until > now}
    last = world.get(Counter, AGENT_COUNTER)
    uid = _next_fit(AGENT_UIDS, last.value if last else -1, lambda one: one not in taken)
    if uid is None:
        raise OutOfRoom(f"all {len(AGENT_UIDS)} uids of agents are taken", hint="a domain serves at most 1000 compartments")
    return uid


def _next_fit(numbers: range, last: int, free: Callable[[int], bool]) -> int | None:
    """Return the first free one of *numbers* after *last*, going round once; None when there is none."""
    start = last + 1 if last + 1 in numbers else numbers.start
    around = itertools.chain(range(start, numbers.stop), range(numbers.start, start))
    return next((number for number in around if free(number)), None)


def _nth(block: str, offset: int) -> str:
    """Return address *offset* of an IPv6 *block*; a block of one address (loopback) is shared, and the port tells who is who."""
    if not block:
        return ""
    network = ipaddress.ip_network(block)
    return str(network[0] if network.num_addresses == 1 else network[offset])

"""Emulated daemons: many in one process, each with a key, a grant, a connection, a dispatcher and a signature of its own.

`python -m tests.bench.emulated` reads one line of JSON (`Told`), connects its share of the crowd, prints `ready` when each of them
hears the bus, answers `daemon.ping` and ends when its standard input does. Everything but the world around a daemon is the product's.
Owns also the keys that both sides know, derived from words, so that no process has to tell another of ten thousand grants.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
import threading
from typing import Any, NamedTuple

import zmq

from bus import over_zmq
from bus.groups import groups_of
from bus.heartbeats import beat_s
from bus.hub.settings import PUBLISH_SUFFIX, raise_descriptors
from bus.messages import Table
from bus.over_nats import participant
from bus.over_nats.link import Login
from bus.over_nats.participant import NatsTransport
from bus.over_zmq import ZmqTransport, context, curve_text
from bus.roll_call import questions
from bus.transport import Transport
from enjin import log
from enjin.host import clock
from keys.keyring import KeyPair
from keys.nats_claims import Subjects, user_token
from keys.nats_keys import NatsAuthority, UserKey
from tests.bus.parties import CHANNEL, START, Cloud, Party, seed

EVERYTHING = Subjects((">",), (">",))
AT_ONCE = 32
PER_THREAD = 50
POLL_MS = 1000
PATIENCE_S = 240.0
SOCKETS_MAX = 1 << 16


class Told(NamedTuple):
    """What a process of emulated daemons is told.

    first, count: which of the crowd it is. began_us: the boot clock at which the cloud's time began. total: how many they are together.
    endpoint, hub_key: ZeroMQ. servers, authority: NATS.
    """

    first: int
    count: int
    began_us: int
    total: int
    endpoint: str = ""
    hub_key: str = ""
    servers: tuple[str, ...] = ()
    authority: str = ""


class Emulated(Cloud):
    """The keys of everybody, and cloud time that passes."""

    def __init__(self, began_us: int) -> None:
        self.began_us = began_us
        super().__init__(self.now)

    def now(self) -> int:
        """Return cloud time in microseconds."""
        return START + clock().boot_us - self.began_us


def name_of(number: int) -> str:
    """Return the subject of emulated daemon *number*."""
    return f"a-{number:016x}"


def nats_authority() -> NatsAuthority:
    """Return the cloud's keys for NATS."""
    return NatsAuthority(seed("emulated nats"))


def login(name: str, servers: tuple[str, ...], authority: str, total: int) -> Login:
    """Return how *name* logs in to NATS, where *total* do."""
    user = UserKey(seed(f"{name} nats"))
    token = user_token(nats_authority().account(CHANNEL), user.public, name, EVERYTHING, issued_s=1)
    return Login(servers, authority, user, lambda: token, beat_s(total))


class Shared(threading.Thread):
    """A thread that touches the sockets of many participants, as each one's own does in a daemon: a thousand threads would only wait."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.woken: collections.deque[Member] = collections.deque()
        self.start()

    def run(self) -> None:
        """Go on for ever."""
        poller, owners = zmq.Poller(), {}
        poller.register(self.bell, zmq.POLLIN)
        while True:
            for ready, _event in poller.poll(POLL_MS):
                if ready == self.bell:
                    os.eventfd_read(self.bell)
                elif ready.type == zmq.SUB:
                    owners[ready]._receive(ready)
                else:
                    self.woken.append(owners[ready])
            while self.woken:
                member = self.woken.popleft()
                if member.sockets is None:
                    push, sub = member.sockets = member.opened(zmq.PUSH, ""), member.opened(zmq.SUB, PUBLISH_SUFFIX)
                    owners[push] = owners[sub] = member
                    poller.register(sub, zmq.POLLIN)
                push, sub = member.sockets
                member._apply_wishes(sub)
                poller.register(push, zmq.POLLOUT if member._send(push) else 0)


class Member(ZmqTransport):
    """The product's participant, with its own connection, in a thread that it shares."""

    def __init__(self, shared: Shared, endpoint: str, server_key: str, pair: KeyPair) -> None:
        super().__init__(endpoint, server_key, curve_text(pair.public), curve_text(pair.secret))
        os.close(self._bell)
        self._bell = -1
        self.shared = shared
        self.sockets: tuple[Any, Any] | None = None

    def opened(self, kind: int, suffix: str) -> Any:
        """Return a connected socket with the product's options, without the product's watch over it."""
        made = self._make(kind)
        made.connect(f"ipc://{self._endpoint}{suffix}")
        return made

    def _ring(self) -> None:
        self.shared.woken.append(self)
        os.eventfd_write(self.shared.bell, 1)


def connect(told: Told, party: Party, shared: Shared | None) -> Transport:
    """Return the connection of *party*, its own; over ZeroMQ in the thread *shared*."""
    if shared is None:
        return NatsTransport.connect(login(party.subject, told.servers, told.authority, told.total), party.subject)
    return Member(shared, told.endpoint, told.hub_key, party.keyring.curve)


def room_for_sockets(total: int) -> None:
    """Let this process have as many descriptors and ZeroMQ sockets as *total* participants need."""
    raise_descriptors()
    context().set(zmq.MAX_SOCKETS, min(SOCKETS_MAX, 4 * total + 64))


def be_patient() -> None:
    """Wait longer for the bus than a daemon does: a machine on which thousands start at once is slow."""
    over_zmq.SUBSCRIBE_DEADLINE_S = participant.SUBSCRIBE_DEADLINE_S = PATIENCE_S  # type: ignore[misc]


async def serve(told: Told) -> None:
    """Connect the share, say so, and answer until standard input ends."""
    cloud = Emulated(told.began_us)
    gate = asyncio.Semaphore(AT_ONCE)
    transports: list[Transport] = []
    threads = [None if told.servers else Shared() for _ in range(-(-told.count // PER_THREAD))]

    async def start(number: int) -> None:
        async with gate:
            party = cloud.enrol_agent(name_of(number))
            groups = groups_of(party.subject, 2)
            transport = connect(told, party, threads[number % len(threads)])
            transports.append(transport)
            await cloud.member(party, lambda: groups, Table.of(questions(party.subject, 2))).serve(transport)

    await asyncio.gather(*(start(told.first + number) for number in range(told.count)))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    os._exit(0)  # their farewells would take a while and tell nobody anything


def main() -> None:
    """Read what we are told, and serve."""
    log.configure(component="emulated")
    be_patient()
    told = Told(**json.loads(sys.stdin.buffer.readline()))
    if not told.servers:
        room_for_sockets(told.count)
    else:
        raise_descriptors()
    asyncio.run(serve(told))


if __name__ == "__main__":
    main()

"""A running cloud goes from ZeroMQ to NATS and back under a steady load: no command is refused, and no daemon is started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.over_nats.participant import NatsTransport
from bus.over_zmq import ZmqTransport
from bus.session import Session
from ring0.buses import MoveBus
from ring0.launch import read_hands_settings
from ring0.runtime import extend_runtime
from ring0.tiers import CreateTier
from ring1.processes import Scale
from tests.bus.waiting import until
from tests.cloud import ROOT
from tests.e2e.clouds import BACK_S, Raised, raised, wait_for
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
RINGS = (0, 1)


@pytest.fixture(scope="module")
def moving() -> Iterator[Raised]:
    """A cloud over ZeroMQ with hello on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with temporary_home() as folder, raised(folder, free_port_base()) as made:
        made.push(ROOT / "examples/hello", "hello")
        yield made


class Load:
    """One session of an operator that wants one thing after the other of both rings, without a pause."""

    def __init__(self, word: str) -> None:
        self.word, self.ending = word, asyncio.Event()
        self.wanted = dict.fromkeys(RINGS, 0)
        self.transports: dict[int, set[type]] = {ring: set() for ring in RINGS}

    async def run(self, cloud: Raised) -> None:
        """Go on until told to end; what is refused raises."""
        async with await Session.open(cloud.config) as session, asyncio.TaskGroup() as group:
            for ring in RINGS:
                group.create_task(self._want(session, ring))

    async def _want(self, session: Session, ring: int) -> None:
        while not self.ending.is_set():
            wish = CreateTier(name=f"{self.word}-{self.wanted[0]}") if ring == 0 else Scale(app="hello", processes={"web": 1})
            await session.command(ring, wish)
            self.wanted[ring] += 1
            self.transports[ring].add(type(session.caller(ring).transport))

    def have(self, transport: type) -> bool:
        """Whether both rings were asked over *transport*."""
        return all(transport in seen for seen in self.transports.values())


async def move_under_load(cloud: Raised, bus: str) -> Load:
    """Move *cloud* to *bus* while commands go on, and for some of them before and after."""
    load = Load(bus)
    task = asyncio.ensure_future(load.run(cloud))

    async def more(count: int) -> None:
        goals = {ring: wanted + count for ring, wanted in load.wanted.items()}
        await until(lambda: task.done() or all(load.wanted[ring] >= goal for ring, goal in goals.items()), "more commands", BACK_S)

    try:
        await more(20)
        told = await asyncio.to_thread(cloud.json, "bus", "migrate", bus)
        assert (told["bus"], told["changed"]) == (bus, True)
        expected = NatsTransport if bus == "nats" else ZmqTransport
        await until(lambda: task.done() or load.have(expected), "the load goes over", BACK_S)
        await more(20)
    finally:
        load.ending.set()
        await task
    return load


def brokers(cloud: Raised) -> dict[str, int]:
    """Return how many of each kind of broker run."""
    return {"zmq": len(cloud.find("bus.hub")), "nats": len(cloud.find("nats-server.json"))}


def only(bus: str) -> dict[str, int]:
    """Return what ``brokers`` says where both rings are over *bus* and nothing else is left."""
    return {kind: len(RINGS) if kind == bus else 0 for kind in ("zmq", "nats")}


async def reached_over(cloud: Raised) -> set[type]:
    """Return over what a new session reaches the rings, each of which answers."""
    async with await Session.open(cloud.config) as session:
        for ring in RINGS:
            await session.head(ring, 5.0)
        return {type(session.caller(ring).transport) for ring in RINGS}


@pytest.mark.parametrize(("bus", "transport"), [("nats", NatsTransport), ("zmq", ZmqTransport)])
def test_a_live_cloud_moves_and_refuses_nothing(moving: Raised, bus: str, transport: type) -> None:
    """Every command is granted and takes effect once; the daemons are the same; the old brokers end; an app answers all along."""
    daemons = [moving.service(ring, "daemon") for ring in RINGS]
    load = asyncio.run(move_under_load(moving, bus))
    assert load.have(NatsTransport)
    assert load.have(ZmqTransport)
    assert {transport} == asyncio.run(reached_over(moving))
    wait_for(lambda: brokers(moving) == only(bus), BACK_S, "the brokers")
    assert daemons == [moving.service(ring, "daemon") for ring in RINGS]
    names = sorted(tier["name"] for tier in moving.json("tier", "list") if tier["name"].startswith(f"{bus}-"))
    assert sorted(f"{bus}-{number}" for number in range(load.wanted[0])) == names
    assert moving.answers("hello", moving.place)
    again = moving.json("bus", "migrate", bus)
    assert again["changed"] is False


def test_a_move_that_was_cut_off_is_finished(moving: Raised) -> None:
    """kill -9 of both daemons as soon as the move is decided: they come back, go over, and leave no broker of the old bus."""
    where = "zmq" if brokers(moving)["zmq"] else "nats"
    bus = "nats" if where == "zmq" else "zmq"
    extend_runtime(Path(read_hands_settings(moving.home)["runtime"]), bus)  # as `enjin bus migrate` does before it asks
    killed = [moving.service(ring, "daemon") for ring in RINGS]

    async def decide() -> None:
        async with await Session.open(moving.config) as session:
            await session.command(0, MoveBus(bus=bus))  # type: ignore[arg-type]
            for one in killed:
                os.kill(one.pid, signal.SIGKILL)

    asyncio.run(decide())
    for ring, one in zip(RINGS, killed, strict=True):
        moving.wait_back(lambda ring=ring: moving.service(ring, "daemon"), one)  # type: ignore[misc]
    wait_for(lambda: brokers(moving) == only(bus), BACK_S, "the brokers")
    wait_for(lambda: moving.settled("hello"), BACK_S, "the cloud")
    assert moving.json("bus", "migrate", bus)["bus"] == bus
    assert {NatsTransport if bus == "nats" else ZmqTransport} == asyncio.run(reached_over(moving))

"""A whole cloud over NATS: raised, pushed to and asked as over ZeroMQ, and as hard to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.over_nats.link import UNIX, Link, Login
from bus.over_nats.participant import NatsTransport
from bus.session import Session
from compartments.history import GetHead
from enjin.config import Config
from enjin.errors import EnjinError, Unreachable
from tests.bus.waiting import until_async
from tests.cloud import ROOT
from tests.e2e.clouds import BACK_S, Raised, Started, raised, wait_for
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def nats_cloud() -> Iterator[Raised]:
    """A cloud over NATS with hello on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with temporary_home() as folder, raised(folder, free_port_base(), "--bus", "nats") as made:
        made.push(ROOT / "examples/hello", "hello")
        yield made


def server(cloud: Raised, ring: int) -> Started:
    """Return the nats-server of a ring."""
    return cloud.one("nats-server", "/ring0/" if ring == 0 else "/var/lib/enjin/ring1/")


@pytest.mark.parametrize("ring", [0, 1])
def test_both_rings_speak_nats(nats_cloud: Raised, ring: int) -> None:
    """The command line reaches each ring's decider over NATS itself, not through the HTTP door; there is no hub of ZeroMQ."""

    async def ask() -> tuple[bool, int]:
        async with await Session.open(nats_cloud.config) as session:
            head = await session.query(ring, GetHead())
            return isinstance(session.caller(ring).transport, NatsTransport), head["number"]

    over_nats, number = asyncio.run(ask())
    assert over_nats
    assert number > 0
    assert nats_cloud.find("bus.hub") == []
    assert nats_cloud.answers("hello", nats_cloud.place)


@pytest.mark.parametrize("ring", [0, 1])
def test_a_server_outlives_its_daemon(nats_cloud: Raised, ring: int) -> None:
    """kill -9 of a daemon leaves its server as it is, and the daemon that comes back is heard through it."""
    before, killed = server(nats_cloud, ring), nats_cloud.service(ring, "daemon")
    os.kill(killed.pid, signal.SIGKILL)
    nats_cloud.wait_back(lambda: nats_cloud.service(ring, "daemon"), killed)
    wait_for(lambda: nats_cloud.settled("hello"), BACK_S, "the cloud")
    assert before == server(nats_cloud, ring)
    assert nats_cloud.head(ring).number > 0


@pytest.mark.parametrize("what", ["nats-server", "bus.over_nats"])
@pytest.mark.parametrize("ring", [0, 1])
def test_a_killed_server_comes_back(nats_cloud: Raised, ring: int, what: str) -> None:
    """kill -9 of the server, or of what stands before it: both are new, nothing old is left, and the deciders are heard again."""
    before = server(nats_cloud, ring)
    killed = before if what == "nats-server" else nats_cloud.one("bus.over_nats", "/ring0/" if ring == 0 else "/var/lib/enjin/ring1/")
    os.kill(killed.pid, signal.SIGKILL)
    nats_cloud.wait_back(lambda: server(nats_cloud, ring), before)
    wait_for(lambda: nats_cloud.settled("hello"), BACK_S, "the cloud")
    assert nats_cloud.head(ring).number > 0
    assert len(nats_cloud.find("nats-server.json")) == 2


async def open_link(config: Config, ring: int) -> Link:
    """Log in at a ring's server with the person's key in *config*, with the token of the directory. Raises: Unreachable."""
    async with await Session.open(config) as session:
        reach, key = session.directory.reach(ring), session.keyring.nats
        if key.text not in reach.tokens:
            raise Unreachable("the directory has no token for this key")
        token = reach.tokens[key.text]
        login = Login((f"{UNIX}{Path(config.home) / reach.hub}",), reach.certificate, key, lambda: token)
        return await Link.open(login, login.servers[0], "test", lambda _pattern, _subject, _frame: None)


@pytest.mark.parametrize("ring", [0, 1])
def test_n32_a_persons_revoked_key_is_cut_from_both_rings(nats_cloud: Raised, ring: int) -> None:
    """N23 N32: a second operator's key speaks over NATS; revoked, its live session ends and the token it has is refused."""
    made = nats_cloud.json("key", "create", f"second{ring}")
    config = msgspec.structs.replace(nats_cloud.config, keys=str(Path(made["file"]).parent))

    async def play() -> None:
        links: list[Link] = []

        async def connected() -> bool:
            with contextlib.suppress(EnjinError):
                links.append(await open_link(config, ring))
            return bool(links)

        await until_async(connected, "the second key is let in", BACK_S)
        async with await Session.open(config) as session:
            assert isinstance(session.caller(ring).transport, NatsTransport)
            assert (await session.query(ring, GetHead()))["number"] > 0
            reach, key = session.directory.reach(ring), session.keyring.nats
        token = reach.tokens[key.text]
        login = Login((f"{UNIX}{Path(config.home) / reach.hub}",), reach.certificate, key, lambda: token)
        await asyncio.to_thread(nats_cloud.json, "key", "revoke", made["key"], "--reason", "lost")
        async with asyncio.timeout(BACK_S):
            await links[0].lost.wait()
        with pytest.raises(Unreachable):
            await Link.open(login, login.servers[0], "test", lambda _pattern, _subject, _frame: None)
        await links[0].close()

    asyncio.run(play())
    assert nats_cloud.head(ring).number > 0

"""C4: a partition between real network namespaces: participants behind a virtual cable that is pulled, one way and both, and flaps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.caller import Caller
from enjin.errors import Unreachable
from tests.bus.hubs import RunningHub, running_hub
from tests.bus.parties import NODE, Cloud, Paint
from tests.bus.waiting import asynchronous
from tests.rack.lines import DEADLINE_S, Relay, connect
from tests.rack.test_relay import impatient, paint

__all__ = ["impatient"]
pytestmark = [pytest.mark.root, pytest.mark.usefixtures("as_root")]
NAMESPACES = "/run/netns"
NEAR, FAR = "192.0.2.1", "192.0.2.2"
PORTS = (7001, 7002)


def ip(*words: str, check: bool = True) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=check, capture_output=True, timeout=20)


class Cable:
    """Two network namespaces with a virtual cable between them, and a relay in each: from a socket's path to the hub's."""

    def __init__(self, folder: Path, hub: RunningHub) -> None:
        self.tag = f"enjrack{secrets.token_hex(3)}"
        self.near, self.far = f"{self.tag}a", f"{self.tag}b"
        self.path = str(folder / "near.sock")
        self._hub = hub
        self._relays: list[Relay] = []
        self._bound = True

    def lay(self) -> None:
        """Make namespaces, cable and relays."""
        self._bound = os.path.ismount(NAMESPACES)
        for name in (self.near, self.far):
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", self.near, "type", "veth", "peer", "name", "cable", "netns", self.far)
        for name, address in ((self.near, NEAR), (self.far, FAR)):
            ip("-n", name, "address", "add", f"{address}/30", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        ends = tuple(f"tcp:{FAR}:{port}" for port in PORTS)
        hub, path = self._hub.endpoint, self.path
        within = ("ip", "netns", "exec")
        self._relays.append(Relay(f"{ends[0]}=unix:{hub}", f"{ends[1]}=unix:{hub}.pub", prefix=(*within, self.far)))
        self._relays.append(Relay(f"unix:{path}={ends[0]}", f"unix:{path}.pub={ends[1]}", prefix=(*within, self.near)))

    def pull(self) -> None:
        """Let nothing pass any more."""
        ip("-n", self.near, "link", "set", "cable", "down")

    def plug(self) -> None:
        """Let everything pass again."""
        ip("-n", self.near, "link", "set", "cable", "up")

    def silence(self, name: str, peer: str) -> None:
        """Let nothing leave namespace *name* for *peer*: the other direction still works."""
        ip("-n", name, "route", "replace", "blackhole", f"{peer}/32")

    def loosen(self, name: str, peer: str) -> None:
        """Undo ``silence``."""
        ip("-n", name, "route", "del", "blackhole", f"{peer}/32")

    def remove(self) -> None:
        """Leave nothing behind."""
        for relay in self._relays:
            relay.end()
        for name in (self.near, self.far):
            ip("netns", "del", name, check=False)
        if not self._bound:  # the first `ip netns add` binds the directory onto itself and leaves it so; busy: others have one there now
            subprocess.run(["umount", NAMESPACES], check=False, capture_output=True, timeout=20)


@contextlib.contextmanager
def cabled(folder: Path, hub: RunningHub) -> Iterator[Cable]:
    """A cable before the hub."""
    cable = Cable(folder, hub)
    try:
        cable.lay()
        yield cable
    finally:
        cable.remove()


class Sides:
    """A decider beside the hub with a client there, and a client behind the cable."""

    def __init__(self, hub: RunningHub, cable: Cable) -> None:
        self.cloud = Cloud()
        hub.allow("daemon", "client", "distant")
        self._daemon, self._client, self._distant = hub.connect("daemon"), hub.connect("client"), connect(hub, "distant", cable.path)
        self.here, self.there = (self._caller(transport) for transport in (self._client, self._distant))

    def _caller(self, transport: object) -> Caller:
        return Caller(transport, self.cloud.speaker_of(self.cloud.operator), self.cloud.trust, responder=NODE)  # type: ignore[arg-type]

    async def __aenter__(self) -> Sides:
        await self.cloud.dispatcher.serve(self._daemon)
        await paint(self.cloud, self.here, 0, 2)
        await paint(self.cloud, self.there, 2, 2)
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in (self._client, self._distant, self._daemon):
            await transport.close()


@pytest.mark.parametrize("way", ["both", "out", "back"])
@asynchronous
async def test_c04_both_sides_go_on_and_are_equal_after_healing(tmp_path: Path, way: str) -> None:
    """Cut off, a client is not answered and nobody else notices; healed, what it wanted meanwhile is done, once."""
    with running_hub(tmp_path) as hub, cabled(tmp_path, hub) as cable:
        async with Sides(hub, cable) as sides:
            name, peer = (cable.near, FAR) if way == "out" else (cable.far, NEAR)
            cable.pull() if way == "both" else cable.silence(name, peer)
            rid = sides.cloud.rid()
            with pytest.raises(Unreachable):
                await sides.there.command(Paint(app="a50"), rid=rid, deadline_s=0.5)
            under_way = asyncio.ensure_future(sides.there.command(Paint(app="a51"), deadline_s=DEADLINE_S))
            await paint(sides.cloud, sides.here, 10, 5)
            cable.plug() if way == "both" else cable.loosen(name, peer)
            first = await sides.there.command(Paint(app="a50"), rid=rid, deadline_s=DEADLINE_S)
            assert (first.ok, (await under_way).ok) == (True, True)
            done = [wish.app for wish, _ in sides.cloud.journal.entries]  # type: ignore[attr-defined]
            assert sorted(done) == sorted([f"a{number}" for number in (*range(4), *range(10, 15), 50, 51)])


@asynchronous
async def test_c04_a_cable_that_flaps(tmp_path: Path) -> None:
    """Pulled and plugged again and again under load, every command finishes and takes effect once."""
    with running_hub(tmp_path) as hub, cabled(tmp_path, hub) as cable:
        async with Sides(hub, cable) as sides:
            under_way = asyncio.ensure_future(paint(sides.cloud, sides.there, 10, 20))
            for _ in range(4):
                cable.pull()
                await asyncio.sleep(0.1)
                cable.plug()
                await asyncio.sleep(0.1)
            await under_way

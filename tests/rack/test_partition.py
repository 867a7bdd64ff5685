"""C4: a partition between real network namespaces: participants behind a virtual cable that is pulled, one way and both, and flaps."""

from __future__ import annotations

import asyncio
import contextlib
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
PORTS = (7001, 7002)


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Space:
    """A network namespace that lives as long as one process in it: nothing is mounted, as `ip netns add` would."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo there; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout and self._holder.stdout.readline() == b"there\n"
        self.pid = str(self._holder.pid)
        self.within = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def ip(self, *words: str) -> None:
        """Run `ip` inside."""
        subprocess.run([*self.within, "ip", *words], check=True, capture_output=True, timeout=20)

    def silence(self, peer: Space) -> None:
        """Let nothing leave for *peer*: the other direction still works."""
        self.ip("route", "replace", "blackhole", f"{peer.address}/32")

    def loosen(self, peer: Space) -> None:
        """Undo ``silence``."""
        self.ip("route", "del", "blackhole", f"{peer.address}/32")

    def end(self) -> None:
        """Let it go."""
        self._holder.communicate(timeout=20)


class Cable:
    """Two network namespaces with a virtual cable between them, and a relay in each: from a socket's path to the hub's."""

    def __init__(self, folder: Path, hub: RunningHub) -> None:
        self.path = str(folder / "near.sock")
        self._hub = hub
        self._relays: list[Relay] = []
        self.near, self.far = Space("192.0.2.1"), Space("192.0.2.2")

    def lay(self) -> None:
        """Make the cable and the relays."""
        near, far = self.near, self.far
        ip("link", "add", "cable", "netns", near.pid, "type", "veth", "peer", "name", "cable", "netns", far.pid)
        for space in (near, far):
            space.ip("address", "add", f"{space.address}/30", "dev", "cable")
            space.ip("link", "set", "cable", "up")
        ends = tuple(f"tcp:{far.address}:{port}" for port in PORTS)
        hub, path = self._hub.endpoint, self.path
        self._relays.append(Relay(f"{ends[0]}=unix:{hub}", f"{ends[1]}=unix:{hub}.pub", prefix=far.within))
        self._relays.append(Relay(f"unix:{path}={ends[0]}", f"unix:{path}.pub={ends[1]}", prefix=near.within))

    def pull(self) -> None:
        """Let nothing pass any more."""
        self.near.ip("link", "set", "cable", "down")

    def plug(self) -> None:
        """Let everything pass again."""
        self.near.ip("link", "set", "cable", "up")

    def remove(self) -> None:
        """Leave nothing behind."""
        for relay in self._relays:
            relay.end()
        for space in (self.near, self.far):
            space.end()


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
            quiet, peer = (cable.near, cable.far) if way == "out" else (cable.far, cable.near)
            cable.pull() if way == "both" else quiet.silence(peer)
            rid = sides.cloud.rid()
            with pytest.raises(Unreachable):
                await sides.there.command(Paint(app="a50"), rid=rid, deadline_s=0.5)
            under_way = asyncio.ensure_future(sides.there.command(Paint(app="a51"), deadline_s=DEADLINE_S))
            await paint(sides.cloud, sides.here, 10, 5)
            cable.plug() if way == "both" else quiet.loosen(peer)
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

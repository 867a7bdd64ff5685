"""Relay processes, and a daemon with its client on a real hub, for the tests of this folder."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bus.caller import Caller
from bus.over_zmq import ZmqTransport, curve_text
from keys.keyring import KeyPair
from tests.bus.hubs import ROOT, RunningHub
from tests.bus.parties import NODE, Cloud

DEADLINE_S = 20.0


class Relay:
    """One relay process."""

    def __init__(self, *pairs: str, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.rack.relay", *pairs], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.said: list[str] = []
        self._rest = b""
        self.wait("ready")

    def wait(self, line: str, count: int = 1, seconds: float = DEADLINE_S) -> None:
        """Return once it has said *line* *count* times. Raises: AssertionError after *seconds*."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while self.said.count(line) < count:
            left = end - time.monotonic()
            assert left > 0, f"the relay has not said {line!r} {count} times but {self.said[-20:]}"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = self.process.stdout.read1(65_536)  # type: ignore[attr-defined]
                assert data, "the relay has ended"
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.said += [one.decode() for one in lines]

    def tell(self, command: str) -> None:
        """Give it a command and wait until it is carried out."""
        assert self.process.stdin is not None
        word = command.partition(" ")[0]
        before = self.said.count(f"done {word}")
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        self.wait(f"done {word}", before + 1)

    def end(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def relayed(folder: Path, hub: RunningHub) -> Iterator[tuple[Relay, str]]:
    """Put a relay before both of a hub's sockets and give the path that a client connects to instead."""
    path = folder / "near.sock"
    relay = Relay(f"unix:{path}=unix:{hub.endpoint}", f"unix:{path}.pub=unix:{hub.endpoint}.pub")
    try:
        yield relay, str(path)
    finally:
        relay.end()


def connect(hub: RunningHub, name: str, endpoint: str) -> ZmqTransport:
    """Return a participant that reaches *hub* at another path."""
    pair: KeyPair = hub.allowed[name]
    return ZmqTransport.connect(endpoint, server_key=hub.public, public_key=curve_text(pair.public), secret_key=curve_text(pair.secret))


@contextlib.asynccontextmanager
async def talking(hub: RunningHub, endpoint: str) -> AsyncIterator[tuple[Cloud, Caller]]:
    """A ring 1 daemon on the hub itself, and an operator's client that reaches it at *endpoint*."""
    cloud = Cloud()
    hub.allow("daemon", "client")
    daemon, client = hub.connect("daemon"), connect(hub, "client", endpoint)
    try:
        await cloud.dispatcher.serve(daemon)
        yield cloud, Caller(client, cloud.speaker_of(cloud.operator), cloud.trust, responder=NODE)
    finally:
        await client.close()
        await daemon.close()

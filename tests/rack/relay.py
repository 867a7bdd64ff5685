"""A relay of byte streams that can be told to delay, repeat, reorder, blackhole and cut: `relay.py LISTEN=TO [LISTEN=TO…]`.

An end is ``unix:PATH`` or ``tcp:ADDRESS:PORT``. Reads commands from standard input, a line each, and says what happens on standard output:

    delay MS       hold every chunk back for so long
    repeat N       send the next N chunks twice
    swap N         let the next N pairs of chunks change places
    hold           carry nothing any more, neither bytes nor ends of streams: every connection is half-open from now on
    hold-next      the same for each connection as soon as the far side's next chunk was carried: said ``held``
    flow           connections that are made from now on are carried again; those that were held stay dead
    cut            close every connection

    said: ``ready``; ``opened``; ``closed near`` (the side that connected to us) or ``closed far``; ``done COMMAND``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

CHUNK = 65_536


def say(text: str) -> None:
    """Say one line."""
    print(text, flush=True)


class Relay:
    """Every connection and what is done to it."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.repeats = self.swaps = 0
        self.holding = False
        self.connections: set[Connection] = set()

    async def serve(self, listen: str, to: str) -> None:
        """Accept at *listen* and connect on to *to*."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Connection(self, reader, writer).run(to)

        if listen.startswith("unix:"):
            await asyncio.start_unix_server(accept, listen[5:])
        else:
            address, port = listen[4:].rsplit(":", 1)
            await asyncio.start_server(accept, address, int(port))

    def obey(self, line: str) -> None:
        """Carry out one command."""
        word, _, rest = line.partition(" ")
        if word == "delay":
            self.delay_s = int(rest) / 1000
        elif word == "repeat":
            self.repeats = int(rest)
        elif word == "swap":
            self.swaps = int(rest)
        elif word == "hold":
            self.holding = True
            for one in self.connections:
                one.held = True
        elif word == "hold-next":
            for one in self.connections:
                one.holds_next = True
        elif word == "flow":
            self.holding = False
        elif word == "cut":
            for one in tuple(self.connections):
                one.close()
        say(f"done {word}")


class Connection:
    """Two streams, one to each side."""

    def __init__(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.relay, self.near, self.near_out = relay, reader, writer
        self.far_out: asyncio.StreamWriter | None = None
        self.held = relay.holding
        self.holds_next = False
        self.kept: dict[str, bytes] = {}

    async def run(self, to: str) -> None:
        """Carry both ways until both sides have ended."""
        self.relay.connections.add(self)
        say("opened")
        try:
            if self.held:
                await self.carry(self.near, lambda: None, "near")
                return
            try:
                if to.startswith("unix:"):
                    far, self.far_out = await asyncio.open_unix_connection(to[5:])
                else:
                    address, port = to[4:].rsplit(":", 1)
                    far, self.far_out = await asyncio.open_connection(address, int(port))
            except OSError:
                return
            await asyncio.gather(self.carry(self.near, lambda: self.far_out, "near"), self.carry(far, lambda: self.near_out, "far"))
        finally:
            self.relay.connections.discard(self)
            self.close()

    async def carry(self, reader: asyncio.StreamReader, out: Callable[[], asyncio.StreamWriter | None], side: str) -> None:
        """Carry what *reader* gives until it ends."""
        while True:
            try:
                chunk = await reader.read(CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                say(f"closed {side}")
                if not self.held:
                    self.close()
                return
            if self.held:
                continue
            if self.relay.delay_s:
                await asyncio.sleep(self.relay.delay_s)
            target = out()
            if target is not None:
                for one in self.changed(side, chunk):
                    target.write(one)
                if self.holds_next and side == "far":
                    await target.drain()
                    self.held, self.holds_next = True, False
                    say("held")

    def changed(self, side: str, chunk: bytes) -> list[bytes]:
        """Return what is sent instead of *chunk*."""
        if self.relay.repeats:
            self.relay.repeats -= 1
            return [chunk, chunk]
        if (earlier := self.kept.pop(side, None)) is not None:
            return [chunk, earlier]
        if self.relay.swaps:
            self.relay.swaps -= 1
            self.kept[side] = chunk
            return []
        return [chunk]

    def close(self) -> None:
        """Close both sides."""
        for one in (self.near_out, self.far_out):
            if one is not None:
                one.close()


async def main(pairs: list[str]) -> None:
    """Relay until standard input ends."""
    relay = Relay()
    for pair in pairs:
        listen, _, to = pair.partition("=")
        await relay.serve(listen, to)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    say("ready")
    while line := await commands.readline():
        relay.obey(line.decode().strip())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

"""Run one nats-server and a Unix socket before it: ``python -m bus.over_nats --config PATH``.

nats-server listens on TCP alone, and a decider's node may have a network of its own that nobody else reaches; files it
shares with the ring above. What comes to the socket is passed on unread: TLS ends in the server and in the client.
Ends when the server ends, when it is told to, and when its parent is gone; then the server ends too.

INV-NRL-1: connections and what is read ahead for each are bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from bus.over_nats.program import ServerRefused, find_server
from enjin.errors import ConfigError
from enjin.failpoints import failpoint
from enjin.host import clock

CONFIG_MAX_BYTES: Final = 65_536
CONNECTIONS_MAX: Final = 1024
CHUNK_BYTES: Final = 65_536
LOOK_S: Final = 0.1
CONNECT_S: Final = 3.0
END_S: Final = 3.0


class Told(NamedTuple):
    """What this process is told: its socket's path and mode, the server's configuration and its port on loopback."""

    endpoint: str
    server: str
    port: int
    mode: int = 0o666


def say(event: str, **fields: Any) -> None:
    """Write one log line to standard error."""
    line = json.dumps({"event": event, "component": "nats", "time_us": clock().wall_us, **fields}, sort_keys=True)
    print(line, file=sys.stderr, flush=True)


def read_config(path: str) -> Told:
    """Return what the JSON file at *path* tells. Raises: ServerRefused."""
    try:
        with open(path, "rb") as file:
            return Told(**json.loads(file.read(CONFIG_MAX_BYTES)))
    except (OSError, ValueError, TypeError) as error:
        raise ServerRefused(f"the configuration {path} is not usable: {error}") from error


class Relay:
    """Passes bytes between whoever connects to the socket and the server, unread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        if self._open >= CONNECTIONS_MAX:
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(CONNECT_S):
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port, limit=CHUNK_BYTES)
            try:
                ways = [asyncio.ensure_future(_copy(reader, inner_writer)), asyncio.ensure_future(_copy(inner_reader, writer))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                inner_writer.close()
        except (OSError, TimeoutError):
            return
        finally:
            self._open -= 1
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            failpoint("nats.relay.send")
            writer.write(data)
            await writer.drain()


async def serve(told: Told) -> int:
    """Serve until something ends it; return the exit status. Raises: ServerRefused."""
    parent, program = os.getppid(), await asyncio.to_thread(find_server)
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    failpoint("nats.server.spawn")
    server = await asyncio.create_subprocess_exec(program, "--config", told.server, stdin=asyncio.subprocess.DEVNULL)
    listener: asyncio.Server | None = None
    try:
        listener = await _listen(told, Relay(told.port))
        say("nats.started", endpoint=told.endpoint, port=told.port, program=str(program))
        while not ending.is_set() and server.returncode is None and os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await ending.wait()
    finally:
        if listener is not None:
            listener.close()
        # When init is gone the next one starts another of us, perhaps already: its socket is not ours to unlink.
        if listener is not None and os.getppid() == parent:
            Path(told.endpoint).unlink(missing_ok=True)
        await _end(server)
    say("nats.ended", status=server.returncode)
    return 0 if ending.is_set() else 1


async def _listen(told: Told, relay: Relay) -> asyncio.Server:
    path = Path(told.endpoint)
    if path.exists():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(told.endpoint)
            writer.close()
            raise ServerRefused(f"another bus serves {told.endpoint}")
        path.unlink(missing_ok=True)
    try:
        listener = await asyncio.start_unix_server(relay.serve, told.endpoint, limit=CHUNK_BYTES)
        os.chmod(told.endpoint, told.mode)
    except OSError as error:
        raise ServerRefused(f"cannot listen at {told.endpoint}: {error.strerror}") from error
    return listener


async def _end(server: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.terminate()
    try:
        async with asyncio.timeout(END_S):
            await server.wait()
    except TimeoutError:
        server.kill()
        await server.wait()


def main() -> int:
    """Read the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bus.over_nats", description="run a nats-server and a Unix socket before it")
    parser.add_argument("--config", required=True, help="path of a JSON file")
    options = parser.parse_args()
    try:
        return asyncio.run(serve(read_config(options.config)))
    except ConfigError as error:
        say("nats.refused", code=error.code, error=error.message, hint=error.hint)
        return 78


if __name__ == "__main__":
    raise SystemExit(main())

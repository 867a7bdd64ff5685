"""A served HTTP door for tests, and a plain client for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bus.http.blobs import BlobStore
from bus.http.door import Door
from bus.http.feed import Feed
from bus.http.listener import Listener, listen
from tests.bus.parties import TOKEN, Cloud

AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@dataclasses.dataclass
class Said:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclasses.dataclass
class Served:
    """A door that is being served."""

    cloud: Cloud
    door: Door
    listener: Listener
    port: int
    blobs: Path

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Said:
        """Send one request; a dict is sent as JSON, and the tenant's token goes along unless *headers* says otherwise."""
        return await asyncio.to_thread(self._ask, method, path, body, AUTHORISED if headers is None else headers)

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Said:
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body=body, headers=headers, encode_chunked="Transfer-Encoding" in headers)
            response = connection.getresponse()
            return Said(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    async def raw(self, data: bytes, *, limit: int = 65_536, wait_s: float = 10) -> bytes:
        """Send bytes as they are and return what comes until the door closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(wait_s):
                while len(found) < limit and (more := await reader.read(4096)):
                    found += more
        writer.close()
        return found


@contextlib.asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Served]:
    """Serve the ring 1 daemon's door on a free port."""
    cloud = Cloud()
    root = folder / "blobs"
    door = Door(
        dispatcher=cloud.dispatcher,
        name="ring 1",
        authenticate=cloud.authenticate,
        feed=Feed(),
        blobs=BlobStore(root, **options),
        hosts=("cloud.example",),
    )
    listening: socket.socket = listen("127.0.0.1", 0)
    listener = Listener(door.application, listening, door.feed.close)
    await listener.start()
    try:
        yield Served(cloud, door, listener, listener.address[1], root)
    finally:
        await listener.close()

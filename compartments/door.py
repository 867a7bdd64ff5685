"""A domain's HTTP door: the same table, served on a listening socket that init holds.

Owns how the door is put together from a domain; what it does is ``bus.http``'s.
"""

from __future__ import annotations

import asyncio
import socket

from bus.http.blobs import BlobStore
from bus.http.door import Door
from bus.http.feed import Feed
from bus.http.joining import Joins
from bus.http.listener import Listener
from compartments.domain import Domain
from enjin.canonical import canonical


class DomainDoor:
    """One domain's API.

    Args:
        domain: Whose.
        listening: Descriptor of a listening socket; owned from now on.
        name: For the description.
        blobs: Where uploads go; None: this door takes none.
        join: Answers requests to join; None: nobody joins here.
    """

    def __init__(self, domain: Domain, listening: int, *, name: str, blobs: BlobStore | None = None, join: Joins | None = None) -> None:
        self.feed = Feed()
        door = Door(dispatcher=domain.dispatcher, name=name, authenticate=domain.authenticate, feed=self.feed, blobs=blobs, join=join)
        self._listener = Listener(door.application, socket.socket(fileno=listening), self.feed.close)
        domain.on_tell.append(lambda seen, path: self.feed.tell(f"seen.{seen.KIND}", path, canonical(seen)))
        domain.on_relay.append(self.feed.tell)

    async def serve(self) -> None:
        """Serve until cancelled."""
        await self._listener.start()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Let requests under way end, and close."""
        await self._listener.close()

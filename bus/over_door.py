"""The bus through an HTTP door: posts the same signed envelopes, and delivers the signed answers.

For clients that cannot reach a domain's sockets. What it gives no more than a hint of, a transport gives no more than
a hint of either: frames are verified by whoever receives them.
"""

from __future__ import annotations

import asyncio
import http.client
from typing import Final
from urllib.parse import urlsplit

import msgspec

from bus.speaker import reply_subject
from bus.transport import FRAME_MAX_BYTES, Deliveries, Handler, TransportClosed, check_prefix, check_publish
from enjin.errors import Unreachable
from keys.frame import open_frame

PATH: Final = "/v1/envelope"
MEDIA: Final = "application/vnd.enjin.envelope"
TIMEOUT_S: Final = 60.0


class DoorTransport:
    """A transport whose other end is one HTTP API.

    Args:
        api: ``http://127.0.0.1:7080``.
        channel: The domain's channel, for messages.
    """

    frame_max_bytes = FRAME_MAX_BYTES

    def __init__(self, api: str, channel: str) -> None:
        self._address = urlsplit(api).netloc
        self._channel = channel
        self._deliveries = Deliveries()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, subject: str, frame: bytes) -> None:
        """See ``Transport.publish``: the answer is delivered as if it had come over the bus."""
        if self._closed:
            raise TransportClosed("this connection to the door is closed")
        check_publish(subject, frame, self.frame_max_bytes)
        task = asyncio.get_running_loop().create_task(self._exchange(frame))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, frame: bytes) -> None:
        try:
            answer = await asyncio.to_thread(self._post, frame)
        except (TimeoutError, OSError, http.client.HTTPException):
            return
        if answer:
            self._deliveries.deliver(reply_subject(_request_of(answer)), answer)

    def _post(self, frame: bytes) -> bytes:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            connection.request("POST", PATH, body=frame, headers={"Content-Type": MEDIA, "Accept": MEDIA})
            response = connection.getresponse()
            return response.read(FRAME_MAX_BYTES) if response.getheader("Content-Type", "").startswith(MEDIA) else b""
        finally:
            connection.close()

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """See ``Transport.subscribe``; only answers to what we publish come this way.

        Raises:
            Unreachable: *prefix* asks for what a door's posts do not bring.
        """
        if not (prefix == "reply" or prefix.startswith("reply.")):
            raise Unreachable("observations do not come through this door", hint="use the API's /v1/follow, or reach the bus")
        self._deliveries.add(check_prefix(prefix), handler)

    async def close(self) -> None:
        """See ``Transport.close``."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await self._deliveries.close()


class _Named(msgspec.Struct):
    rid: str = ""


def _request_of(frame: bytes) -> str:
    """Return the request id that an answer names; it is believed only after verification."""
    return msgspec.json.decode(open_frame(frame, FRAME_MAX_BYTES).payload, type=_Named).rid

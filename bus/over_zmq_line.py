"""One socket of a participant, and whether libzmq has given it up.

A connection that breaks is made again by libzmq. One that ends by a breach of its protocol (bytes that were changed on the way, or
somebody else at the hub's path) is not: libzmq ends its session for good, and the participant would be deaf or mute until it starts
again. Owns seeing that: after an end, whoever still tries says so at least each second, so silence means that nobody does.
Touched by the participant's own thread alone.

Source: libzmq's src/session_base.cpp, ``engine_error`` (no reconnect after ``protocol_error``); zmq_socket_monitor(3).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import zmq

from enjin.host import monotonic_s

LOOK_S: Final = 0.5
GIVEN_UP_S: Final = 3.0  # three times the longest wait before a new attempt
_TRYING: Final = zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_ENDED: Final = (
    zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Line:
    """One socket, made by *make* (not yet connected) and connected to *endpoint*.

    Args:
        make: Returns a new socket with every option set.
        endpoint: Where to connect: ``ipc://…``.
    """

    def __init__(self, make: Callable[[], Any], endpoint: str) -> None:
        self._make, self._endpoint = make, endpoint
        self._looked_s = monotonic_s()
        self._ended_s: float | None = None
        self.given_up = False
        self.socket, self._monitor = self._connect()

    def _connect(self) -> tuple[Any, Any]:
        socket = self._make()
        monitor = socket.get_monitor_socket(_TRYING | _ENDED)
        monitor.linger = 0
        socket.connect(self._endpoint)
        return socket, monitor

    def look(self) -> bool:
        """Return whether libzmq has stopped connecting, as ``given_up`` says from then on; looks each half second."""
        now_s = monotonic_s()
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        while self._monitor.poll(0):
            (event,) = struct.unpack_from("=H", self._monitor.recv_multipart()[0])  # pyzmq's own parser is not needed for two bytes
            self._ended_s = now_s if event & _ENDED else None
        self.given_up = self._ended_s is not None and now_s - self._ended_s > GIVEN_UP_S
        return self.given_up

    def renew(self, linger_ms: int) -> None:
        """Begin again with a new socket; see ``close``."""
        self.close(linger_ms)
        self._ended_s, self.given_up = None, False
        self.socket, self._monitor = self._connect()

    def close(self, linger_ms: int) -> None:
        """Close; what was sent before still goes out for *linger_ms*."""
        self.socket.disable_monitor()
        self.socket.close(linger_ms)

"""The bus between two neighbours over one inherited descriptor: a ring 2 agent or a guest has no network to a bus.

Owns two framings of (subject, frame): one datagram each on an AF_UNIX SOCK_SEQPACKET pair, and a self-synchronising
byte stream for a guest's serial port. What one end publishes the other end hears; whoever relays it further does so
with the frame unchanged. Gives no authority: the frame's signature does.

INV-PIPE-1: garbage on the line costs the messages it covers, never the line.
INV-PIPE-2: what waits to be sent is bounded; beyond it ``publish`` refuses.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import stat
import struct
import zlib
from collections.abc import Callable
from typing import Final

from bus.transport import Deliveries, Handler, TransportClosed, TransportFull, check_prefix, check_publish
from enjin.failpoints import failpoint

PIPE_FRAME_MAX_BYTES: Final = 65_536
OUTBOX_MAX: Final = 1024
READS_PER_TURN: Final = 64
DATAGRAM_MAX: Final = 1 + 128 + PIPE_FRAME_MAX_BYTES
MAGIC: Final = b"\xa5EJ\x01"
_HEADER: Final = struct.Struct(">4sBII")  # magic, length of the subject, length of the frame, CRC-32 of both
_READ_BYTES: Final = 65_536


def pack_datagram(subject: str, frame: bytes) -> bytes:
    """Return ``u8 length | subject | frame``."""
    return bytes([len(subject)]) + subject.encode("ascii") + frame


def unpack_datagram(data: bytes) -> tuple[bytes, bytes] | None:
    """Return (subject, frame) of a datagram; None when it is none."""
    if not data or len(data) < 1 + data[0] or len(data) > DATAGRAM_MAX:
        return None
    return data[1 : 1 + data[0]], data[1 + data[0] :]


def pack_stream(subject: str, frame: bytes) -> bytes:
    """Return one message of the byte stream: header with lengths and CRC-32, subject, frame."""
    name = subject.encode("ascii")
    return _HEADER.pack(MAGIC, len(name), len(frame), zlib.crc32(name + frame)) + name + frame


class StreamDecoder:
    """Bytes in, messages out; pure. After garbage it goes on at the next magic that begins a whole message."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped_bytes = 0

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Take *data* and return the (subject, frame) pairs that are complete now."""
        self._buffer += data
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> tuple[bytes, bytes] | None:
        while True:
            start = self._buffer.find(MAGIC)
            if start != 0:
                self._skip(start if start > 0 else max(0, len(self._buffer) - len(MAGIC) + 1))
            if len(self._buffer) < _HEADER.size or not self._buffer.startswith(MAGIC):
                return None
            _, name_bytes, frame_bytes, checksum = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + name_bytes + frame_bytes
            if not 0 < name_bytes <= 128 or frame_bytes > PIPE_FRAME_MAX_BYTES:
                self._skip(1)
                continue
            if len(self._buffer) < end:
                return None
            body = bytes(self._buffer[_HEADER.size : end])
            if zlib.crc32(body) != checksum:
                self._skip(1)
                continue
            del self._buffer[:end]
            return body[:name_bytes], body[name_bytes:]

    def _skip(self, count: int) -> None:
        self.skipped_bytes += count
        del self._buffer[:count]


class PipeTransport:
    """One end of a pipe; made inside the event loop that it serves. It owns the descriptor from then on.

    Args:
        descriptor: One end of a SOCK_SEQPACKET pair, or a stream (socket, serial port, pseudo terminal in raw mode).
        on_closed: Called once when the other end is gone.
    """

    frame_max_bytes = PIPE_FRAME_MAX_BYTES

    def __init__(self, descriptor: int, on_closed: Callable[[], None] | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._datagrams = _is_seqpacket(descriptor)
        self._decoder = StreamDecoder()
        self._loop = asyncio.get_running_loop()
        self._deliveries = Deliveries()
        self.counters = self._deliveries.counters
        self._outbox: collections.deque[memoryview] = collections.deque()
        self._on_closed = on_closed
        self._early: list[tuple[bytes, bytes]] = []  # what came before anybody subscribed
        self._subscribed = False
        self.closed = asyncio.Event()
        self._loop.add_reader(descriptor, self._readable)

    async def publish(self, subject: str, frame: bytes) -> None:
        """See ``Transport.publish``."""
        check_publish(subject, frame, self.frame_max_bytes)
        if self.closed.is_set():
            raise TransportClosed("the other end of the pipe is gone")
        if len(self._outbox) >= OUTBOX_MAX:
            raise TransportFull(f"{OUTBOX_MAX} messages wait to be sent")
        data = pack_datagram(subject, frame) if self._datagrams else pack_stream(subject, frame)
        self._outbox.append(memoryview(data))
        if len(self._outbox) == 1:
            self._writable()

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """See ``Transport.subscribe``; what came before the first subscription is delivered to it."""
        self._deliveries.add(check_prefix(prefix), handler)
        self._subscribed = True
        early, self._early = self._early, []
        for message in early:
            self._deliveries.deliver_raw(*message)

    async def close(self) -> None:
        """See ``Transport.close``."""
        self._end()
        await self._deliveries.close()

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._outbox.clear()
        if self._on_closed is not None:
            self._on_closed()

    def _readable(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                data = os.read(self._descriptor, DATAGRAM_MAX + 1 if self._datagrams else _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # on SOCK_SEQPACKET an empty datagram looks the same: whoever sends one hangs up
                self._end()
                return
            self._take(data)
            if self.closed.is_set():
                return

    def _take(self, data: bytes) -> None:
        if self._datagrams:
            message = unpack_datagram(data)
            messages = [] if message is None else [message]
            self.counters["garbage"] += message is None
        else:
            before = self._decoder.skipped_bytes
            messages = self._decoder.feed(data)
            self.counters["garbage_bytes"] += self._decoder.skipped_bytes - before
        for one in messages:
            if self._subscribed:
                self._deliveries.deliver_raw(*one)
            elif len(self._early) < OUTBOX_MAX:
                self._early.append(one)
            else:
                self.counters["dropped"] += 1

    def _writable(self) -> None:
        while self._outbox:
            try:
                failpoint("pipe.send")
                written = os.write(self._descriptor, self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(self._descriptor, self._writable)
                return
            except OSError:
                self._end()
                return
            rest = self._outbox[0][written:]
            if rest and not self._datagrams:
                self._outbox[0] = rest
            else:
                self._outbox.popleft()
        self._loop.remove_writer(self._descriptor)


def _is_seqpacket(descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as probe:
        return probe.type == socket.SOCK_SEQPACKET

"""A participant of the bus over ZeroMQ: one PUSH to the hub and one SUB from it, CURVE, over ``ipc://``.

Owns the one context of this process and, per participant, one thread that alone touches its sockets: it drains them
without blocking and hands batches to asyncio. ``zmq.asyncio`` is not used (measured seven times slower).
Gives no authority: who may connect only cuts noise, every decision rests on the signed frame.

INV-ZMQ-1: a socket is touched by its own thread only, and a context is made after the last fork and never ended.
INV-ZMQ-2: both directions are bounded: a full outbox refuses to publish, a lagging loop stops the reading.
INV-ZMQ-3: ``subscribe`` returns only after the hub has confirmed a marker that it took after the prefix.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import zmq
from zmq.utils import z85

from bus.heartbeats import BEAT_MAX_S, BEAT_S, silence_s
from bus.hub.serving import CONFIRM, HIGH_WATER, MESSAGE_MAX_BYTES
from bus.hub.settings import PUBLISH_SUFFIX, check_libzmq
from bus.over_zmq_line import Line
from bus.transport import FRAME_MAX_BYTES, Deliveries, Handler, TransportClosed, TransportFull, check_prefix, check_publish
from enjin.canonical import canonical
from enjin.errors import Unreachable
from enjin.failpoints import failpoint
from enjin.host import monotonic_s, random_bytes, write_atomic

OUTBOX_MAX: Final = 10_000
BATCH: Final = 256
BATCHES_WAITING_MAX: Final = 64
HANDSHAKE_MS: Final = 1000  # who is refused hears nothing; after this it tries again
RECONNECT_MS: Final = 50
RECONNECT_MAX_MS: Final = 1000
CONFIRM_AGAIN_S: Final = 0.5
CONFIRM_AGAIN_MAX_S: Final = 4.0
SUBSCRIBE_DEADLINE_S: Final = 10.0
LAST_WORDS_S: Final = 0.5
BEAT_DIGITS_MAX: Final = 2
_READ, _WRITE = zmq.POLLIN, zmq.POLLOUT

_context_of: dict[int, Any] = {}
_context_lock: Final = threading.Lock()


def context() -> Any:
    """Return this process's one ZeroMQ context; a forked child gets one of its own."""
    with _context_lock:
        if os.getpid() not in _context_of:
            check_libzmq()
            _context_of[os.getpid()] = zmq.Context(io_threads=1)
        return _context_of[os.getpid()]


def allow_keys(path: Path | str, curve_keys: Iterable[str]) -> None:
    """Replace the hub's key file at *path*: what is not in *curve_keys* (hex, as in grants) is cut within 0.1 s."""
    names = sorted({curve_text(bytes.fromhex(key)) for key in curve_keys})
    write_atomic(path, canonical({"keys": names}), 0o644)


def curve_text(key: bytes) -> str:
    """Return a raw 32-byte CURVE key as ZeroMQ writes it (z85, 40 characters)."""
    text: str = z85.encode(key).decode()
    return text


class ZmqTransport:
    """One participant; made by ``connect``, in the event loop that it serves."""

    frame_max_bytes = FRAME_MAX_BYTES

    def __init__(self, endpoint: str, server_key: str, public_key: str, secret_key: str) -> None:
        self._endpoint = endpoint
        self._keys = tuple(key.encode("ascii") for key in (server_key, public_key, secret_key))
        self._loop = asyncio.get_running_loop()
        self._deliveries = Deliveries()
        self.counters = self._deliveries.counters
        self._outbox: collections.deque[list[bytes]] = collections.deque()
        self._wishes: collections.deque[tuple[bytes, bool]] = collections.deque()  # (topic, subscribe or not), for the thread
        self._confirmations: dict[bytes, asyncio.Event] = {}
        self._topics: set[str] = set()
        self._beat_s = BEAT_S  # until the hub says otherwise
        self._out_of_time = False  # the lines keep another beat than the hub's
        self._handed = 0  # batches, counted by the thread
        self._taken = 0  # batches, counted by the loop
        self._closing = False
        self._closed = asyncio.Event()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)

    @classmethod
    def connect(cls, endpoint: str, *, server_key: str, public_key: str, secret_key: str) -> ZmqTransport:
        """Return a participant that keeps connecting to the hub at *endpoint* until it is closed.

        Args:
            endpoint: The hub's socket path; its second socket lies beside it.
            server_key: The hub's CURVE public key, z85: no other hub is spoken to.
            public_key: Our own CURVE public key, z85, which the hub must allow.
            secret_key: Its secret half.
        """
        participant = cls(endpoint, server_key, public_key, secret_key)
        participant._thread.start()
        return participant

    @property
    def subscriptions(self) -> list[tuple[str, Handler]]:
        """See ``bus.moving.Hearing``."""
        return self._deliveries.subscriptions

    @property
    def beat_s(self) -> int:
        """Every how many seconds it asks whether the hub is there; see ``bus.heartbeats``."""
        return self._beat_s

    async def publish(self, subject: str, frame: bytes) -> None:
        """See ``Transport.publish``."""
        if self._closing:
            raise TransportClosed("this connection to the bus is closed")
        check_publish(subject, frame, self.frame_max_bytes)
        if len(self._outbox) >= OUTBOX_MAX:
            raise TransportFull(f"{OUTBOX_MAX} messages wait to be sent")
        self._outbox.append([subject.encode(), bytes(frame)])
        self._ring()

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """See ``Transport.subscribe``. Raises: Unreachable after 10 s without the hub's word."""
        if self._closing:
            raise TransportClosed("this connection to the bus is closed")
        self._deliveries.add(check_prefix(prefix), handler)
        if prefix not in self._topics:
            self._topics.add(prefix)
            self._wishes.append((prefix.encode(), True))
        deadline, wait_s = monotonic_s() + SUBSCRIBE_DEADLINE_S, CONFIRM_AGAIN_S
        while not await self._confirmed(wait_s):
            wait_s = min(2 * wait_s, CONFIRM_AGAIN_MAX_S)  # a hub to which thousands come at once is not helped by more questions
            if self._closing:
                raise TransportClosed("this connection to the bus was closed")
            if monotonic_s() > deadline:
                raise Unreachable("the hub does not answer", hint="is our key in its key file, and is the hub running?")

    async def _confirmed(self, wait_s: float) -> bool:
        """Subscribe to a fresh marker and return whether the hub sent it back within *wait_s*."""
        marker = CONFIRM + random_bytes(8).hex().encode()
        heard = self._confirmations[marker] = asyncio.Event()
        self._wishes.append((marker, True))
        self._ring()
        try:
            async with asyncio.timeout(wait_s):
                await heard.wait()
        except TimeoutError:
            return False
        finally:
            del self._confirmations[marker]
            if not self._closing:
                self._wishes.append((marker, False))
                self._ring()
        return True

    async def close(self) -> None:
        """See ``Transport.close``; what was published before is still sent, for at most half a second."""
        if not self._closing:
            self._closing = True
            self._ring()
        await self._closed.wait()
        self._thread.join()
        await self._deliveries.close()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1

    def _ring(self) -> None:
        if self._bell >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._bell, 1)

    def _deliver(self, batch: list[list[bytes]]) -> None:
        """Take a batch in the event loop."""
        lagging = self._handed - self._taken >= BATCHES_WAITING_MAX
        self._taken += 1
        if lagging:
            self._ring()
        for subject, frame in batch:
            if subject.startswith(CONFIRM):
                self._confirm(subject, frame)
            elif not self._closing:
                self._deliveries.deliver_raw(subject, frame)

    def _confirm(self, marker: bytes, told: bytes) -> None:
        """Take the hub's word on a marker, and its beat: who keeps another begins anew with that, and asks again."""
        beat = int(told) if told.isdigit() and len(told) <= BEAT_DIGITS_MAX else self._beat_s  # an older hub says nothing
        if beat != self._beat_s and BEAT_S <= beat <= BEAT_MAX_S:
            self._beat_s, self._out_of_time = beat, True
            self._ring()
        elif (heard := self._confirmations.get(marker)) is not None:
            heard.set()

    # What follows runs in the participant's own thread.

    def _run(self) -> None:
        push, sub = self._open(zmq.PUSH, ""), self._open(zmq.SUB, PUBLISH_SUFFIX)
        try:
            while not self._exchange(push.socket, sub.socket, lambda: push.look() or sub.look() or self._out_of_time):
                anew, self._out_of_time = self._out_of_time, False
                if push.given_up or anew:
                    push.renew(int(LAST_WORDS_S * 1000))
                if sub.given_up or anew:
                    sub.renew(0)
                    for topic in tuple(self._topics):
                        sub.socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        finally:
            sub.close(0)
            push.close(int(LAST_WORDS_S * 1000))
            with contextlib.suppress(RuntimeError):  # the loop may be closed already
                self._loop.call_soon_threadsafe(self._closed.set)

    def _open(self, kind: int, suffix: str) -> Line:
        return Line(lambda: self._make(kind), f"ipc://{self._endpoint}{suffix}")

    def _make(self, kind: int) -> Any:
        opened = context().socket(kind)
        opened.linger = 0
        opened.curve_serverkey, opened.curve_publickey, opened.curve_secretkey = self._keys
        opened.maxmsgsize = MESSAGE_MAX_BYTES
        opened.handshake_ivl = HANDSHAKE_MS
        # Each beat of the hub says when it is dead to us, until something else is heard of it: then ours must find that out.
        opened.heartbeat_ivl, opened.heartbeat_timeout = 1000 * self._beat_s, 1000 * silence_s(self._beat_s)
        opened.sndhwm = opened.rcvhwm = HIGH_WATER
        opened.reconnect_ivl, opened.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        return opened

    def _exchange(self, push: Any, sub: Any, given_up: Callable[[], bool]) -> bool:
        """Carry both ways; return whether we were closed, else a socket must begin anew."""
        poller = zmq.Poller()
        poller.register(self._bell, _READ)
        end_at = float("inf")
        while True:
            if self._closing:
                end_at = min(end_at, monotonic_s() + LAST_WORDS_S)
                if not self._outbox or monotonic_s() > end_at:
                    return True
            elif given_up():
                return False
            self._apply_wishes(sub)
            poller.register(sub, _READ if self._handed - self._taken < BATCHES_WAITING_MAX else 0)
            poller.register(push, _WRITE if self._send(push) else 0)
            ready = dict(poller.poll(100 if self._closing else 1000))
            if self._bell in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
            if sub in ready:
                self._receive(sub)

    def _apply_wishes(self, sub: Any) -> None:
        while self._wishes:
            topic, wanted = self._wishes.popleft()
            sub.setsockopt(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, topic)

    def _send(self, push: Any) -> bool:
        """Send what waits; return whether something still does."""
        while self._outbox:
            try:
                failpoint("zmq.push.send")
                push.send_multipart(self._outbox[0], zmq.NOBLOCK)
            except zmq.Again:
                return True
            self._outbox.popleft()
        return False

    def _receive(self, sub: Any) -> None:
        batch: list[list[bytes]] = []
        for _ in range(BATCH):
            try:
                parts = sub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if len(parts) == 2:
                batch.append(parts)
        if batch:
            self._handed += 1
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver, batch)


if __name__ == "__main__":
    from bus.hub.__main__ import main

    raise SystemExit(main())

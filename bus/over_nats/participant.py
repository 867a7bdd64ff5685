"""A participant of the bus over NATS: what it wants to send and hear outlives every connection.

Owns the outbox, the patterns and the making of one link after the other: to the next server where one is lost, and
again and again where it is refused, because a key may be allowed a moment later. Gives no authority: who may log in
only cuts noise, every decision rests on the signed frame.

INV-NPA-1: both directions are bounded: a full outbox refuses to publish, a lagging loop stops the reading.
INV-NPA-2: a message reaches each matching handler once, however many of our patterns match it.
INV-NPA-3: ``subscribe`` returns only after the server has answered a ping that it took after the pattern. The other
servers of a cluster hear of the pattern a moment later: a broadcast is a hint.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
from typing import Final

from bus.over_nats.link import CONNECT_S, Link, Login, patterns_of, require_client
from bus.transport import FRAME_MAX_BYTES, Deliveries, Handler, TransportClosed, TransportFull, check_prefix, check_publish
from enjin.errors import EnjinError, Forbidden, Unreachable
from enjin.failpoints import failpoint
from enjin.host import monotonic_s, random_bytes
from enjin.log import get

OUTBOX_MAX: Final = 10_000
OUTBOX_MAX_BYTES: Final = 64 << 20
YIELD_EACH: Final = 64
SUBSCRIBE_DEADLINE_S: Final = 10.0
AGAIN_S: Final = 0.05
AGAIN_MAX_S: Final = 1.0
CONNECT_MAX_S: Final = 12
LAST_WORDS_S: Final = 0.5

_log = get("bus.nats")


class NotHeard(Forbidden):
    """The server does not let us hear a subject."""

    code = "E-BUS-122"


class NatsTransport:
    """One participant; made by ``connect``, in the event loop that it serves."""

    frame_max_bytes = FRAME_MAX_BYTES

    def __init__(self, login: Login, name: str) -> None:
        self._login, self._name = login, name
        self._deliveries = Deliveries()
        self.counters = self._deliveries.counters
        self._outbox: collections.deque[tuple[str, bytes]] = collections.deque()
        self._waiting_bytes = 0
        self._filled, self._emptied = asyncio.Event(), asyncio.Event()
        self._patterns: list[str] = []
        self._silent: set[str] = set()  # patterns that the server of now refuses us
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._closing = False
        self._life: asyncio.Task[None] | None = None

    @classmethod
    def connect(cls, login: Login, name: str = "") -> NatsTransport:
        """Return a participant that keeps connecting to the servers of *login* until it is closed.

        Args:
            login: Where, and who we are there.
            name: What the servers call the connection in their logs.

        Raises:
            NoNats: nats-py is not installed.
        """
        require_client()
        participant = cls(login, name)
        participant._life = asyncio.get_running_loop().create_task(participant._live())
        return participant

    @property
    def server(self) -> str:
        """The ``host:port`` that we are connected to; empty when to none."""
        url = self._link.client.connected_url if self._link is not None else None
        return url.netloc if url is not None else ""

    @property
    def subscriptions(self) -> list[tuple[str, Handler]]:
        """See ``bus.moving.Hearing``."""
        return self._deliveries.subscriptions

    async def publish(self, subject: str, frame: bytes) -> None:
        """See ``Transport.publish``."""
        if self._closing:
            raise TransportClosed("this connection to the bus is closed")
        check_publish(subject, frame, self.frame_max_bytes)
        if len(self._outbox) >= OUTBOX_MAX or self._waiting_bytes + len(frame) > OUTBOX_MAX_BYTES:
            raise TransportFull(f"{len(self._outbox)} messages wait to be sent")
        self._outbox.append((subject, bytes(frame)))
        self._waiting_bytes += len(frame)
        self._filled.set()
        self._emptied.clear()
        if len(self._outbox) % YIELD_EACH == 0:
            await asyncio.sleep(0)  # who publishes in a loop lets the sender send

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """See ``Transport.subscribe``.

        Raises:
            NotHeard: Our token does not let us hear that.
            Unreachable: No server answered within 10 s.
        """
        if self._closing:
            raise TransportClosed("this connection to the bus is closed")
        self._deliveries.add(check_prefix(prefix), handler)
        wanted = [pattern for pattern in patterns_of(prefix) if pattern not in self._patterns]
        self._patterns += wanted
        try:
            async with asyncio.timeout(SUBSCRIBE_DEADLINE_S):
                while not await self._confirmed(wanted):
                    pass
        except TimeoutError as error:
            raise Unreachable("no server of the bus answers", hint="is our key still in force, and does a server run?") from error

    async def _confirmed(self, wanted: list[str]) -> bool:
        """Have the server of now take *wanted*; return whether it has."""
        await self._linked.wait()
        link = self._link
        if self._closing:
            raise TransportClosed("this connection to the bus was closed")
        if link is None:
            return False
        try:
            for pattern in wanted:
                await link.listen(pattern)
            await link.settle()
        except Unreachable:
            await asyncio.sleep(AGAIN_S)
            return False
        if refused := self._silent.intersection(wanted):
            raise NotHeard(f"our token does not let us hear {min(refused)}")
        return True

    async def close(self) -> None:
        """See ``Transport.close``; what was published before is still sent, for at most half a second."""
        if not self._closing:
            self._closing = True
            if self._link is not None:
                with contextlib.suppress(TimeoutError, EnjinError):
                    async with asyncio.timeout(LAST_WORDS_S):
                        await self._sent()
                        await self._link.settle()
            self._linked.set()
            if self._life is not None:
                self._life.cancel()
                await asyncio.gather(self._life, return_exceptions=True)
            self._outbox.clear()
        await self._deliveries.close()

    async def _sent(self) -> None:
        if self._outbox:
            await self._emptied.wait()

    async def _live(self) -> None:
        """Make one link after the other, until cancelled."""
        pause, patience, said = AGAIN_S, CONNECT_S, ""
        for server in itertools.cycle(self._login.servers):
            began = monotonic_s()
            try:
                link = await Link.open(self._login, server, self._name, self._take, patience)
                await self._serve(link, patience)
                patience = CONNECT_S
            except Unreachable as error:
                if monotonic_s() - began >= patience:  # thousands may come to it at once, and giving up together helps nobody
                    patience = min(2 * patience, CONNECT_MAX_S)
                if said != error.message:
                    said = error.message
                    _log.info("connection.refused", server=server, error=error)
            except Exception:
                _log.exception("connection.failed", server=server)
            pause = AGAIN_S if monotonic_s() - began > AGAIN_MAX_S else min(2 * pause, AGAIN_MAX_S)
            await asyncio.sleep(pause * (0.5 + random_bytes(1)[0] / 255))  # or all who lost a server come back in step

    async def _serve(self, link: Link, patience_s: int) -> None:
        """Send and hear over *link* until it is lost; it has *patience_s* to take our patterns."""
        link.on_refused = self._refused
        self._silent.clear()
        sender = asyncio.get_running_loop().create_task(self._send(link))
        try:
            for pattern in tuple(self._patterns):
                await link.listen(pattern)
            await link.settle(patience_s)
            self._link = link
            self._linked.set()
            await link.watch()
        finally:
            self._link = None
            if not self._closing:
                self._linked.clear()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if self._closing:
                await link.close()
            else:
                link.abandon()

    async def _send(self, link: Link) -> None:
        await self._linked.wait()
        with contextlib.suppress(Unreachable):
            while True:
                await self._filled.wait()
                for number in itertools.count(1):
                    if not self._outbox:
                        break
                    subject, frame = self._outbox[0]
                    failpoint("nats.outbox.send")
                    await link.publish(subject, frame)
                    self._outbox.popleft()
                    self._waiting_bytes -= len(frame)
                    if number % YIELD_EACH == 0:
                        await asyncio.sleep(0)
                self._filled.clear()
                self._emptied.set()

    def _take(self, pattern: str, subject: bytes, frame: bytes) -> None:
        """Take one message; what an earlier pattern of ours matches too comes through that one."""
        if self._closing:
            return
        for one in self._patterns:
            if one == pattern:
                self._deliveries.deliver_raw(subject, frame)
                return
            if one not in self._silent and _covers(one, subject):
                return

    def _refused(self, subject: str) -> None:
        self.counters["refused"] += 1
        self._silent.add(subject)
        _log.warning("subject.refused", subject=subject)


def _covers(pattern: str, subject: bytes) -> bool:
    known = pattern.encode()
    return subject.startswith(known[:-1]) if known.endswith(b">") else subject == known

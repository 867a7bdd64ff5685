"""The transport protocol: frames under subjects, from whoever publishes to whoever subscribed.

Owns the protocol, what every implementation shares (subject check, prefix rule, bounded delivery) and the in-memory
implementation that can lose, repeat, reorder and cut by a seed. Does not look into frames, gives no authority to a
subject, and promises neither delivery nor order: a broadcast is a hint. Whether a participant hears itself is not
promised either. Imports the ground only.

INV-BUS-1: a subject is 1 to 128 bytes of dot-separated words, checked when sent and again when received.
INV-BUS-2: a prefix matches whole words: ``seen.app`` matches ``seen.app.x``, never ``seen.apple``.
INV-BUS-3: a handler that fails or lags costs messages of its own, never those of another and never the transport.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from enjin.errors import Invalid, StepFailed
from enjin.failpoints import failpoint
from enjin.log import get
from enjin.names import BadId, Subject

FRAME_MAX_BYTES: Final = 1 << 20
HANDLERS_MAX: Final = 1024

Handler = Callable[[str, bytes], Awaitable[None] | None]

_log = get("bus.transport")


class TransportClosed(StepFailed):
    """The connection to the bus is closed."""

    code = "E-BUS-101"


class TransportFull(StepFailed):
    """More is waiting to be sent than the bus takes."""

    code = "E-BUS-102"
    remedy = "the hub may be down: `enjin status` shows it"


class FrameTooLarge(Invalid):
    """A frame is larger than the transport carries."""

    code = "E-BUS-103"


class Transport(Protocol):
    """Publish frames under subjects and hear those of others."""

    frame_max_bytes: int

    async def publish(self, subject: str, frame: bytes) -> None:
        """Send *frame* under *subject* to whoever subscribed.

        Raises:
            BadId: *subject* is not a subject.
            FrameTooLarge: *frame* has more than ``frame_max_bytes``.
            TransportFull: Too much is waiting; try again later.
            TransportClosed: ``close`` was called, or the other end is gone for good.
        """

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """Call *handler* with (subject, frame) for each subject that is *prefix* or lies below it; empty: all.

        Returns once everything published from now on anywhere on the transport will be delivered.
        """

    async def close(self) -> None:
        """Stop delivering and release everything; harmless when repeated."""


def matches(prefix: str, subject: str) -> bool:
    """Return whether *subject* is *prefix* or lies below it in whole words; the empty prefix matches all."""
    return not prefix or subject == prefix or subject.startswith(prefix + ".")


def check_publish(subject: str, frame: bytes, limit: int) -> str:
    """Return *subject* when it and the length of *frame* are allowed.

    Raises:
        BadId: *subject* is not a subject.
        FrameTooLarge: *frame* has more than *limit* bytes.
    """
    if len(frame) > limit:
        raise FrameTooLarge(f"a frame of {len(frame)} bytes is larger than {limit}")
    return str(Subject.parse(subject))


def check_prefix(prefix: str) -> str:
    """Return *prefix* when it is empty or a subject. Raises: BadId."""
    return str(Subject.parse(prefix)) if prefix else ""


class Deliveries:
    """The subscriptions of one participant and the handlers that are still running.

    Handlers start in the order of arrival; a coroutine runs as a task of its own, so a slow one delays nobody. Above
    ``HANDLERS_MAX`` running ones a message is dropped and counted.
    """

    def __init__(self) -> None:
        self._handlers: list[tuple[str, Handler]] = []
        self._running: set[asyncio.Task[None]] = set()
        self.counters: collections.Counter[str] = collections.Counter()

    @property
    def subscriptions(self) -> list[tuple[str, Handler]]:
        """What is delivered to whom: (prefix, handler), in the order in which they were added."""
        return self._handlers

    def add(self, prefix: str, handler: Handler) -> None:
        """Deliver what matches *prefix* to *handler* from now on."""
        self._handlers.append((prefix, handler))

    def deliver_raw(self, subject: bytes, frame: bytes) -> None:
        """Deliver what came over a wire: a subject that is none is dropped and counted."""
        try:
            checked = Subject.parse(subject.decode("ascii"))
        except (BadId, UnicodeDecodeError):
            self.counters["garbage"] += 1
            return
        self.deliver(str(checked), frame)

    def deliver(self, subject: str, frame: bytes) -> None:
        """Start every handler whose prefix matches *subject*."""
        for prefix, handler in tuple(self._handlers):
            if not matches(prefix, subject):
                continue
            if len(self._running) >= HANDLERS_MAX:
                self.counters["dropped"] += 1
                continue
            self.counters["delivered"] += 1
            try:
                result = handler(subject, frame)
            except Exception:
                self._failed(subject)
                continue
            if inspect.isawaitable(result):
                task = asyncio.ensure_future(self._finish(subject, result))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _finish(self, subject: str, result: Awaitable[None]) -> None:
        try:
            await result
        except Exception:
            self._failed(subject)

    def _failed(self, subject: str) -> None:
        self.counters["failed"] += 1
        _log.exception("handler.failed", subject=subject)

    async def close(self) -> None:
        """Forget every handler and cancel those that run."""
        self._handlers.clear()
        running = [task for task in self._running if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Faults(NamedTuple):
    """How often the in-memory network misbehaves: probabilities from 0 to 1, per delivery."""

    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0


class MemoryNetwork:
    """Participants in one process, with faults drawn from a seed.

    A reordered message is held until the next one to the same participant has passed it, or until ``release``.
    """

    def __init__(self, faults: Faults = Faults(), seed: int = 0) -> None:
        self.faults = faults
        self._random = random.Random(seed)
        self._members: dict[str, MemoryTransport] = {}
        self._cut: set[tuple[str, str]] = set()
        self._held: dict[str, list[tuple[str, bytes]]] = {}

    def join(self, name: str) -> MemoryTransport:
        """Return a new participant called *name*; it replaces one of the same name."""
        member = MemoryTransport(self, name)
        self._members[name] = member
        return member

    def leave(self, name: str, member: MemoryTransport) -> None:
        """Forget *member* when it still goes by *name*."""
        if self._members.get(name) is member:
            del self._members[name]
            self._held.pop(name, None)

    def cut(self, sender: str, receiver: str) -> None:
        """Let nothing pass from *sender* to *receiver*: one way only."""
        self._cut.add((sender, receiver))

    def heal(self) -> None:
        """Undo every cut."""
        self._cut.clear()

    def release(self) -> None:
        """Deliver what is held back for reordering."""
        for name in list(self._held):
            for subject, frame in self._held.pop(name):
                self._hand_over(name, subject, frame)

    def send(self, sender: str, subject: str, frame: bytes) -> None:
        """Carry one frame from *sender* to every participant, as the faults and cuts allow."""
        for name in list(self._members):
            if (sender, name) in self._cut or self._random.random() < self.faults.lose:
                continue
            copies = 2 if self._random.random() < self.faults.repeat else 1
            if self._random.random() < self.faults.reorder:
                self._held.setdefault(name, []).extend([(subject, frame)] * copies)
                continue
            held = self._held.pop(name, [])
            for one in [(subject, frame)] * copies + held:
                self._hand_over(name, *one)

    def _hand_over(self, name: str, subject: str, frame: bytes) -> None:
        if (member := self._members.get(name)) is not None:
            asyncio.get_running_loop().call_soon(member.receive, subject, frame)


class MemoryTransport:
    """One participant of a ``MemoryNetwork``."""

    frame_max_bytes = FRAME_MAX_BYTES

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network = network
        self._name = name
        self._deliveries = Deliveries()
        self._closed = False
        self.counters = self._deliveries.counters

    async def publish(self, subject: str, frame: bytes) -> None:
        """See ``Transport.publish``."""
        if self._closed:
            raise TransportClosed("this connection to the bus is closed")
        failpoint("memory.send")
        self._network.send(self._name, check_publish(subject, frame, self.frame_max_bytes), bytes(frame))

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """See ``Transport.subscribe``."""
        if self._closed:
            raise TransportClosed("this connection to the bus is closed")
        self._deliveries.add(check_prefix(prefix), handler)

    @property
    def subscriptions(self) -> list[tuple[str, Handler]]:
        """See ``bus.moving.Hearing``."""
        return self._deliveries.subscriptions

    def receive(self, subject: str, frame: bytes) -> None:
        """Take one frame from the network."""
        if not self._closed:
            self._deliveries.deliver(subject, frame)

    async def close(self) -> None:
        """See ``Transport.close``."""
        self._closed = True
        self._network.leave(self._name, self)
        await self._deliveries.close()

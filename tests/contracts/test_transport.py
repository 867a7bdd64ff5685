"""What every transport promises, tried on the in-memory one, on ZeroMQ and NATS with a real hub or server, and on both kinds of pipe."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bus.over_pipe import PipeTransport
from bus.transport import FrameTooLarge, MemoryNetwork, Transport, TransportClosed
from enjin.names import BadId
from tests.bus.hubs import running_hub
from tests.bus.nats_servers import running_cluster
from tests.bus.waiting import asynchronous, until

Pair = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Transport, Transport]]]


@contextlib.asynccontextmanager
async def _closing(one: Transport, other: Transport) -> AsyncIterator[tuple[Transport, Transport]]:
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


@contextlib.asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[Transport, Transport]]:
    network = MemoryNetwork()
    async with _closing(network.join("one"), network.join("other")) as pair:
        yield pair


def _pipe_pair(kind: socket.SocketKind) -> Pair:
    @contextlib.asynccontextmanager
    async def pair() -> AsyncIterator[tuple[Transport, Transport]]:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        async with _closing(*(PipeTransport(end.detach()) for end in ends)) as both:
            yield both

    return pair


def _zmq_pair(folder: Path) -> Pair:
    @contextlib.asynccontextmanager
    async def pair() -> AsyncIterator[tuple[Transport, Transport]]:
        with running_hub(folder) as hub:
            hub.allow("one", "other")
            async with _closing(hub.connect("one"), hub.connect("other")) as both:
                yield both

    return pair


def _nats_pair(folder: Path) -> Pair:
    @contextlib.asynccontextmanager
    async def pair() -> AsyncIterator[tuple[Transport, Transport]]:
        with running_cluster(folder) as cluster:
            await cluster.open()
            async with _closing(cluster.connect("one"), cluster.connect("other")) as both:
                yield both

    return pair


@pytest.fixture(params=["memory", "zeromq", "nats", "datagrams", "stream"])
def pair(request: pytest.FixtureRequest, home: Path) -> Pair:
    """Two connected participants of one implementation."""
    if request.param == "memory":
        return memory_pair
    if request.param in ("zeromq", "nats"):
        return _zmq_pair(home) if request.param == "zeromq" else _nats_pair(home)
    return _pipe_pair(socket.SOCK_SEQPACKET if request.param == "datagrams" else socket.SOCK_STREAM)


@asynchronous
async def test_what_is_published_after_subscribing_arrives_in_order(pair: Pair) -> None:
    """Everything from one sender arrives, once, in the order of its sending, bytes unchanged."""
    async with pair() as (one, other):
        heard: list[tuple[str, bytes]] = []
        await other.subscribe("seen", lambda subject, frame: heard.append((subject, frame)))
        sent = [("seen.a", bytes([number % 256]) * number) for number in range(300)]
        for subject, frame in sent:
            await one.publish(subject, frame)
        await until(lambda: len(heard) >= len(sent), "every message")
        assert sent == heard


@asynchronous
async def test_both_ends_speak_and_hear(pair: Pair) -> None:
    """A participant publishes and subscribes at once: a question is answered."""
    async with pair() as (one, other):
        heard: list[bytes] = []

        async def answer(_subject: str, frame: bytes) -> None:
            await other.publish("reply.x", frame[::-1])

        await other.subscribe("query", answer)
        await one.subscribe("reply", lambda _subject, frame: heard.append(frame))
        await one.publish("query.x", b"abc")
        await until(lambda: heard, "the answer")
        assert heard == [b"cba"]


@asynchronous
async def test_a_prefix_matches_whole_words(pair: Pair) -> None:
    """``seen.app`` hears ``seen.app`` and ``seen.app.x``, never ``seen.apple``; the empty prefix hears all."""
    async with pair() as (one, other):
        words: list[str] = []
        everything: list[str] = []
        await other.subscribe("seen.app", lambda subject, _frame: words.append(subject))
        await other.subscribe("", lambda subject, _frame: everything.append(subject))
        subjects = ["seen.apple", "seen.app", "seen", "seen.app.x", "seen-app", "seen.app-x", "end"]
        for subject in subjects:
            await one.publish(subject, b"")
        await until(lambda: "end" in everything, "the last message")
        assert words == ["seen.app", "seen.app.x"]
        assert subjects == everything


@asynchronous
async def test_the_largest_frame_passes_and_one_byte_more_is_refused(pair: Pair) -> None:
    """A frame of exactly the transport's limit arrives unchanged."""
    async with pair() as (one, other):
        heard: list[bytes] = []
        await other.subscribe("big", lambda _subject, frame: heard.append(frame))
        largest = bytes(range(256)) * (one.frame_max_bytes // 256)
        with pytest.raises(FrameTooLarge):
            await one.publish("big", largest + b"x")
        await one.publish("big", largest)
        await until(lambda: heard, "the largest frame")
        assert largest == heard[0]


BAD_SUBJECTS = ("", "a..b", ".a", "a.", "A", "a b", "a/b", "ä", "a*", "a.>", "a\0", "a\n", "x" * 129, "a." * 64 + "b")


@asynchronous
async def test_a_bad_subject_is_refused_at_both_doors(pair: Pair) -> None:
    """A subject is 1 to 128 bytes of words; anything else is refused before it is sent, and cannot be subscribed to."""
    async with pair() as (one, other):
        heard: list[str] = []
        await other.subscribe("", lambda name, _frame: heard.append(name))
        for subject in BAD_SUBJECTS:
            with pytest.raises(BadId):
                await one.publish(subject, b"")
            if subject:
                with pytest.raises(BadId):
                    await other.subscribe(subject, lambda _name, _frame: None)
        await one.publish("x" * 128, b"")
        await until(lambda: heard, "the valid twin")
        assert heard == ["x" * 128]


@asynchronous
async def test_a_failing_handler_harms_nobody(pair: Pair) -> None:
    """A handler that raises, at once or later, costs its own message alone."""
    async with pair() as (one, other):
        heard: list[bytes] = []

        def fail(_subject: str, _frame: bytes) -> None:
            raise RuntimeError("a handler's own fault")

        async def fail_later(_subject: str, _frame: bytes) -> None:
            await asyncio.sleep(0)
            raise RuntimeError("a handler's own fault")

        await other.subscribe("a", fail)
        await other.subscribe("a", fail_later)
        await other.subscribe("a", lambda _subject, frame: heard.append(frame))
        for number in range(3):
            await one.publish("a", bytes([number]))
        await until(lambda: len(heard) == 3, "every message")


@asynchronous
async def test_a_slow_handler_delays_nobody(pair: Pair) -> None:
    """Messages behind one whose handler still waits are delivered."""
    async with pair() as (one, other):
        gate = asyncio.Event()
        heard: list[bytes] = []

        async def slow(_subject: str, frame: bytes) -> None:
            if frame == b"first":
                await gate.wait()
            heard.append(frame)

        await other.subscribe("a", slow)
        await one.publish("a", b"first")
        await one.publish("a", b"second")
        await until(lambda: heard, "the second message")
        gate.set()
        await until(lambda: len(heard) == 2, "the first message")
        assert heard == [b"second", b"first"]


@asynchronous
async def test_a_closed_transport_says_so(pair: Pair) -> None:
    """After ``close`` nothing is delivered, publishing is refused, and closing again is harmless."""
    async with pair() as (one, other):
        heard: list[bytes] = []
        await other.subscribe("a", lambda _subject, frame: heard.append(frame))
        await one.publish("a", b"before")
        await until(lambda: heard, "the message before")
        await other.close()
        await other.close()
        with pytest.raises(TransportClosed):
            await other.publish("a", b"after")
        with contextlib.suppress(TransportClosed):  # a pipe's other end may notice at once
            await one.publish("a", b"after")
        await one.close()
        assert heard == [b"before"]


@asynchronous
async def test_handlers_in_flight_are_cancelled_by_close(pair: Pair) -> None:
    """Closing waits for nothing that a handler waits for."""
    async with pair() as (one, other):
        started = asyncio.Event()
        ended: list[str] = []

        async def endless(_subject: str, _frame: bytes) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        await other.subscribe("a", endless)
        await one.publish("a", b"")
        await asyncio.wait_for(started.wait(), 10)
        await asyncio.wait_for(other.close(), 10)
        assert ended == ["cancelled"]

"""A pipe survives whatever its other end sends, and keeps what it owes within bounds."""

from __future__ import annotations

import asyncio
import os
import socket
import tty

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.over_pipe import MAGIC, OUTBOX_MAX, PipeTransport, StreamDecoder, pack_datagram, pack_stream, unpack_datagram
from bus.transport import TransportClosed, TransportFull
from tests.bus.waiting import asynchronous, until

NAMES = st.from_regex(r"[a-z0-9_-]{1,8}(\.[a-z0-9_-]{1,8}){0,3}", fullmatch=True)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=10), st.integers(1, 64))
@settings(deadline=None)
def test_a_stream_in_any_cut_gives_the_same_messages(messages: list[tuple[str, bytes]], cut: int) -> None:
    """However the bytes are cut on their way, each message comes out once, in order."""
    data = b"".join(pack_stream(*message) for message in messages)
    decoder, found = StreamDecoder(), []
    for at in range(0, len(data), cut):
        found += decoder.feed(data[at : at + cut])
    assert [(name.encode(), frame) for name, frame in messages] == found
    assert decoder.skipped_bytes == 0


@given(st.binary(max_size=300), st.binary(max_size=50), st.integers(1, 64))
@settings(deadline=None)
def test_garbage_costs_only_itself(garbage: bytes, frame: bytes, cut: int) -> None:
    """After any bytes at all, whole messages are found again."""
    data = garbage + b"".join(pack_stream("seen.x", frame) for _ in range(3))
    decoder, found = StreamDecoder(), []
    for at in range(0, len(data), cut):
        found += decoder.feed(data[at : at + cut])
    # A garbage header may claim to be long: then it waits for that many bytes, and no more.
    found += decoder.feed(bytes(70_000))
    assert [(b"seen.x", frame)] * 3 == found[-3:]


def test_every_bit_of_a_stream_message_counts() -> None:
    """One bit flipped: the message is lost, the next one is not."""
    good = pack_stream("seen.x", b"frame")
    for at in range(len(good)):
        broken = bytearray(good)
        broken[at] ^= 1 << at % 8
        decoder = StreamDecoder()
        found = decoder.feed(bytes(broken)) + decoder.feed(good) + decoder.feed(bytes(70_000))
        assert found == [(b"seen.x", b"frame")], f"byte {at}"


@given(st.binary(max_size=300))
def test_a_datagram_is_two_parts_or_nothing(data: bytes) -> None:
    """Any bytes unpack to what packs to the same bytes, or to nothing."""
    found = unpack_datagram(data)
    if found is not None:
        assert data == bytes([len(found[0])]) + found[0] + found[1]


@asynchronous
async def test_garbage_datagrams_are_dropped_and_counted() -> None:
    """Bad lengths, bad subjects and oversized datagrams; the valid twin after them arrives."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe = PipeTransport(ours.detach())
    heard: list[tuple[str, bytes]] = []
    await pipe.subscribe("", lambda subject, frame: heard.append((subject, frame)))
    for bad in (b"\xff", b"\x05ab", b"\x00", b"\x01A", b"\x02\xff\xff", b"\x03a..", b"\x01a" + bytes(66_000)):
        theirs.send(bad)
    theirs.send(pack_datagram("seen.x", b"good"))
    await until(lambda: heard, "the valid twin")
    assert heard == [("seen.x", b"good")]
    assert pipe.counters["garbage"] == 7
    await pipe.close()
    theirs.close()


@asynchronous
async def test_the_other_ends_death_is_told() -> None:
    """Publishing is refused and the callback runs once."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended: list[int] = []
    pipe = PipeTransport(ours.detach(), on_closed=lambda: ended.append(1))
    theirs.close()
    await asyncio.wait_for(pipe.closed.wait(), 10)
    with pytest.raises(TransportClosed):
        await pipe.publish("seen.x", b"")
    await pipe.close()
    assert ended == [1]


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
@asynchronous
async def test_a_reader_that_does_not_read_is_a_bound(kind: socket.SocketKind) -> None:
    """What waits is bounded; when the other end reads again everything that was taken arrives, whole."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    pipe = PipeTransport(ours.detach())
    sent = 0
    with pytest.raises(TransportFull):
        for number in range(OUTBOX_MAX * 20):
            await pipe.publish("seen.x", number.to_bytes(4) * 1000)
            sent += 1
    assert sent >= OUTBOX_MAX
    other, heard = PipeTransport(theirs.detach()), list[int]()
    await other.subscribe("seen", lambda _subject, frame: heard.append(int.from_bytes(frame[:4])))
    await until(lambda: len(heard) >= sent, "everything that was taken")
    assert list(range(sent)) == heard
    await pipe.close()
    await other.close()


@asynchronous
async def test_what_came_before_anybody_subscribed_is_kept() -> None:
    """A daemon that takes the pipe over reads what waited in it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(pack_datagram("seen.x", b"early"))
    pipe, heard = PipeTransport(ours.detach()), list[bytes]()
    await until(lambda: pipe._early, "the early message")
    await pipe.subscribe("seen", lambda _subject, frame: heard.append(frame))
    assert heard == [b"early"]
    await pipe.close()
    theirs.close()


@asynchronous
async def test_a_terminal_line_carries_the_stream() -> None:
    """A character device in raw mode, as a guest's serial port is."""
    leader, follower = os.openpty()
    tty.setraw(follower)
    one, other = PipeTransport(leader), PipeTransport(follower)
    heard: list[bytes] = []
    await other.subscribe("seen", lambda _subject, frame: heard.append(frame))
    frame = bytes(range(256)) * 20 + MAGIC * 3
    await one.publish("seen.x", frame)
    await until(lambda: heard, "the frame")
    assert [frame] == heard
    await one.close()
    await other.close()

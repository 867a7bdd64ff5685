"""A caller believes only the answer to its own question from whom it asked, and repeats itself until it has one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from bus import caller as caller_module
from bus.caller import Caller
from bus.messages import Reply
from bus.opening import Opened
from bus.over_pipe import PipeTransport
from bus.speaker import reply_subject
from bus.transport import Faults, MemoryNetwork, MemoryTransport
from enjin.errors import Unreachable
from keys.frame import Signature, join, open_frame
from tests.bus.parties import CHANNEL, DOMAIN, NODE, Cloud, Colours, Paint, Party, Saw
from tests.bus.waiting import asynchronous, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat soon, so that a lossy network needs no patience."""
    monkeypatch.setattr(caller_module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(caller_module, "WAIT_MAX_S", 0.05)


@contextlib.asynccontextmanager
async def served(cloud: Cloud, faults: Faults = Faults(), seed: int = 0) -> AsyncIterator[tuple[MemoryNetwork, Caller]]:
    """Serve the ring 1 daemon on a network with *faults*; give the operator's caller."""
    network = MemoryNetwork(faults, seed)
    daemon, client = network.join("daemon"), network.join("client")
    await cloud.dispatcher.serve(daemon)
    try:
        yield network, make_caller(cloud, client)
    finally:
        await client.close()
        await daemon.close()


def make_caller(cloud: Cloud, transport: MemoryTransport, party: Party | None = None) -> Caller:
    return Caller(transport, cloud.speaker_of(party or cloud.operator), cloud.trust, responder=NODE)


@asynchronous
async def test_a_command_and_a_query_are_answered() -> None:
    """The valid twin of everything below."""
    cloud = Cloud()
    async with served(cloud) as (_, caller):
        done = await caller.command(Paint(app="hello"), reason="because")
        told = await caller.query(Colours(app="hello"))
    assert (done.ok, done.number, done.repeated) == (True, 1, False)
    assert msgspec.json.decode(told.result)["app"] == "hello"
    assert cloud.journal.entries[0][1].asker.reason == "because"


@pytest.mark.parametrize("seed", range(8))
@asynchronous
async def test_a_network_that_loses_repeats_and_reorders(seed: int) -> None:
    """Every command finishes and takes effect once."""
    cloud = Cloud()
    async with served(cloud, Faults(lose=0.3, repeat=0.3, reorder=0.3), seed) as (_, caller):
        replies = await asyncio.gather(*(caller.command(Paint(app=f"a{number}"), deadline_s=20) for number in range(20)))
    assert [reply.ok for reply in replies] == [True] * 20
    assert cloud.journal.head == 20
    assert {f"a{number}" for number in range(20)} == {wish.app for wish, _ in cloud.journal.entries}  # type: ignore[attr-defined]


@asynchronous
async def test_nobody_answers() -> None:
    """Until the deadline, then it says so; a healed network answers the same request with what was stored."""
    cloud = Cloud()
    rid = cloud.rid()
    async with served(cloud) as (network, caller):
        network.cut("daemon", "client")
        with pytest.raises(Unreachable):
            await caller.command(Paint(app="hello"), rid=rid, deadline_s=0.2)
        network.heal()
        reply = await caller.command(Paint(app="hello"), rid=rid, deadline_s=5)
    assert (reply.ok, reply.repeated, cloud.journal.head) == (True, True, 1)


@asynchronous
async def test_a_clock_that_is_off_is_set_by_a_verified_refusal() -> None:
    """A person's clock an hour off: the refusal tells cloud time, and the second try is taken."""
    cloud = Cloud()
    async with served(cloud) as (_, caller):
        caller.speaker.offset_us = 3_600_000_000
        late = await caller.query(Colours())
        assert late.ok
        assert abs(caller.speaker.offset_us) < 1_000_000
    assert cloud.dispatcher.counters["freshness"] == 1


@asynchronous
async def test_a_daemon_keeps_its_time_whatever_one_that_was_started_again_says() -> None:
    """Frames that waited in the pipe while the receiver was away are too old for it; both requests are answered, and no clock was moved."""
    cloud = Cloud()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near = PipeTransport(ours.detach())
    try:
        caller = Caller(near, cloud.speaker_of(cloud.operator, daemon=True), cloud.trust, responder=NODE)
        asked = [asyncio.ensure_future(caller.query(Colours(app=name), deadline_s=5)) for name in ("one", "two")]
        await until(lambda: caller.counters["repeated"] >= 6)
        cloud.dispatcher.begin()  # what was signed before this moment is refused
        far = PipeTransport(theirs.detach())
        await cloud.dispatcher.serve(far)
        told = await asyncio.gather(*asked)
        await far.close()
    finally:
        await near.close()
    assert [msgspec.json.decode(reply.result)["app"] for reply in told] == ["one", "two"]
    assert cloud.dispatcher.counters["freshness"] >= 1
    assert caller.speaker.offset_us == 0


class _Liar:
    """Somebody on the network who answers every request with what ``make`` returns."""

    def __init__(self, cloud: Cloud, network: MemoryNetwork) -> None:
        self.cloud = cloud
        self.transport = network.join("liar")

    async def lie(self, make: object) -> None:
        async def answer(_subject: str, frame: bytes) -> None:
            request = msgspec.json.decode(open_frame(frame).payload)
            lie = make(frame, request)  # type: ignore[operator]
            if lie is not None:
                await self.transport.publish(reply_subject(request["rid"]), lie)

        await self.transport.subscribe("command", answer)


LIE = Reply(ok=True, number=666)


def answer_of(cloud: Cloud, party: Party, frame: bytes, request: dict[str, str], **changes: str) -> bytes:
    fields = {"audience": request["iss"], "rid": request["rid"], "re": open_frame(frame).digest} | changes
    return cloud.speaker_of(party, daemon=True).seal(changes.pop("subject", reply_subject(request["rid"])), LIE, **{
        key: value for key, value in fields.items() if key != "subject"
    })  # fmt: skip


def unsigned(cloud: Cloud, frame: bytes, request: dict[str, str]) -> bytes:
    good = open_frame(answer_of(cloud, cloud.daemon, frame, request))
    return join(good.type, good.payload, [Signature(good.key_id, bytes(64))])


LIES = {
    "audience": lambda c, f, r: answer_of(c, c.agent, f, r),
    "subject": lambda c, f, r: answer_of(c, c.daemon, f, r, re="0" * 64),
    "no re": lambda c, f, r: answer_of(c, c.daemon, f, r, re=""),
    "another request": lambda c, f, r: answer_of(c, c.daemon, f, r, subject="reply.0000000000000000"),
    "another receiver": lambda c, f, r: answer_of(c, c.daemon, f, r, audience="tenant"),
    "signature": lambda c, f, r: unsigned(c, f, r),
    "garbage": lambda c, f, r: b"garbage",
}


@pytest.mark.parametrize("name", LIES)
@asynchronous
async def test_n12_a_false_answer_is_not_believed(name: str) -> None:
    """From somebody else, for another request, for another receiver, unsigned: refused, counted; the true one is waited for."""
    cloud = Cloud()
    async with served(cloud) as (network, caller):
        liar = _Liar(cloud, network)
        network.cut("daemon", "client")
        await liar.lie(lambda frame, request: LIES[name](cloud, frame, request))
        asking = asyncio.ensure_future(caller.command(Paint(app="hello"), deadline_s=10))
        await until(lambda: sum(caller.counters.values()) - caller.counters["repeated"] >= 1, "a refused answer")
        assert not asking.done()
        network.heal()
        reply = await asking
        assert reply.number == 1
        await liar.transport.close()


@asynchronous
async def test_a_revoked_responder_is_not_believed() -> None:
    """The grant is checked for every answer."""
    cloud = Cloud()
    async with served(cloud) as (_, caller):
        assert (await caller.query(Colours())).ok
        cloud.trust.revoke(str(cloud.daemon.keyring.message.key_id))
        with pytest.raises(Unreachable):
            await caller.query(Colours(), deadline_s=0.3)


@asynchronous
async def test_followers_hear_verified_observations_once() -> None:
    """A repeated or foreign frame is not handed over."""
    cloud = Cloud()
    async with served(cloud, Faults(repeat=1.0)) as (network, caller):
        heard: list[Opened] = []
        await caller.follow("seen.instance", heard.append)
        agent = network.join("agent")
        speaker = cloud.speaker_of(cloud.agent, daemon=True)
        await agent.publish("seen.instance.seen", b"garbage")
        await agent.publish("seen.instance.seen", speaker.seal("seen.instance.seen", Saw(instance="i-1"), audience=DOMAIN))
        await until(lambda: caller.counters["sequence"] == 1, "the repetition")
        assert [msgspec.json.decode(opened.statement.body)["instance"] for opened in heard] == ["i-1"]
        assert caller.counters["frame"] == 2
        await agent.close()


def test_a_seal_numbers_itself() -> None:
    """A daemon's numbers rise by one within its boot; a person has none."""
    cloud = Cloud()
    daemon, person = cloud.speaker_of(cloud.daemon, daemon=True), cloud.speaker_of(cloud.operator)
    numbers, boots = [], set()
    for speaker in (daemon, daemon, person):
        statement = msgspec.json.decode(open_frame(speaker.seal("seen.x", Saw(instance="i"), audience=DOMAIN)).payload)
        numbers.append(statement.get("seq", 0))
        boots.add(statement.get("boot", ""))
        assert statement["channel"] == CHANNEL
    assert numbers == [1, 2, 0]
    assert {daemon.boot, ""} == boots

"""One signed question to many, on every transport: who is meant answers once, who is not stays silent, and no lie is believed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import fan_out as fan_out_module
from bus.asking import Collection
from bus.caller import Caller
from bus.dispatch import Dispatcher
from bus.fan_out import FanOut
from bus.groups import EVERYBODY, group, groups_of
from bus.messages import Command, Query, Question, Reply, Role, Rule, Table
from bus.roll_call import Facts, Ping, questions
from bus.speaker import reply_subject
from bus.stages import WrongAudience
from bus.transport import Faults, MemoryNetwork, Transport
from enjin.errors import EnjinError
from keys.frame import Signature, join, open_frame
from tests.bus.hubs import running_hub
from tests.bus.nats_servers import running_cluster
from tests.bus.parties import CHANNEL, NODE, Cloud, Paint, Party, paint
from tests.bus.waiting import asynchronous, until

MEMBERS = 5
Join = Callable[[str], Transport]


class Polish(Command, kind="app.polish"):
    """Polish everything: a command that many may be given at once."""


def table(node: str) -> Table:
    """Return what a member answers: the roll call, one command for many, and one that is for one alone."""
    return Table.of(questions(node, 2), (Rule(Polish, paint_all, allow=Role.TENANT, group=True), Rule(Paint, paint, allow=Role.TENANT)))


def paint_all(_wish: Polish, _world: Any, _at: Any) -> Any:
    """Decide a Polish: nothing becomes true but the entry."""
    return iter(())


class Crowd:
    """Members on a network, each with a key, a grant, a transport and a dispatcher of its own."""

    def __init__(self, cloud: Cloud, network: Join) -> None:
        self.cloud, self.join = cloud, network
        self.parties = [cloud.enrol_agent(f"a-{number:016x}") for number in range(MEMBERS)]
        self.dispatchers: dict[str, Dispatcher] = {}
        self.transports: list[Transport] = []
        self.caller: Caller

    async def start(self, groups: Callable[[Party], frozenset[str]], absent: int) -> None:
        """Start the operator's caller and every member but the first *absent*."""
        for party in self.parties[absent:]:
            dispatcher = self.cloud.member(party, lambda party=party: groups(party), table(party.subject))  # type: ignore[misc]
            await dispatcher.serve(self.connect(party.subject))
            self.dispatchers[party.subject] = dispatcher
        self.caller = Caller(self.connect("operator"), self.cloud.speaker_of(self.cloud.operator), self.cloud.trust, responder=NODE)

    def connect(self, name: str) -> Transport:
        """Return a transport that ends with the crowd."""
        self.transports.append(self.join(name))
        return self.transports[-1]

    @property
    def ids(self) -> list[str]:
        return [party.subject for party in self.parties]

    async def ask(
        self,
        message: Command | Query = Ping(),
        *,
        audience: str = EVERYBODY,
        timeout_s: float = 10.0,
        expected: dict[str, str] | None = None,
    ) -> Collection:
        """Ask, expecting every member unless told otherwise."""
        fan_out = FanOut([self.caller], audience, {one: one for one in self.ids} if expected is None else expected)
        return await fan_out.ask(message, timeout_s=timeout_s)

    def count(self, stage: str) -> int:
        """Return how often the members have counted *stage*."""
        return sum(one.counters[stage] for one in self.dispatchers.values())


def all_of(party: Party) -> frozenset[str]:
    """Return the groups of an agent that lies nowhere."""
    return groups_of(party.subject, 2)


@contextlib.asynccontextmanager
async def network(kind: str, home: Path) -> AsyncIterator[Join]:
    """A network of transports of one kind."""
    if kind == "memory":
        memory = MemoryNetwork()
        yield memory.join
    elif kind == "zeromq":
        names = ["operator", "liar", *(f"a-{number:016x}" for number in range(MEMBERS))]
        with running_hub(home) as hub:
            hub.allow(*names)
            yield hub.connect
    else:
        with running_cluster(home) as cluster:
            await cluster.open()
            yield cluster.connect


@contextlib.asynccontextmanager
async def crowd(join: Join, groups: Callable[[Party], frozenset[str]] = all_of, absent: int = 0) -> AsyncIterator[Crowd]:
    """A crowd that has started."""
    made = Crowd(Cloud(), join)
    try:
        await made.start(groups, absent)
        yield made
    finally:
        for transport in made.transports:
            await transport.close()


@pytest.mark.parametrize("kind", ["memory", "zeromq", "nats"])
@asynchronous
async def test_everybody_answers_one_signed_question(kind: str, home: Path) -> None:
    """Each with its own signature, once, to one frame that was sent once."""
    async with network(kind, home) as join, crowd(join) as made:
        found = await made.ask(Facts())
    assert {one: one for one in made.ids} == {msgspec.json.decode(one.result)["node"]: one.node for one in found.answers.values()}
    assert (found.summary().exit_status, found.summary().ok, found.repeated, found.strangers) == (0, MEMBERS, 0, 0)
    assert made.count("passed") == MEMBERS


@asynchronous
async def test_who_is_in_a_group_is_the_receivers_knowledge() -> None:
    """Two lie in the rack: they alone answer; the sender's list of whom it expects changes nothing."""
    rack = group("compartment", "c-rack")

    def groups(party: Party) -> frozenset[str]:
        return groups_of(party.subject, 2, compartments=("c-rack",) if party.subject[-1] in "13" else ())

    async with crowd(MemoryNetwork().join, groups) as made:
        found = await made.ask(audience=rack, timeout_s=0.2)
        assert sorted(found.answers) == [made.ids[1], made.ids[3]]
        assert [one.node for one in found.summary().silent] == [made.ids[0], made.ids[2], made.ids[4]]
        assert found.summary().exit_status == 3
        alone = await made.ask(audience=group("node", made.ids[2]), expected={made.ids[2]: "two"})
        assert (list(alone.answers), alone.complete) == ([made.ids[2]], True)
        nobody = await made.ask(audience=group("ring", 1), timeout_s=0.1)
        assert (dict(nobody.answers), nobody.summary().exit_status) == ({}, 1)


@asynchronous
async def test_a_silent_one_is_named_and_asked_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off, it is named when the time is up; come back in time, it answers the repetition, and nobody else is asked twice."""
    monkeypatch.setattr(fan_out_module, "AGAIN_S", 0.05)
    memory = MemoryNetwork()
    async with crowd(memory.join) as made:
        memory.cut("operator", made.ids[0])
        found = await made.ask(timeout_s=0.2)
        assert [one.node for one in found.summary().silent] == [made.ids[0]]

        async def healed(_subject: str, _frame: bytes) -> None:
            memory.heal()

        await made.connect("healer").subscribe("query", healed)
        again = await made.ask()
        assert (again.complete, again.repeated) == (True, 0)


@pytest.mark.parametrize("seed", range(5))
@asynchronous
async def test_a_network_that_loses_repeats_and_reorders(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end everybody has answered and counts once."""
    monkeypatch.setattr(fan_out_module, "AGAIN_S", 0.02)
    monkeypatch.setattr(fan_out_module, "AGAIN_MAX_S", 0.05)
    async with crowd(MemoryNetwork(Faults(lose=0.3, repeat=0.3, reorder=0.2), seed).join) as made:
        found = await made.ask()
    assert (found.summary().ok, found.summary().exit_status) == (MEMBERS, 0)


@asynchronous
async def test_a_clock_that_is_off_is_set_by_a_verified_refusal() -> None:
    """Everybody refuses the stale question; it is sealed anew, and all answers are to that."""
    async with crowd(MemoryNetwork().join) as made:
        made.caller.speaker.offset_us = -3_600_000_000
        found = await made.ask()
        assert (found.summary().ok, abs(made.caller.speaker.offset_us) < 1_000_000) == (MEMBERS, True)
        assert sum(made.caller.counters.values()) == 0


@asynchronous
async def test_a_command_takes_effect_once_at_each() -> None:
    """Many hear one signed command; a repetition of it is answered from what is stored."""
    async with crowd(MemoryNetwork(Faults(repeat=1.0)).join) as made:
        found = await made.ask(Polish())
    assert found.summary().ok == MEMBERS
    assert made.cloud.journal.head == 1  # they share one journal here, which decides a request id once


@pytest.mark.parametrize("kind", ["command.app.paint", "query.app.colours", "command.no.such"])
@asynchronous
async def test_what_is_for_one_alone_is_not_taken_by_a_group(kind: str) -> None:
    """Refused by everybody, in silence: a group is no way to a kind whose row does not say so."""
    async with crowd(MemoryNetwork().join) as made:
        speaker = made.cloud.speaker_of(made.cloud.operator)
        heard: list[str] = []
        await made.connect("ear").subscribe("reply", lambda subject, _frame: heard.append(subject))
        await made.caller.transport.publish(kind, speaker.seal(kind, Paint(app="hello"), audience=EVERYBODY))
        await until(lambda: made.count("audience") == MEMBERS, "the refusals")
        assert (await made.ask()).complete
        assert (made.cloud.journal.head, len(heard)) == (0, MEMBERS)


@asynchronous
async def test_an_observation_cannot_be_for_a_group() -> None:
    """Not even under the name of a question that groups are asked."""
    async with crowd(MemoryNetwork().join) as made:
        speaker = made.cloud.speaker_of(made.cloud.agent, daemon=True)
        await made.caller.transport.publish("seen.daemon.ping", speaker.seal("seen.daemon.ping", Ping(), audience=EVERYBODY))
        await until(lambda: made.count("audience") == MEMBERS, "the refusals")
        assert made.count("passed") == 0


@asynchronous
async def test_who_may_not_ask_is_refused_by_each() -> None:
    """A tenant's question to everybody gets refusals and no answer."""
    async with crowd(MemoryNetwork().join) as made:
        made.caller = Caller(made.connect("tenant"), made.cloud.speaker_of(made.cloud.tenant), made.cloud.trust, responder=NODE)
        found = await made.ask()
    assert {(one.ok, one.code) for one in found.answers.values()} == {(False, "E-BUS-013")}
    assert (found.summary().failed, found.summary().exit_status) == (MEMBERS, 1)


def test_a_doors_own_request_is_for_one_alone() -> None:
    """What a door carries out itself cannot come by way of a group."""
    cloud = Cloud()
    party = cloud.enrol_agent("a-0000000000000000")
    member = cloud.member(party, lambda: groups_of(party.subject, 2), table(party.subject))
    frame = cloud.speaker_of(cloud.operator).seal("query.daemon.ping", Ping(), audience=EVERYBODY)
    row = Question(Ping, lambda *_: None, Role.OPERATOR, group=True)
    with pytest.raises(WrongAudience):
        member.authorise(frame, row=row, subject="query.daemon.ping", door="http", connection="x")


def test_a_daemon_without_groups_takes_none() -> None:
    """As if there were no such audience."""
    cloud = Cloud()
    with pytest.raises(WrongAudience):
        frame = cloud.speaker_of(cloud.operator).seal("query.daemon.ping", Ping(), audience=EVERYBODY)
        cloud.dispatcher._opening.verify(frame, channel=CHANNEL)


LIES: dict[str, Callable[[Crowd, bytes, dict[str, str]], bytes]] = {
    "by somebody who was not asked": lambda made, frame, asked: lie(made, made.cloud.agent, frame, asked),
    "to another request": lambda made, frame, asked: lie(made, made.parties[0], frame, asked, re="0" * 64),
    "to no request": lambda made, frame, asked: lie(made, made.parties[0], frame, asked, re=""),
    "under another request's id": lambda made, frame, asked: lie(made, made.parties[0], frame, asked, rid=made.cloud.rid()),
    "to somebody else": lambda made, frame, asked: lie(made, made.parties[0], frame, asked, audience="tenant"),
    "unsigned": lambda made, frame, asked: unsigned(lie(made, made.parties[0], frame, asked)),
    "signed by another under its name": lambda made, frame, asked: lie(made, made.cloud.agent, frame, asked, issuer=made.ids[0]),
    "garbage": lambda _made, _frame, _asked: b"garbage",
}


def lie(made: Crowd, party: Party, frame: bytes, asked: dict[str, str], **changes: str) -> bytes:
    """Return an answer of *party* that is true but for *changes*."""
    speaker = made.cloud.speaker_of(party, daemon=True)
    speaker.issuer = changes.pop("issuer", party.subject)
    fields = {"audience": asked["iss"], "rid": asked["rid"], "re": open_frame(frame).digest} | changes
    return speaker.seal(reply_subject(asked["rid"]), Reply(ok=True, message="a lie"), **fields)  # type: ignore[arg-type]


def unsigned(frame: bytes) -> bytes:
    """Return *frame* with a signature of zeros."""
    good = open_frame(frame)
    return join(good.type, good.payload, [Signature(good.key_id, bytes(64))])


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("kind", ["memory", "zeromq", "nats"])
@asynchronous
async def test_n12_a_false_answer_counts_for_nobody(kind: str, name: str, home: Path) -> None:
    """It is refused or counted as a stranger's, and whom it was about is silent until it speaks itself."""
    async with network(kind, home) as join, crowd(join, absent=1) as made:
        liar = made.connect("liar")

        async def answer(_subject: str, frame: bytes) -> None:
            asked = msgspec.json.decode(open_frame(frame).payload)
            with contextlib.suppress(EnjinError):
                await liar.publish(reply_subject(asked["rid"]), LIES[name](made, frame, asked))

        await liar.subscribe("query", answer)
        found = await made.ask(timeout_s=0.5)
        assert [one.node for one in found.summary().silent] == [made.ids[0]]
        assert (found.summary().ok, {one.message for one in found.answers.values()}) == (MEMBERS - 1, {""})
        assert found.strangers + sum(made.caller.counters.values()) >= 1


@asynchronous
async def test_n12_a_repeated_answer_counts_once() -> None:
    """Played again by the network, it is counted as a repetition."""
    async with crowd(MemoryNetwork(Faults(repeat=1.0)).join) as made:
        found = await made.ask(expected={one: one for one in (*made.ids, "a-00000000000000ff")}, timeout_s=0.3)
    assert (found.summary().ok, found.repeated) == (MEMBERS, MEMBERS)


@asynchronous
async def test_nobody_is_asked_again_while_answers_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that come one by one put off the next question, as long as no silence between them is as long as it waits for."""
    monkeypatch.setattr(fan_out_module, "AGAIN_S", 0.8)

    def slow_down(transport: Transport, wait_s: float) -> None:
        publish = transport.publish

        async def later(subject: str, frame: bytes) -> None:
            await asyncio.sleep(wait_s)
            await publish(subject, frame)

        monkeypatch.setattr(transport, "publish", later)

    async with crowd(MemoryNetwork().join) as made:
        for number, transport in enumerate(made.transports[:MEMBERS]):
            slow_down(transport, 0.2 * (number + 1))
        found = await made.ask()
        assert (found.summary().ok, found.repeated, made.count("passed")) == (MEMBERS, 0, MEMBERS)


@asynchronous
async def test_n23_a_revoked_member_is_silent() -> None:
    """Its answer is not believed from the moment that its key is not."""
    async with crowd(MemoryNetwork().join) as made:
        made.cloud.trust.revoke(str(made.parties[0].keyring.message.key_id))
        found = await made.ask(timeout_s=0.2)
    assert ([one.node for one in found.summary().silent], found.summary().ok) == ([made.ids[0]], MEMBERS - 1)

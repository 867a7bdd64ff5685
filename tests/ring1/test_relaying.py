"""What a group is asked goes down to every agent unchanged; one answer of each comes up, and nothing else does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from bus.envelope import open_frame, read_statement
from bus.groups import EVERYBODY
from bus.messages import Reply
from bus.opening import Opened
from bus.over_pipe import PipeTransport
from bus.roll_call import Ping
from bus.speaker import reply_subject
from bus.transport import MemoryNetwork
from ring1 import relaying
from ring1.relaying import Relay
from tests.bus.parties import Cloud, Party
from tests.bus.waiting import asynchronous, until

KIND = "query.daemon.ping"


class Line(NamedTuple):
    """Two agents on pipes, the bus, and what both heard."""

    cloud: Cloud
    relay: Relay
    agents: dict[str, Party]
    ours: dict[str, PipeTransport]
    theirs: dict[str, PipeTransport]
    asked: list[tuple[str, bytes]]
    answered: list[tuple[str, bytes]]

    async def ask(self) -> tuple[bytes, str]:
        """Pass a question of the operator's down; return its frame and its request id."""
        frame = self.cloud.speaker_of(self.cloud.operator).seal(KIND, Ping(), audience=EVERYBODY)
        opened = open_frame(frame)
        statement = read_statement(opened)
        await self.relay.down(Opened(frame, opened, statement, self.cloud.trust.authority(statement.grant, statement.time)), self.ours)
        return frame, statement.rid

    def answer(self, agent: str, rid: str) -> bytes:
        """Return an answer of *agent*'s."""
        return self.cloud.speaker_of(self.agents[agent], daemon=True).seal(reply_subject(rid), Reply(ok=True), audience="operator", rid=rid)

    async def say(self, agent: str, subject: str, frame: bytes) -> None:
        """Have *agent* send something up, and something that its neighbour is asked about after it."""
        await self.theirs[agent].publish(subject, frame)

    def bytes_up(self) -> list[bytes]:
        return [frame for _, frame in self.answered]


@contextlib.asynccontextmanager
async def line() -> AsyncIterator[Line]:
    """Real pipes, a real bus."""
    cloud, memory = Cloud(), MemoryNetwork()
    bus, ear = memory.join("ring1"), memory.join("ear")
    made = Line(cloud, Relay(cloud.trust, lambda: bus), {}, {}, {}, [], [])
    await ear.subscribe("reply", lambda subject, frame: made.answered.append((subject, frame)))
    for node in ("a-0000000000000001", "a-0000000000000002"):
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.ours[node], made.theirs[node] = (PipeTransport(end.detach()) for end in ends)
        made.agents[node] = cloud.enrol_agent(node)
        await made.theirs[node].subscribe("query", lambda subject, frame: made.asked.append((subject, frame)))
        grant = made.agents[node].grant
        await made.ours[node].subscribe("reply", lambda subject, frame, node=node, grant=grant: made.relay.up(node, grant, subject, frame))  # type: ignore[misc]
    try:
        yield made
    finally:
        for transport in (*made.ours.values(), *made.theirs.values(), bus, ear):
            await transport.close()


FIRST, SECOND = "a-0000000000000001", "a-0000000000000002"


@asynchronous
async def test_question_and_answers_pass_unchanged() -> None:
    """Byte for byte, under the subjects that they were signed for."""
    async with line() as made:
        frame, rid = await made.ask()
        await until(lambda: len(made.asked) == 2, "the question at both")
        assert made.asked == [(KIND, frame)] * 2
        answers = {agent: made.answer(agent, rid) for agent in made.agents}
        for agent, answer in answers.items():
            await made.say(agent, reply_subject(rid), answer)
        await until(lambda: len(made.answered) == 2, "both answers")
        assert sorted(made.answered) == sorted((reply_subject(rid), answer) for answer in answers.values())


@pytest.mark.parametrize("what", ["a second answer", "an answer to nothing", "an answer in another's name", "garbage", "too large"])
@asynchronous
async def test_n12_nothing_else_comes_up(what: str) -> None:
    """An agent is a tenant's neighbour: its pipe is no way to say what it likes on the bus."""
    async with line() as made:
        _, rid = await made.ask()
        good, subject = made.answer(FIRST, rid), reply_subject(rid)
        bad = {
            "a second answer": made.answer(FIRST, rid),
            "an answer to nothing": made.answer(FIRST, made.cloud.rid()),
            "an answer in another's name": made.answer(SECOND, rid),
            "garbage": b"garbage",
            "too large": made.cloud.speaker_of(made.agents[FIRST], daemon=True).seal(
                subject, Reply(ok=True, message="x" * 65_000), audience="operator", rid=rid
            ),
        }[what][:65_536]
        if what == "a second answer":
            await made.say(FIRST, subject, good)
        await made.say(FIRST, reply_subject(made.cloud.rid()) if what == "an answer to nothing" else subject, bad)
        if what != "a second answer":
            await made.say(FIRST, subject, good)
        await made.say(SECOND, subject, last := made.answer(SECOND, rid))
        await until(lambda: last in made.bytes_up() and good in made.bytes_up(), "the good answers")
        assert sorted(made.bytes_up()) == sorted([good, last])


@asynchronous
async def test_what_is_passing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest question is forgotten first; its answer then goes nowhere, and the newest one's is passed on."""
    monkeypatch.setattr(relaying, "PASSING_MAX", 3)
    async with line() as made:
        rids = [(await made.ask())[1] for _ in range(5)]
        answers = [made.answer(FIRST, rid) for rid in rids]
        for rid, answer in zip(rids, answers, strict=True):
            await made.say(FIRST, reply_subject(rid), answer)
        await until(lambda: answers[-1] in made.bytes_up(), "the newest answer")
        assert made.bytes_up() == answers[2:]

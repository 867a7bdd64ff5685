"""Real domains whose wall clock is an hour off: they learn the time from the ring above, or refuse what is not its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.stages import STAGES
from bus.timing import TimeAsked, TimeAsker, TimeTold
from enjin.canonical import parse
from keys.frame import open_frame
from keys.grants import sign_grant
from tests.bus.waiting import asynchronous, until
from tests.compartments.parents import HOUR, PARENT, SECOND, Node, Parents, Person, Shift

NEIGHBOUR = "n-00000000000000ff"


@pytest.fixture
def shift() -> Iterator[Shift]:
    with pytest.MonkeyPatch.context() as patch:
        yield Shift(patch)


def short(parents: Parents, subject: str, begin: int, end: int) -> Person:
    """Return a person whose grant is in force from *begin* to *end*, seconds from now."""
    who = parents.enrol(subject, 0, 0, 2, daemon=False)
    ring0 = parents.people[PARENT]
    fields = parents.fields(who, ring0.grant, 0, 0, 2, daemon=False)
    fields = msgspec.structs.replace(fields, not_before=parents.began + begin * SECOND, expiry=parents.began + end * SECOND)
    assert ring0.keyring.issuer is not None
    who.frame = sign_grant(fields, ring0.keyring.issuer)
    return who


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_n10_a_domain_whose_wall_clock_is_an_hour_off_refuses_and_accepts_as_ever(tmp_path: Path, shift: Shift, skew: int) -> None:
    """An expired grant is refused and a fresh one accepted; without the answer of the ring above it would be the other way round."""

    async def main() -> None:
        parents = Parents(shift)
        expired, fresh = short(parents, "expired", -1500, -60), short(parents, "fresh", -60, 1500)
        shift.skew_us = skew
        node = Node(parents, "n-0000000000000001", tmp_path)
        try:
            assert abs(node.domain.journal.now() - shift.now() - skew) < 60 * SECOND
            assert await node.learn()
            await node.start()
            assert abs(node.domain.journal.now() - shift.now()) < SECOND
            assert [await node.dead(expired), await node.dead(fresh)] == [True, False]
            assert await node.code(fresh) == ""
            shift.skew_us = -skew
            assert [await node.dead(expired), await node.dead(fresh)] == [True, False]
        finally:
            await node.ours.close()
            await node.domain.close()

    asyncio.run(main())


class Line:
    """A node that asks, a ring above that a test plays, and what passed between them."""

    def __init__(self, parents: Parents, folder: Path) -> None:
        self.parents = parents
        self.node = Node(parents, "n-0000000000000001", folder)
        self.asked: list[bytes] = []
        self.asker = TimeAsker(self.node.ours, self.node.domain.speaker, self.node.trust, PARENT, self.node.domain.clock)
        self.above = self.node.member("above")

    async def ask(self) -> asyncio.Task[bool]:
        """Let the node ask, and return when its question has come."""
        await self.above.subscribe("seen.trust.asked", lambda _subject, frame: self.asked.append(frame))
        count = len(self.asked)
        task = asyncio.get_running_loop().create_task(self.asker.ask(1.0))
        await until(lambda: len(self.asked) > count, "the question")
        return task

    def answer(self, question: bytes, by: str = PARENT, **changes: object) -> bytes:
        """Return *by*'s answer to *question*: an hour ahead, so that it would show."""
        asked = open_frame(question)
        nonce = parse(msgspec.json.decode(asked.payload, type=dict[str, msgspec.Raw])["body"], TimeAsked).nonce
        told = TimeTold(nonce=str(changes.get("nonce", nonce)), time=self.parents.shift.now() + HOUR)
        speaker = self.parents.speaker(self.parents.people[by], self.node.channel)
        return speaker.seal("seen.trust.told", told, audience=self.node.node, re=str(changes.get("re", asked.digest)))

    async def say(self, frame: bytes) -> None:
        """Deliver *frame* to the node."""
        await self.above.publish("seen.trust.told", frame)


@asynchronous
async def test_n11_a_recorded_answer_is_refused(tmp_path: Path, shift: Shift) -> None:
    """The very answer that was believed once, an answer with another nonce or for another question, one by somebody else: none moves
    the clock. The true one does."""
    parents = Parents(shift)
    parents.enrol(NEIGHBOUR, 1, 1, 3)
    line = Line(parents, tmp_path)
    line.node.trust.add(parents.people[NEIGHBOUR].frame)
    try:
        first = await line.ask()
        recorded = line.answer(line.asked[-1])
        await line.say(recorded)
        assert await first
        reached = line.node.domain.clock.now()
        assert reached > shift.now() + HOUR // 2
        shift.us += 60 * SECOND
        second = await line.ask()
        question = line.asked[-1]
        for false in (
            recorded, line.answer(question, nonce="ab" * 16), line.answer(question, re="cd" * 32), line.answer(question, NEIGHBOUR),
            line.answer(question, line.node.node),
        ):  # fmt: skip
            await line.say(false)
        assert not await second
        assert abs(line.node.domain.clock.now() - reached - 60 * SECOND) < 10 * SECOND
        third = await line.ask()
        for _ in range(2):
            await line.say(line.answer(line.asked[-1]))
        assert await third
    finally:
        await line.node.ours.close()
        await line.node.domain.close()


@asynchronous
async def test_asking_is_no_refusal(tmp_path: Path, shift: Shift) -> None:
    """What is asked and answered passes the node's own dispatcher as any observation does: nothing is counted or told as refused."""
    node = Node(Parents(shift), "n-0000000000000001", tmp_path)
    try:
        await node.start()
        counters = node.domain.dispatcher.counters
        before = counters["handled"]
        assert await node.learn()
        await until(lambda: counters["handled"] >= before + 2, "question and answer have passed")
        assert {stage.stage: counters[stage.stage] for stage in STAGES if counters[stage.stage]} == {}
    finally:
        await node.ours.close()
        await node.domain.close()


@asynchronous
async def test_without_an_answer_the_clock_stays(tmp_path: Path, shift: Shift) -> None:
    """Nobody answers: nothing is learnt, and nothing breaks."""
    node = Node(Parents(shift), "n-0000000000000001", tmp_path)
    try:
        assert not await node.learn(tell=False)
        assert not node.domain.clock.learnt
    finally:
        await node.ours.close()
        await node.domain.close()

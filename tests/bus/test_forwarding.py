"""A command on its way through one decider to another, and what whoever stands on that way cannot do."""

from __future__ import annotations

import msgspec
import pytest

from bus import forwarding
from bus.caller import Caller
from bus.dispatch import Dispatcher, Handlers, Place
from bus.envelope import Behalf, open_frame
from bus.forwarding import Forwarding
from bus.handling import Answered
from bus.journal import NotDecider
from bus.messages import Asker, Command, Moment, Reply, Role, Rule
from bus.opening import Opened
from bus.speaker import Speaker, reply_subject
from bus.transport import MemoryNetwork, MemoryTransport
from enjin.canonical import canonical
from enjin.errors import EnjinError
from keys.grants import PublicKeys, sign_grant
from keys.trust import TrustSet
from tests.bus.parties import TABLE, Colours, FakeJournal, Paint
from tests.bus.waiting import asynchronous, until
from tests.e2e.deciders import CHANNEL, DECIDERS, OPERATOR, Authority, keyring

FIRST, SECOND = DECIDERS
CHILD = "n-0000000000000003"  # a daemon with a journal of its own, by a grant of the first decider's: not of the root's


class Cloud:
    """Two deciders on one bus, of which *holder* decides; the operator, and a child that speaks on the same channel."""

    def __init__(self, holder: str = FIRST) -> None:
        self.authority, self.network, self.holder = Authority(), MemoryNetwork(), holder
        self.journal, self.frames = FakeJournal(), []  # type: ignore[var-annotated]
        self.trust = self.authority.trust()
        self.grants = {self.trust.grant(open_frame(frame).digest).subject: open_frame(frame).digest for frame in self.authority.grants}
        self._adopt()
        self.dispatchers: dict[str, Dispatcher] = {}

    def _adopt(self) -> None:
        issuer, keys = keyring(self.authority.cloud, FIRST).issuer, keyring(self.authority.cloud, CHILD)
        assert issuer is not None
        own = self.trust.grant(self.grants[FIRST])
        public = PublicKeys(message=keys.message.public.hex(), journal=keys.journal.public.hex())
        self.grants[CHILD] = self.trust.add(
            sign_grant(msgspec.structs.replace(own, subject=CHILD, keys=public, depth=2, parent=self.grants[FIRST]), issuer)
        )

    def speaker(self, subject: str) -> Speaker:
        """Return *subject*'s voice."""
        keys = keyring(self.authority.cloud, subject)
        return Speaker(
            cloud=self.authority.cloud, channel=CHANNEL, issuer=subject, grant=self.grants[subject], signer=keys.message,
            daemon=subject != OPERATOR,
        )  # fmt: skip

    async def run(self, node: str) -> MemoryTransport:
        """Have *node* serve, and return its place on the bus."""
        transport, speaker = self.network.join(node), self.speaker(node)
        way = Forwarding(self.trust, CHANNEL, speaker.now)

        async def decide(rule: Rule, wish: Command, moment: Moment, frame: bytes) -> Reply:
            if node != self.holder:
                raise NotDecider("another decides", holder=self.holder)
            self.frames.append(frame)
            return await self.journal.decide(rule, wish, moment, frame)

        async def forward(opened: Opened, error: EnjinError) -> Answered:
            return await way.forward(transport, opened, str(error.details["holder"]))

        def account(behalf: Behalf) -> Asker:
            return Asker(id=behalf.account, role=Role.OPERATOR, compartment="", token=behalf.token)

        self.dispatchers[node] = Dispatcher(
            place=Place(node=node, domain=CHANNEL, channel=CHANNEL, ring=0, path="cloud"), table=TABLE, trust=self.trust, speaker=speaker,
            handlers=Handlers(decide, lambda *_: {"by": node}, account=account, forward=forward),
            fellows=frozenset(self.trust.beside(node)),
        )  # fmt: skip
        await way.serve(transport)
        await self.dispatchers[node].serve(transport)
        return transport

    def caller(self, node: str) -> Caller:
        """Return the operator's way of asking *node*."""
        return Caller(self.network.join(OPERATOR), self.speaker(OPERATOR), self.trust, responder=node)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent decider is given up sooner."""
    monkeypatch.setattr(forwarding, "WAIT_S", 0.3)


@asynchronous
async def test_the_very_frame_goes_on_and_the_very_answer_comes_back() -> None:
    """What the decider journals is what the asker signed; who passed it on stands nowhere in it."""
    cloud = Cloud()
    await cloud.run(FIRST)
    await cloud.run(SECOND)
    heard: list[bytes] = []
    ear = cloud.network.join("ear")
    await ear.subscribe("command", lambda _subject, frame: heard.append(frame))
    reply = await cloud.caller(SECOND).command(Paint(app="a"))
    assert (reply.ok, reply.number) == (True, 1)
    assert cloud.frames == heard
    assert [(moment.asker.id, moment.asker.door) for _wish, moment in cloud.journal.entries] == [(OPERATOR, "forward")]
    assert cloud.dispatchers[FIRST].counters["elsewhere"] == 1  # it heard it before, and left it to whom it was for
    asked = await cloud.caller(SECOND).query(Colours())
    assert bytes(asked.result) == canonical({"by": SECOND})  # a question is answered by whoever is asked


@asynchronous
async def test_a_silent_decider_is_told_of_with_a_code() -> None:
    """Nobody there, or nobody who hears: E-FWD-001, to be tried again."""
    cloud = Cloud()
    await cloud.run(SECOND)
    reply = await cloud.caller(SECOND).command(Paint(app="a"))
    assert (reply.ok, reply.code) == (False, "E-FWD-001")
    assert cloud.journal.entries == []


@asynchronous
async def test_n12_an_answer_that_the_decider_did_not_sign_is_not_passed_on() -> None:
    """A child of the decider's answers in its stead, with a valid grant and the right digest: neither forwarder nor asker believes it."""
    cloud = Cloud()
    await cloud.run(SECOND)
    child, voice, answered = cloud.network.join(CHILD), cloud.speaker(CHILD), []

    async def lie(_subject: str, frame: bytes) -> None:
        asked = msgspec.json.decode(open_frame(frame).payload)
        subject, yes = reply_subject(asked["rid"]), Reply(ok=True, number=7)
        answered.append(subject)
        await child.publish(subject, voice.seal(subject, yes, audience=OPERATOR, rid=asked["rid"], re=open_frame(frame).digest))

    await child.subscribe("forward", lie)
    caller = cloud.caller(SECOND)
    reply = await caller.command(Paint(app="a"))
    assert answered
    assert (reply.ok, reply.code) == (False, "E-FWD-001")
    assert caller.counters["audience"] == len(answered)


@asynchronous
async def test_who_passes_on_gains_nothing() -> None:
    """Under the forwarding subject no other door opens: a question is not taken, nor a child's word for an account; a decider's is."""
    cloud = Cloud()
    await cloud.run(FIRST)
    first, ear = cloud.dispatchers[FIRST], cloud.network.join("ear")
    answers: list[str] = []
    await ear.subscribe("reply", lambda subject, _frame: answers.append(subject))

    async def send(who: str, message: Paint | Colours, behalf: Behalf | None = None) -> None:
        word = "command" if isinstance(message, Command) else "query"
        frame = cloud.speaker(who).seal(f"{word}.{message.KIND}", message, audience=SECOND, behalf=behalf)
        before = first.counters["elsewhere"] + len(answers)
        await ear.publish(f"forward.{FIRST}", frame)
        await until(lambda: first.counters["elsewhere"] + len(answers) > before, "it was taken or left")

    await send(OPERATOR, Colours())
    assert (first.counters["elsewhere"], answers) == (1, [])
    account = Behalf(account="alice", token="t-1", door="http")
    await send(CHILD, Paint(app="a"), account)
    assert (cloud.journal.head, first.counters["permission"]) == (0, 1)
    await send(SECOND, Paint(app="a"), account)
    assert [(moment.asker.id, moment.asker.door) for _wish, moment in cloud.journal.entries] == [("alice", "http")]


@asynchronous
async def test_what_was_forwarded_is_not_forwarded_again() -> None:
    """Two that each believe the other decides: one step, and a refusal that can be tried again."""
    cloud = Cloud()
    await cloud.run(FIRST)
    await cloud.run(SECOND)
    seen: list[str] = []
    ear = cloud.network.join("ear")
    await ear.subscribe("forward", lambda subject, _frame: seen.append(subject))

    async def other(*_words: object) -> Reply:
        raise NotDecider("another decides", holder=SECOND)

    cloud.dispatchers[FIRST].handlers = cloud.dispatchers[FIRST].handlers._replace(decide=other)
    reply = await cloud.caller(SECOND).command(Paint(app="a"))
    assert (reply.ok, reply.code) == (False, "E-JNL-022")
    assert seen == [f"forward.{FIRST}"]


def test_who_decides_beside_whom_the_root_alone_says() -> None:
    """The two that the root granted stand beside each other; a child and an operator beside nobody."""
    cloud = Cloud()
    keys = cloud.authority.journal_keys()
    assert cloud.trust.beside(FIRST) == {SECOND: keys[SECOND]}
    assert cloud.trust.beside(SECOND) == {FIRST: keys[FIRST]}
    assert [cloud.trust.beside(one) for one in (CHILD, OPERATOR, "nobody")] == [{}, {}, {}]
    assert TrustSet(cloud.authority.root).beside(FIRST) == {}

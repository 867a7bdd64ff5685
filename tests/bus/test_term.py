"""A node whose grant has expired, before every kind of receiver: refused on foreign channels, believed on its own for its autonomy."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from bus import roll_call
from bus.caller import Caller
from bus.dispatch import Dispatcher, Handlers, Place
from bus.messages import Asker, Command, Moment, Query, Question, Reply, Rule, Table
from bus.opening import Opened
from bus.roll_call import Ping
from bus.speaker import Speaker
from bus.transport import MemoryNetwork
from bus.watching import Watcher
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.trust import TrustSet
from tests.bus.parties import HOUR, ROOT, SHARES, START, YEAR, Saw, reply_in, seed
from tests.bus.waiting import asynchronous, until

DAY = 24 * HOUR
N0, N1, N2, AGENT, PERSON = "n-0000000000000000", "n-0000000000000001", "n-0000000000000002", "n-00000000000000aa", "o-1"
OWN, BESIDE = f"ring1.{N1}", f"ring1.{N2}"
EXPIRED, OVER = START + HOUR, START + DAY
SUBJECT, SEEN = f"query.{Ping.KIND}", f"seen.{Saw.KIND}"


@dataclasses.dataclass
class Party:
    """Someone with a key, and the hash of its grant."""

    keyring: Keyring
    grant: str


class Cloud:
    """Ring 0, two ring 1 nodes whose grants name every channel, an agent and a person; the time is what a test says.

    The nodes' grants are as wide as a careless ring 0 could make them, so that nothing but their end keeps a frame out.
    """

    def __init__(self) -> None:
        self.time = START
        self.trust = TrustSet(ROOT)
        self.parties: dict[str, Party] = {}
        self.enrol(N0, 0, None, ("ring0", "ring1"), YEAR, DAY)
        self.enrol(PERSON, 0, N0, ("ring0", "ring1"), 90 * DAY, 0)
        self.enrol(N1, 1, N0, ("ring0", "ring1"), HOUR, DAY)
        self.enrol(N2, 1, N0, ("ring0", "ring1"), HOUR, DAY)
        self.enrol(AGENT, 2, N1, ("ring0", "ring1"), HOUR, DAY)

    def enrol(self, name: str, ring: int, parent: str | None, channels: tuple[str, ...], life: int, autonomy: int) -> None:
        """Give *name* a key and a grant that begins now."""
        issues = ring < 2 and name != PERSON
        keyring = Keyring(self.trust.cloud, seed(name), seed(name + " issuer") if issues else None)
        keys = PublicKeys(message=keyring.message.public.hex())
        if keyring.issuer is not None:
            keys = PublicKeys(message=keys.message, journal=keyring.journal.public.hex(), issue=keyring.issuer.public.hex())
        grant = Grant(
            v=1, cloud=str(self.trust.cloud), subject=name, role=3 if issues else 2, keys=keys, ring=ring, depth=3 - ring if issues else 0,
            compartment="cloud", allowed=(Capability("daemon", "cloud"), Capability("instance", "cloud")), channels=channels,
            not_before=START, expiry=START + life, autonomy=autonomy, parent=self.parties[parent].grant if parent else "",
        )  # fmt: skip
        issuer = self.parties[parent].keyring.issuer if parent else None
        signers = SHARES[:2] if parent is None else [issuer] if issuer is not None else []
        self.parties[name] = Party(keyring, self.trust.add(sign_grant(grant, *signers)))

    def now(self) -> int:
        """The time, with a microsecond of its own per look."""
        self.time += 1
        return self.time

    def speaker(self, name: str, channel: str) -> Speaker:
        """Return the voice of *name* on *channel*."""
        party = self.parties[name]
        return Speaker(
            cloud=str(self.trust.cloud), channel=channel, issuer=name, grant=party.grant, signer=party.keyring.message, clock=self.now,
            daemon=name != PERSON,
        )  # fmt: skip

    def dispatcher(self, node: str, domain: str, channel: str, ring: int) -> Dispatcher:
        """Return the receiving half of *node*'s daemon."""

        async def decide(_rule: Rule, _wish: Command, _moment: Moment, _frame: bytes) -> Reply:
            return Reply(ok=True)

        def answer(question: Question, query: Query, asker: Asker) -> object:
            return question.answer(query, None, asker)

        return Dispatcher(
            place=Place(node=node, domain=domain, channel=channel, ring=ring, path="cloud"),
            table=Table.of(roll_call.questions(node, ring)),
            trust=self.trust,
            speaker=self.speaker(node, channel),
            handlers=Handlers(decide=decide, answer=answer),
        )


@pytest.fixture
def cloud() -> Cloud:
    """Everybody, at the moment in which the nodes' grants begin."""
    return Cloud()


async def taken(cloud: Cloud, receiver: Dispatcher, sender: str, channel: str, time: int) -> bool:
    """Return whether *receiver* answers *sender*'s question at *time*; if not, it must be the grant that kept it out, and nothing back."""
    cloud.time = time
    before = receiver.counters["grant"]
    frame = cloud.speaker(sender, channel).seal(SUBJECT, Ping(), audience=receiver.place.node)
    answered = await receiver.handle(frame, channel=channel, subject=SUBJECT)
    assert receiver.counters["grant"] - before == (answered is None)
    return answered is not None and reply_in(answered.frame).ok


RECEIVERS = {
    "ring 0 on its channel": (N0, "ring0", "ring0", 0),
    "another domain on its channel": (N2, N2, BESIDE, 1),
    "the node itself": (N1, N1, OWN, 1),
    "its agent": (AGENT, N1, OWN, 2),
}


@pytest.mark.parametrize("sender", [N1, AGENT])
@pytest.mark.parametrize("receiver", RECEIVERS)
@asynchronous
async def test_n10_an_expired_nodes_frame_is_refused_on_foreign_channels(cloud: Cloud, receiver: str, sender: str) -> None:
    """A node's key, or one that it granted: refused by ring 0 and by another domain from the expiry on, to the microsecond. Its valid
    twins: the frame of a moment before, and the same at the same time on the node's own channel, until its autonomy is over."""
    node, domain, channel, ring = RECEIVERS[receiver]
    found = cloud.dispatcher(node, domain, channel, ring)
    own = channel == OWN
    moments = (START, EXPIRED - 10, EXPIRED, START + 2 * HOUR, OVER - 10, OVER, START + 25 * HOUR)
    assert [await taken(cloud, found, sender, channel, time) for time in moments] == [True, True, own, own, own, False, False]
    assert await taken(cloud, found, PERSON, channel, START + 25 * HOUR), "a person is heard as ever"


@contextlib.asynccontextmanager
async def following(cloud: Cloud, home: str, asker: str) -> AsyncIterator[tuple[Caller, list[Opened], MemoryNetwork]]:
    """Follow what is seen on the node's own channel, as *asker* who stands in *home*."""
    network, heard = MemoryNetwork(), list[Opened]()
    caller = Caller(network.join(asker), cloud.speaker(asker, OWN), cloud.trust, responder=N1, home=home)
    await caller.follow("seen", heard.append)
    try:
        yield caller, heard, network
    finally:
        await caller.transport.close()


@pytest.mark.parametrize(("home", "asker"), [("", N0), (N1, PERSON), (N2, N2)])
@pytest.mark.parametrize("sender", [N1, AGENT])
@asynchronous
async def test_n10_ring_0_refuses_an_expired_node_where_its_clients_believe_it(cloud: Cloud, home: str, asker: str, sender: str) -> None:
    """On the one channel that all of them hear: after the expiry ring 0 takes nothing from the node, whoever else listens neither, and a
    person who asks the node goes on believing it, until its autonomy is over."""
    async with following(cloud, home, asker) as (caller, heard, network):
        voice = network.join("node")
        for time, believed in ((START, True), (EXPIRED, home == N1), (OVER, False)):
            cloud.time = time
            heard.clear()
            caller.counters.clear()
            await voice.publish(SEEN, cloud.speaker(sender, OWN).seal(SEEN, Saw(instance="i"), audience=N1))
            await until(lambda: len(heard) + caller.counters["grant"])
            assert (len(heard), caller.counters["grant"]) == (int(believed), int(not believed))
        await voice.close()


@asynchronous
async def test_an_answer_after_two_hours_alone_reaches_who_asked(cloud: Cloud) -> None:
    """A person asks a node that ring 0 has not renewed for two hours, and gets a verified answer; a bystander verifies it as well."""
    cloud.time = START + 2 * HOUR
    network = MemoryNetwork()
    daemon, watched = network.join("daemon"), list[bool]()
    watcher, bystander = Watcher(cloud.trust, OWN, cloud.now), network.join("bystander")
    await bystander.subscribe("", lambda subject, frame: watched.append(watcher.look(subject, frame).opened is not None))
    await cloud.dispatcher(N1, N1, OWN, 1).serve(daemon)
    caller = Caller(network.join("person"), cloud.speaker(PERSON, OWN), cloud.trust, responder=N1, home=N1)
    reply = await asyncio.wait_for(caller.query(Ping()), 10)
    assert reply.ok
    await until(lambda: watched == [True, True])
    for transport in (caller.transport, daemon, bystander):
        await transport.close()

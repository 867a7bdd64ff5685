"""A ring above and its real domains on an in-memory bus: real journals on disk, real signatures, a relay that can keep things back.

Owns the keys of everybody who could speak there, and a clock that only moves on by itself unless a test moves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import bus.clock
from bus.caller import Caller
from bus.messages import Command, Fact, Moment, Observation, Reply, Role, Rule
from bus.permission import Place
from bus.speaker import Speaker
from bus.timing import TimeAsker, TimeTeller
from bus.transport import MemoryNetwork, MemoryTransport, Transport
from compartments import beacons
from compartments.charter import Charter, ReceiveCharter
from compartments.domain import Domain
from compartments.world import World
from enjin.canonical import canonical, to_text
from enjin.host import Clock
from enjin.host import clock as host_clock
from keys.beacon import Beacon
from keys.frame import CHARTER, open_frame, seal
from keys.grants import VERBS, Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.revocation import Revocation, sign_revocation
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet
from ring1 import charter as charters
from tests.bus.waiting import until

SECOND, HOUR, YEAR = 1_000_000, 3_600_000_000, 31_536_000_000_000
PARENT = "n-0000000000000000"
FETCH_S = 0.3


class Touch(Command, kind="app.touch"):
    """Do something small in this domain."""


def touch(_wish: Touch, _world: World, _at: Moment) -> Iterator[Fact]:
    """Decide it: nothing becomes true."""
    yield from ()


def seed(word: str) -> bytes:
    """Return 32 bytes that are always the same for *word*."""
    return hashlib.sha256(word.encode()).digest()


class Shift:
    """The machine's clocks as everybody here sees them: the real ones, moved on by what a test says.

    The wall clock of the domains alone is off by *skew_us*.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.us = self.skew_us = 0
        patch.setattr(bus.clock, "clock", self)

    def __call__(self) -> Clock:
        real = host_clock()
        return Clock(real.wall_us + self.us + self.skew_us, real.boot_us + self.us)

    def now(self) -> int:
        """Return cloud time, microseconds."""
        return self().wall_us - self.skew_us


class Steady:
    """The machine's clocks as they are."""

    def now(self) -> int:
        """Return cloud time, microseconds."""
        return host_clock().wall_us


class Person:
    """Somebody with keys and a grant."""

    def __init__(self, cloud: str, subject: str) -> None:
        self.subject = subject
        self.keyring = Keyring(cloud, seed(subject), seed(subject + " issuer"))
        self.frame = b""

    @property
    def grant(self) -> str:
        """The grant's hash."""
        return open_frame(self.frame).digest


class Parents:
    """The ring above, an operator, and what the ring above says of trust."""

    def __init__(self, shift: Shift | Steady, began: int = 0) -> None:
        self.shift, self.began = shift, began or shift.now()
        now = self.began
        shares = [Signer.from_seed(seed(f"share {number}")) for number in range(3)]
        self.root = make_root(shares, now - HOUR, now + YEAR)
        self.cloud = str(TrustSet(self.root).cloud)
        self.people: dict[str, Person] = {}
        ring0 = self._person(PARENT)
        ring0.frame = sign_grant(self.fields(ring0, "", 0, 3, 3), *shares[1:])
        self.operator = self.enrol("operator", 0, 0, 2, daemon=False)
        self.revoked: list[str] = []
        self.version = self.number = 0

    def _person(self, subject: str) -> Person:
        return self.people.setdefault(subject, Person(self.cloud, subject))

    def fields(self, who: Person, parent: str, ring: int, depth: int, role: int, *, daemon: bool = True) -> Grant:
        """Return a grant for everything on every channel."""
        keys, now = who.keyring, self.began
        assert keys.issuer is not None
        public = PublicKeys(message=keys.message.public.hex(), curve=keys.curve.public.hex())
        if daemon:
            public = PublicKeys(
                message=keys.message.public.hex(), journal=keys.journal.public.hex(), issue=keys.issuer.public.hex(),
                curve=keys.curve.public.hex(),
            )  # fmt: skip
        return Grant(
            v=1, cloud=self.cloud, subject=who.subject, role=role, keys=public, ring=ring, depth=depth, compartment="cloud",
            allowed=tuple(Capability(verb, "cloud") for verb in sorted(VERBS)), channels=("ring0", "ring1"), not_before=now - HOUR // 2,
            expiry=now + 24 * HOUR, autonomy=HOUR, parent=parent,
        )  # fmt: skip

    def enrol(self, subject: str, ring: int, depth: int, role: int, *, daemon: bool = True, by: str = PARENT) -> Person:
        """Return somebody to whom *by* gave a grant."""
        who, issuer = self._person(subject), self.people[by]
        assert issuer.keyring.issuer is not None
        who.frame = sign_grant(self.fields(who, issuer.grant, ring, depth, role, daemon=daemon), issuer.keyring.issuer)
        return who

    def revoke(self, who: Person) -> None:
        """Believe *who*'s key no longer; a new charter and the next beacon say so."""
        self.revoked.append(str(who.keyring.message.key_id))

    def statement(self, who: Person, by: str = PARENT) -> str:
        """Return *by*'s signed statement that *who*'s key is believed no longer, as text."""
        issuer = self.people[by]
        said = Revocation(
            cloud=self.cloud, name=str(who.keyring.message.key_id), issuer=issuer.grant, number=len(self.revoked) or 1,
            since=self.shift.now(), reason="lost",
        )  # fmt: skip
        assert issuer.keyring.issuer is not None
        return to_text(sign_revocation(said, issuer.keyring.issuer))

    def charter(self, node: str) -> Charter:
        """Return the next charter of *node*."""
        self.version += 1
        frames = tuple(to_text(one.frame) for one in self.people.values())
        return Charter(
            cloud=self.cloud, domain=node, epoch=1, version=self.version, decider=node, parent=PARENT, grant=self.people[node].grant,
            grants=frames, revoked=tuple(self.revoked),
        )  # fmt: skip

    def beacon(self, charter: Charter) -> Beacon:
        """Return what is said now to a node whose charter is *charter*."""
        self.number += 1
        return Beacon(
            time=self.shift.now(), head=beacons.of_charter(charter), revocations=len(self.revoked), number=self.number,
            journal=seed(f"entry {self.number}").hex(),
        )  # fmt: skip

    def speaker(self, who: Person, channel: str, *, daemon: bool = True) -> Speaker:
        """Return *who*'s voice on *channel*."""
        return Speaker(
            cloud=self.cloud, channel=channel, issuer=who.subject, grant=who.grant, signer=who.keyring.message, clock=self.shift.now,
            daemon=daemon,
        )  # fmt: skip


class Node:
    """One real ring 1 domain on a channel of its own, and everybody's voices there."""

    def __init__(
        self, parents: Parents, node: str, folder: Path, rows: tuple[Rule, ...] = (), transport: Transport | None = None
    ) -> None:
        self.parents, self.node, self.channel = parents, node, f"ring1.{node}"
        who = parents.enrol(node, 1, 2, 3)
        self.trust = TrustSet(parents.root)
        for one in parents.people.values():
            if one.subject == PARENT or open_frame(one.frame).digest == who.grant:
                self.trust.add(one.frame)
        self.network = MemoryNetwork()
        self.ours: Transport = transport or self.network.join("us")
        self.domain = Domain(
            place=Place(node=node, domain=node, channel=self.channel, ring=1, path="cloud"),
            keyring=who.keyring, trust=self.trust, grant=who.grant, epoch=1, path=folder / node / "journal.db",
            rows=((Rule(Touch, touch, allow=Role.OPERATOR), *rows), beacons.questions(lambda: self.gate), charters.TABLE),
            locate=lambda _world, _name: "cloud", groups=lambda _world: frozenset(),
        )  # fmt: skip
        self.alarms: list[str] = []
        self.gate = self.domain.gate = beacons.Gate(
            self.trust, who.grant, PARENT, self.domain.journal.now, lambda alarm: self.alarms.append(alarm.why), FETCH_S
        )
        self.domain.observers[beacons.ParentBeacon.KIND] = self.gate.heard
        self.domain.on_change.append(self.changed)
        self.charter = parents.charter(node)
        self.parent = parents.speaker(parents.people[PARENT], self.channel)
        self._callers: dict[str, Caller] = {}
        self._heard = 0

    def changed(self) -> None:
        """Follow the charter in force, as ring 1's daemon does."""
        held = charters.in_force(self.domain.world)
        if held is not None:
            for key in held.revoked:
                self.trust.revoke(key, "by charter")
            self.gate.hold(held)

    async def learn(self, tell: bool = True) -> bool:
        """Ask the ring above what time it is, as ring 1's daemon does at its start; *tell*: it answers."""
        if tell:
            await TimeTeller(self.member("time"), self.parent, self._beliefs(), self.node, self.parents.shift.now).start()
        asker = TimeAsker(self.ours, self.domain.speaker, self.trust, PARENT, self.domain.clock)
        learnt = await asker.ask(0.3)
        if learnt:
            self.domain.dispatcher.begin()
        return learnt

    def _beliefs(self) -> TrustSet:
        trust = TrustSet(self.parents.root)
        for one in (PARENT, self.node):
            trust.add(self.parents.people[one].frame)
        return trust

    async def start(self) -> None:
        """Serve, and receive the first charter and beacon from the ring above."""
        await self.domain.serve(self.ours)
        assert (await self.bring(self.charter)).ok
        await self.tell()

    def caller(self, who: Person) -> Caller:
        """Return *who*'s way to ask this domain."""
        if who.subject not in self._callers:
            speaker = self.parent
            if who.subject != PARENT:
                speaker = self.parents.speaker(who, self.channel, daemon=who.subject != "operator")
            self._callers[who.subject] = Caller(self.network.join(who.subject), speaker, self._beliefs(), responder=self.node)
        return self._callers[who.subject]

    async def command(self, who: Person, wish: Command) -> Reply:
        """Return the signed answer to *who*'s wish."""
        return await self.caller(who).command(wish, deadline_s=8.0)

    async def code(self, who: Person) -> str:
        """Return what *who* is refused with when it wants something small; empty: it was done."""
        return (await self.command(who, Touch())).code

    async def dead(self, who: Person) -> bool:
        """Return whether a wish of *who*'s ends at the grant's stage: who is revoked gets no answer."""
        counters = self.domain.dispatcher.counters

        def ended() -> int:
            return sum(counters.values()) - counters["passed"]  # what passed is under way until it was handled

        before = counters["grant"], ended()
        speaker = self.parents.speaker(who, self.channel)
        await self.member("voice").publish("command.app.touch", speaker.seal("command.app.touch", Touch(), audience=self.node))
        await until(lambda: ended() > before[1], "the wish was handled or refused")
        return counters["grant"] == before[0] + 1

    async def bring(self, charter: Charter) -> Reply:
        """Deliver a charter that the ring above signed."""
        issuer = self.parents.people[PARENT].keyring.issuer
        assert issuer is not None
        return await self.command(self.parents.people[PARENT], ReceiveCharter(frame=to_text(seal(CHARTER, canonical(charter), issuer))))

    async def say(self, speaker: Speaker, seen: Observation) -> None:
        """Let *speaker* say *seen* on the channel, and return when this domain has handled or refused it."""
        before = sum(self.domain.dispatcher.counters.values())
        subject = f"seen.{seen.KIND}"
        await self.member("voice").publish(subject, speaker.seal(subject, seen, audience=self.node, ttl_ms=beacons.BEACON_TTL_MS))
        await until(lambda: sum(self.domain.dispatcher.counters.values()) > before, "the observation was taken")
        await asyncio.sleep(0)

    def member(self, name: str) -> MemoryTransport:
        """Return a participant of the channel."""
        return self.network.join(name)

    async def tell(self, beacon: Beacon | None = None, speaker: Speaker | None = None) -> None:
        """Let the ring above (or *speaker*) say what stands now."""
        await self.say(speaker or self.parent, beacons.ParentBeacon(beacon=beacon or self.parents.beacon(self.charter)))


@contextlib.asynccontextmanager
async def nodes(folder: Path, shift: Shift, count: int = 1, prepare: Callable[[Parents], None] | None = None) -> AsyncIterator[list[Node]]:
    """Give *count* domains of one ring above, served and told what stands; *prepare* enrols who else is there."""
    parents = Parents(shift)
    if prepare is not None:
        prepare(parents)
    made = [Node(parents, f"n-{number:016x}", folder) for number in range(1, count + 1)]
    try:
        for one in made:
            await one.start()
        yield made
    finally:
        for one in made:
            await one.ours.close()
            await one.domain.close()

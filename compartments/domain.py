"""A domain's daemon, but for what is special to its ring: journal, world, dispatcher, bus, doors, beacon.

Owns how these are put together, the same in ring 0 and ring 1. A ring's daemon brings its identity and its closed
table, and acts on what becomes true. Whatever it wants itself goes through the same stages as everybody's wishes.

INV-DOM-1: a revoked key is refused by the next message after the entry that revokes it is on disk.
INV-DOM-2: the daemon's own wishes are sealed, opened and journaled like any other.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from bus import roll_call
from bus.clock import CloudClock, Mark
from bus.dispatch import Dispatcher, Handlers, Seen
from bus.envelope import Behalf
from bus.forwarding import Forwarding
from bus.handling import Answered
from bus.journal import Cause, Checkpoint, JournalIdentity, NotDecider, Stretch
from bus.journal.checkpoint import read_cosigned
from bus.messages import Asker, Command, Moment, Observation, Query, Question, Reply, Rule, Table
from bus.opening import Opened
from bus.permission import Place
from bus.speaker import Speaker
from bus.stages import StageRefused
from bus.transport import Transport
from bus.watching import MessageRefused
from compartments import accounts, approvals, audit, domain_journal, history
from compartments.beacons import BEACON_S, Committed, Gate, OwnBeacon
from compartments.belief import Belief
from compartments.rows import RevokedKey
from compartments.world import World
from enjin import log
from enjin.canonical import parse
from enjin.errors import EnjinError, Refused, from_reply
from enjin.failpoints import failpoint
from enjin.host import monotonic_s, request_id
from keys.frame import open_frame
from keys.keyring import Keyring
from keys.trust import TrustSet

DIGEST_EVERY_S: Final = 5.0
DIGEST_ROWS_MAX: Final = 20_000  # about 50 ms in which nobody is answered; larger worlds are compared at each snapshot only


class Domain:
    """One domain and its decider.

    Args:
        place: Where it stands.
        keyring: Its keys.
        trust: What it believes.
        grant: Hash of its own grant.
        epoch: From its charter.
        path: Its journal's file; beside a shared journal, the projection's.
        shared: Where its journal lies when several daemons may share it: ``postgresql://…``; "": in the file.
        rows: The closed table of its services; questions about the journal are added here.
        locate: World -> (compartment name -> path), for the check of permission.
        groups: World -> the groups that the daemon is in.
        mark: What the ring that runs us said of time when it started us.
        floor: What it has seen of our journal: less than that is an old copy, and refused.
    """

    def __init__(
        self,
        *,
        place: Place,
        keyring: Keyring,
        trust: TrustSet,
        grant: str,
        epoch: int,
        path: Path,
        rows: tuple[tuple[Rule | Question, ...], ...],
        locate: Callable[[World, str], str],
        groups: Callable[[World], frozenset[str]],
        shared: str = "",
        mark: Mark | None = None,
        floor: Checkpoint | None = None,
    ) -> None:
        self.place, self.keyring, self.trust, self.grant = place, keyring, trust, grant
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        clock = CloudClock(path.with_name("clock"), mark)
        beside = trust.beside(place.node)
        identity = JournalIdentity(
            cloud=keyring.cloud, domain=place.domain, epoch=epoch, signer=keyring.journal, earlier=tuple(beside.values())
        )
        self.journal = domain_journal.open_journal(path, shared, holder=place.node, identity=identity, now_us=clock.now, floor=floor)
        self.clock, self.log = clock, log.get("domain")
        self.speaker = Speaker(
            cloud=keyring.cloud, channel=place.channel, issuer=place.node, grant=grant, signer=keyring.message, clock=self.journal.now,
            daemon=True,
        )  # fmt: skip
        self.table = Table.of(
            approvals.service(rows, path=place.path, domain=place.domain, ring=place.ring, clock=self.journal.now),
            history.questions(self.journal, trust.message_keys, lambda: self.dispatcher.counters),
            audit.questions(self.journal, place.domain, place.ring),
            roll_call.questions(place.node, place.ring),
        )
        self.fellows, self.forwarding = frozenset(beside), Forwarding(trust, place.channel, self.speaker.now)
        self.dispatcher = Dispatcher(
            place=place,
            table=self.table,
            trust=trust,
            speaker=self.speaker,
            handlers=Handlers(self._decide, self._answer, self._observe, self._account, self._refused, self._pass_on, self._forward),
            world=lambda: self.world,
            locate=lambda name: locate(self.world, name),
            groups=lambda: groups(self.world),
            fellows=self.fellows,
        )
        self.transport: Transport | None = None
        self.gate: Gate | None = None  # where a ring above says each second what is to be believed
        self.observers: dict[str, Callable[[Seen], Any]] = {history.Witnessed.KIND: self._witnessed}
        self.on_change: list[Callable[[], None]] = []
        self.on_relay: list[Callable[[str, str, bytes], None]] = []
        self.on_group: list[Callable[[Opened], Awaitable[None]]] = []
        self.on_tell: list[Callable[[Observation, str], None]] = []
        self.belief = Belief(trust)
        self.belief.sync(self.world)
        self.journal.on_commit(self._committed)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def world(self) -> World:
        """The world now; may be ahead of the disk by the commit under way."""
        found: World = self.journal.world
        return found

    async def serve(self, transport: Transport) -> None:
        """Take messages from *transport* and tell it what happens."""
        self.transport = transport
        if self.fellows:
            await self.forwarding.serve(transport)
        await self.dispatcher.serve(transport)

    async def beacons(self) -> None:
        """Repeat the journal's head every second, until cancelled."""
        digested, digest, since = 0, "", monotonic_s() - DIGEST_EVERY_S
        while True:
            self.clock.keep()
            await self.journal.settled()  # World is at the head until we await again
            head, epoch = self.journal.head, self.journal.identity.epoch
            due = head.number != digested and monotonic_s() - since >= DIGEST_EVERY_S
            if due and self.world.size <= DIGEST_ROWS_MAX:
                digested, digest, since = head.number, self.world.digest(), monotonic_s()
            revocations = self.world.count(RevokedKey)
            await self.tell(
                OwnBeacon(number=head.number, hash=head.hash, epoch=epoch, revocations=revocations, digested=digested, digest=digest)
            )
            await asyncio.sleep(BEACON_S)

    async def wish(self, command: Command, *, reason: str = "", rid: str = "") -> Reply:
        """Want *command* ourselves: seal it, and take it through every stage.

        Raises:
            EnjinError: What it was refused with.
        """
        frame = self.speaker.seal(
            f"command.{command.KIND}",
            command,
            audience=self.place.node,
            rid=rid or str(request_id(self.journal.now())),
            reason=reason,
        )
        answered = await self.dispatcher.handle(frame, channel=self.place.channel, door="daemon")
        if answered is None:
            raise Refused(f"our own {command.KIND} was not taken")
        if not answered.reply.ok:
            raise from_reply(answered.reply.code, answered.reply.message, answered.reply.hint)
        return answered.reply

    async def attend(self) -> None:
        """Keep a shared journal at what its server and the other daemons do, until cancelled."""
        await domain_journal.attend(self.journal)

    async def tell(self, seen: Observation, path: str = "") -> None:
        """Broadcast what we saw in the compartment at *path* (the domain's own when empty); nobody may be listening."""
        for callback in self.on_tell:
            callback(seen, path or self.place.path)
        if self.transport is None:
            return
        try:
            subject = f"seen.{seen.KIND}"
            failpoint("observation.send")
            await self.transport.publish(subject, self.speaker.seal(subject, seen, audience=self.place.domain))
        except EnjinError as error:
            self.log.warning("observation.lost", kind=seen.KIND, error=error)

    async def relay(self, seen: Seen) -> None:
        """Pass on what another saw and signed: unchanged to the bus, and to followers of our door."""
        statement = seen.opened.statement
        for callback in self.on_relay:
            callback(f"seen.{seen.kind}", seen.opened.authority.grant.compartment, bytes(seen.body))
        if self.transport is not None and seen.opened.kind == seen.kind:  # a record of a batch cannot be passed on without the others
            try:
                failpoint("relay.send")
                await self.transport.publish(statement.kind, seen.opened.data)
            except EnjinError as error:
                self.log.warning("observation.lost", kind=seen.kind, error=error)

    def tell_soon(self, seen: Observation, path: str = "") -> None:
        """``tell`` from a callback."""
        task = asyncio.get_running_loop().create_task(self.tell(seen, path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Answer what waits and close the journal."""
        await self.journal.close()

    async def _decide(self, rule: Rule, wish: Command, moment: Moment, frame: bytes) -> Reply:
        opened = open_frame(frame)
        statement = msgspec.json.decode(opened.payload, type=_Signed)
        if self.gate is not None:
            await self.gate.admit(wish, statement.grant, behalf=statement.behalf is not None)

        def moment_of(time: int) -> Moment:
            self.trust.authority(statement.grant, self.journal.now(), self.place.domain)
            return msgspec.structs.replace(moment, time=time, frame=frame)

        cause = Cause.of(frame, kind=rule.command.KIND, request=moment.request, body=statement.body, asker=moment.asker)
        outcome = await self.journal.decide(cause, rule, wish, moment_of)
        if self.gate is not None:
            self.gate.decided(wish)
        reply = parse(outcome.reply, Reply)
        return msgspec.structs.replace(reply, repeated=True) if outcome.repeated else reply

    async def _forward(self, opened: Opened, error: EnjinError) -> Answered | None:
        """Pass on what another daemon decides, and return that one's answer. Raises: DeciderSilent."""
        holder = str(error.details.get("holder", ""))
        if not isinstance(error, NotDecider) or holder not in self.fellows:
            return None
        return await self.forwarding.forward(self.transport, opened, holder)

    async def _answer(self, question: Question, query: Query, asker: Asker) -> object:
        await self.journal.settled()
        world = await history.world_at(self.journal, query.at) if query.at else self.world
        found = question.answer(query, world, asker)
        return await found if inspect.isawaitable(found) else found

    def _observe(self, seen: Seen) -> Any:
        observer = self.observers.get(seen.kind)
        return observer(seen) if observer is not None else None

    async def _witnessed(self, seen: Seen) -> None:
        """Keep the cosignature of the ring above; what does not hold raises an alarm in the journal's own words."""
        grant = seen.opened.authority.grant
        if grant.ring >= self.place.ring or not grant.keys.journal:
            return
        cosigned = read_cosigned(parse(seen.body, history.Witnessed).cosigned.encode())
        await self.journal.keep(cosigned, (bytes.fromhex(grant.keys.journal),))

    def _refused(self, error: StageRefused, opened: Opened | None, subject: str, frame_bytes: int) -> None:
        """Tell whoever watches the channel; a refusal of such news is none itself."""
        if subject == f"seen.{MessageRefused.KIND}":
            return
        signer, request = (opened.statement.iss, opened.statement.rid) if opened is not None else ("", "")
        news = MessageRefused(
            stage=error.stage, code=error.code, why=error.message, subject=subject[:128], frame_bytes=frame_bytes, signer=signer,
            request=request,
        )  # fmt: skip
        self.tell_soon(news)

    async def _pass_on(self, opened: Opened) -> None:
        for callback in self.on_group:
            await callback(opened)

    def _account(self, behalf: Behalf) -> Asker | None:
        return accounts.account_of(self.world, behalf.account, behalf.token, self.journal.now())

    def authenticate(self, token: str) -> Asker | None:
        """Return the asker that bearer *token* stands for; None when it stands for nobody."""
        return accounts.authenticate(self.world, token, self.journal.now())

    def _committed(self, stretch: Stretch) -> None:
        self.belief.sync(self.world)
        self.tell_soon(Committed(number=stretch.commit.number, hash=stretch.commit.hash))
        for callback in self.on_change:
            callback()


class _Signed(msgspec.Struct):
    """The fields of a verified statement that a journal's cause and the gate need."""

    grant: str
    body: msgspec.Raw
    behalf: Behalf | None = None

"""Ring 0's care for one running ring 1 node: its services, its charter, its journal.

Owns the connection to the node's init (whose services it starts again when they end), the connection to the node's
channel, the delivery of charters and the following of the child's journal. Trusts nothing the child says beyond its
grant: entries are verified before they are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bus.caller import Caller
from bus.journal import Follower, Head, cosign
from bus.journal.errors import Diverged, Forked, RolledBack, StaleEpoch
from bus.journal.snapshot import SNAPSHOT_EVERY
from bus.messages import Command, Query, Reply
from bus.moving import LINGER_S, go_over
from bus.over_zmq import ZmqTransport
from bus.speaker import Speaker
from bus.timing import TimeTeller
from compartments.beacons import BEACON_S, BEACON_TTL_MS, OwnBeacon, ParentBeacon
from compartments.copies import Copied
from compartments.facts import FACTS
from compartments.following import copy_entries, take_snapshot
from compartments.history import Witnessed
from compartments.world import World
from enjin import log
from enjin.canonical import canonical, parse
from enjin.errors import EnjinError, from_reply
from enjin.failpoints import failpoint
from enjin.host import monotonic_s
from keys.beacon import Beacon
from keys.keyring import Keyring
from keys.nats_claims import subjects_of
from keys.trust import TrustSet
from ring0.offspring import Offspring, channel_of
from supervision.hub_service import close_quietly, connect, socket_of
from supervision.init_link import InitLink

if TYPE_CHECKING:
    from bus.over_nats.participant import NatsTransport

FOLLOWED: Final = "followed.db"
KEPT: Final = ("hands", "daemon")
AGAIN_S: Final = 0.05
AGAIN_MAX_S: Final = 5.0
HEALTHY_S: Final = 10.0
FOLLOW_S: Final = 1.0
LOOK_S: Final = 0.2
WITNESS_AGAIN_S: Final = 5.0


class Child:
    """One ring 1 node as its parent sees it.

    Args:
        home: Ring 0's state directory.
        offspring: The node's keys.
        keyring, trust, node, grant, now: Our own: to speak on the child's channel.
        control: Path of the node's init's supervisor socket.
        beacon: Makes what the node is told each second; None: nothing yet.
        over_nats: Returns whether the cloud's bus should be NATS now.
        moved: Called when we reach the node over another bus than before.
    """

    def __init__(
        self,
        home: Path,
        offspring: Offspring,
        *,
        keyring: Keyring,
        trust: TrustSet,
        node: str,
        grant: str,
        now: Callable[[], int],
        control: Path,
        beacon: Callable[[], Awaitable[Beacon | None]],
        over_nats: Callable[[], bool],
        moved: Callable[[], None],
    ) -> None:
        self.node = offspring.node
        self.control = control
        self.witnessed = 0
        self._home, self._offspring, self._keyring, self._trust = home, offspring, keyring, trust
        self._us, self._grant, self._now = node, grant, now
        self._log = log.get("child")
        self._wanted, self._moved_over, self._beacon_now = over_nats, moved, beacon
        # A node that has not heard yet of a move is reached where it still is.
        wanted = over_nats()
        self.over_nats = wanted if self._socket(wanted).exists() or not self._socket(not wanted).exists() else not wanted
        self._transport: ZmqTransport | NatsTransport | None = None
        self._caller: Caller | None = None
        self._teller: TimeTeller | None = None
        self._witnessed_s = 0.0
        self._agreed = 0
        self._behind = False
        self._followed = False
        self._moved = asyncio.Event()
        keys = offspring.keyring
        self._follower = Follower.open(
            f"sqlite:///{offspring.directory / FOLLOWED}",
            cloud=keyring.cloud,
            domain=self.node,
            keys_for=lambda _domain: (keys.journal.public,),
        )
        self._follower.project(World, FACTS)

    async def run(self) -> None:
        """Look after the node until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forever("services", self._keep_services))
                group.create_task(self._forever("journal", self._follow))
                group.create_task(self._forever("beacon", self._tell_beacons))
                group.create_task(self._forever("bus", self._follow_bus))
        finally:
            if self._transport is not None:
                await close_quietly(self._transport)
            self._follower.close()

    async def _forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        wait = AGAIN_S
        while True:
            begun = monotonic_s()
            try:
                await work()
            except (EnjinError, OSError) as error:
                self._log.warning("child.unreachable", node=self.node, what=name, error=error)
            wait = AGAIN_S if monotonic_s() - begun > HEALTHY_S else min(wait * 2, AGAIN_MAX_S)
            await asyncio.sleep(wait)

    async def _keep_services(self) -> None:
        """Tell when hands or the daemon end, and start what nobody else will.

        Their own init starts them again, also while we are away, and waits longer each time that one ends soon; asking it to
        start one at once would undo that. So we ask only for one that was stopped on purpose, and wait longer each time too.
        """
        async with await InitLink.connect(self.control) as init:
            waits = dict.fromkeys(KEPT, AGAIN_S)
            for service in (await init.watch())["services"]:
                if service["name"] in KEPT and not service["pid"] and not service["wanted"]:
                    await init.start(service["name"])
            begun = dict.fromkeys(KEPT, monotonic_s())
            async for event in init.events():
                name = event.get("name")
                if event["event"] == "lost":
                    return
                if name not in KEPT:
                    continue
                if event["event"] == "started":
                    begun[name] = monotonic_s()
                elif event["event"] == "exited":
                    healthy = monotonic_s() - begun[name] > HEALTHY_S
                    waits[name] = AGAIN_S if healthy else min(waits[name] * 2, AGAIN_MAX_S)
                    self._log.warning("child.service_ended", node=self.node, service=name, status=event.get("status"))
                    await self._start_stopped(init, name, waits[name])

    async def _start_stopped(self, init: InitLink, name: str, wait_s: float) -> None:
        """Start service *name* after *wait_s* unless its init does so by itself."""
        views = {service["name"]: service for service in (await init.list())["services"]}
        if name in views and not views[name]["pid"] and not views[name]["wanted"]:
            await asyncio.sleep(wait_s)
            await init.start(name)

    async def caller(self) -> Caller:
        """Return our voice on the child's channel."""
        if self._caller is None:
            self._transport = self._connect(self.over_nats)
            speaker = Speaker(
                cloud=self._keyring.cloud,
                channel=channel_of(self.node),
                issuer=self._us,
                grant=self._grant,
                signer=self._keyring.message,
                clock=self._now,
                daemon=True,
            )
            self._caller = Caller(self._transport, speaker, self._trust, responder=self.node, ring=1)
            self._teller = TimeTeller(self._transport, speaker, self._trust, self.node, self._now)
            await self._teller.start()
        return self._caller

    def _socket(self, over_nats: bool) -> Path:
        return self._home / "nodes" / self.node / "state" / socket_of(over_nats)

    async def _follow_bus(self) -> None:
        """Go over to the other bus, when it is wanted and the node answers there."""
        caller = await self.caller()
        while True:
            if (wanted := self._wanted()) != self.over_nats and self._socket(wanted).exists():
                old, self._transport = self._transport, await go_over(caller, self._connect(wanted))
                self.over_nats = wanted
                if self._teller is not None:
                    self._teller.transport = self._transport
                self._log.info("child.moved", node=self.node, over_nats=wanted)
                self._moved_over()
                await asyncio.sleep(LINGER_S)
                if old is not None:
                    await close_quietly(old)
            await asyncio.sleep(LOOK_S)

    def _connect(self, over_nats: bool) -> ZmqTransport | NatsTransport:
        endpoint = self._socket(over_nats)
        theirs, ours = self._offspring.keyring, self._keyring
        if not over_nats:
            return connect(str(endpoint), theirs.hub.public.hex(), ours.curve.public, ours.curve.secret)
        from supervision import nats_service  # brings the client library and certificates

        channel = channel_of(self.node)
        subjects = subjects_of(self._trust.grant(self._grant), channel)
        return nats_service.connect(endpoint, theirs, channel, ours.nats, self._us, subjects)

    async def command(self, wish: Command, *, rid: str = "", reason: str = "", deadline_s: float = 30.0) -> Reply:
        """Want something of the child. Raises: what it refuses with; Unreachable."""
        reply = await (await self.caller()).command(wish, rid=rid, reason=reason, deadline_s=deadline_s)
        if not reply.ok:
            raise from_reply(reply.code, reply.message, reply.hint)
        return reply

    async def query(self, query: Query, *, deadline_s: float = 30.0) -> Reply:
        """Ask the child. Raises: what it refuses with; Unreachable."""
        reply = await (await self.caller()).query(query, deadline_s=deadline_s)
        if not reply.ok:
            raise from_reply(reply.code, reply.message, reply.hint)
        return reply

    async def _follow(self) -> None:
        """Fetch, verify and keep the child's entries, and cosign where they end."""
        caller = await self.caller()
        if not self._followed:  # a subscription lasts as long as the caller, whatever becomes of one fetch
            await caller.follow("seen.journal.committed", lambda _opened: self._moved.set())
            await caller.follow("seen.beacon", self._beacon)
            self._followed = True
        await take_snapshot(self._follower, caller.query)
        while True:
            self._moved.clear()
            await self._catch_up(caller)
            if self._follower.head.number >= self._follower.snapshot + SNAPSHOT_EVERY:
                await take_snapshot(self._follower, caller.query)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_S):
                    await self._moved.wait()

    async def _tell_beacons(self) -> None:
        """Tell the node each second what stands here, so that it sees when something is kept from it."""
        caller = await self.caller()
        subject = f"seen.{ParentBeacon.KIND}"
        while True:
            beacon = await self._beacon_now()
            if beacon is not None:
                told = caller.speaker.seal(subject, ParentBeacon(beacon=beacon), audience=self.node, ttl_ms=BEACON_TTL_MS)
                failpoint("child.beacon.send")
                await caller.transport.publish(subject, told)
            await asyncio.sleep(BEACON_S)

    def _beacon(self, opened: Any) -> None:
        said = parse(opened.statement.body, OwnBeacon)
        if said.number > self._follower.head.number:
            self._moved.set()
        behind, self._behind = self._behind, said.number < self._follower.head.number
        with contextlib.suppress(Forked, RolledBack, StaleEpoch):  # the follower has said so, and keeps it for whoever asks
            # One beacon may have crossed an answer on its way; a second one that shows less than we hold is an old copy.
            self._follower.compare(Head(said.number, said.hash), said.epoch, fresh=behind)
        if said.digested and said.digested != self._agreed and said.digested == self._follower.projected.number:
            self._agreed = said.digested
            with contextlib.suppress(Diverged):  # the follower has said so, and keeps it for whoever asks
                self._follower.agree(said.digested, said.digest)

    def copy(self) -> Copied:
        """Return how far our copy of the node's journal and our view of its world are."""
        follower = self._follower
        alarm = str(follower.alarm) if follower.alarm is not None else ""
        return Copied(
            node=self.node, number=follower.head.number, hash=follower.head.hash, world=follower.projected.number, agreed=self._agreed,
            alarm=alarm,
        )  # fmt: skip

    async def _catch_up(self, caller: Caller) -> None:
        await copy_entries(self._follower, caller.query)
        head = self._follower.head
        # What is seen may be lost on the bus and nobody would miss it, so the cosignature is repeated while the head stands still.
        if head.number > self.witnessed or (head.number and monotonic_s() - self._witnessed_s > WITNESS_AGAIN_S):
            signed = cosign(self._follower.checkpoint(), self._keyring.journal)
            seen = Witnessed(cosigned=canonical(signed).decode())
            failpoint("witness.send")
            await caller.transport.publish(
                f"seen.{Witnessed.KIND}", caller.speaker.seal(f"seen.{Witnessed.KIND}", seen, audience=self.node)
            )
            self.witnessed, self._witnessed_s = head.number, monotonic_s()

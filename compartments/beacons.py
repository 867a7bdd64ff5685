"""The beacon of the ring above, as a domain hears it: what it said last, who may command meanwhile, and how it is shown.

Owns the observation ``trust.beacon`` and the gate before every command. The rules are ``keys.beacon``'s; who sends a
beacon, and what stands in it, is the matter of the ring above (``of_charter`` makes the same head at both ends).

INV-BEA-1: only the node that supervises us is believed about itself; a beacon of anybody else is refused.
INV-BEA-2: a command that comes while a revocation is missing is held until it was fetched, and refused when it was not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

from bus.dispatch import Seen
from bus.messages import Asker, Command, Observation, Query, Question, Role
from compartments.charter import Charter, ReceiveCharter
from compartments.revocations import Revoke, open_statement
from compartments.world import World
from enjin import log
from enjin.canonical import from_text, parse
from enjin.errors import Forbidden, Refused
from keys.beacon import Beacon, Head, NotNow, ParentWatch, Standing, head_of, signer_of, why
from keys.frame import open_frame
from keys.revocation import check_revocation, read_revocation
from keys.trust import TrustSet

BEACON_S: Final = 1.0
FETCH_S: Final = 2.0
BEACON_TTL_MS: Final = 10_000


class Committed(Observation, kind="journal.committed"):
    """The journal's head moved."""

    number: int
    hash: str


class OwnBeacon(Observation, kind="beacon"):
    """Every second, of a domain about itself: where its journal stands, and how many keys were revoked, so that a missed one shows.

    After entry ``digested`` (0: not said) the world had ``digest``: whoever follows has the same, or raises an alarm.
    """

    number: int
    hash: str
    epoch: int
    revocations: int
    digested: int = 0
    digest: str = ""


class ParentBeacon(Observation, kind="trust.beacon"):
    """Each second, from the ring above: its trust head, the newest revocation, cloud time and its journal's head."""

    beacon: Beacon


class TrustAlarmed(Observation, kind="trust.alarmed"):
    """The ring above contradicts itself, or somebody speaks for it."""

    why: str


class ShowStanding(Query, kind="trust.standing"):
    """What this domain knows of the ring above: how old its beacon is, and what is missing of what it said."""


@lru_cache(maxsize=64)
def of_charter(charter: Charter) -> Head:
    """Return the trust head of the set that *charter* names."""
    grants = (open_frame(from_text(text)).digest for text in charter.grants)
    return head_of(charter.epoch, charter.version, grants, charter.revoked)


class Gate:
    """Who may command this domain now.

    Args:
        trust, own: What we believe, and the hash of our grant.
        parent: Subject id of the node that supervises us.
        clock: Cloud time, microseconds.
        alarmed: Called with what contradicts what was said before.
        fetch_s: How long a command is held while a revocation is on its way.
    """

    def __init__(
        self,
        trust: TrustSet,
        own: str,
        parent: str,
        clock: Callable[[], int],
        alarmed: Callable[[TrustAlarmed], None],
        fetch_s: float = FETCH_S,
    ) -> None:
        self._fetch_s = fetch_s
        self._trust, self.own, self._parent, self._clock, self._alarmed = trust, own, parent, clock, alarmed
        self._log = log.get("beacons")
        self._moved = asyncio.Event()
        self.watch = ParentWatch(clock(), trust.grant(own).autonomy)
        self._standing = Standing.STALE

    def hold(self, charter: Charter) -> None:
        """Follow *charter*'s set. Raises: HeadFell, HeadForked: it is not the one that the beacon named."""
        with self._watching():
            self.watch.hold(of_charter(charter), len(charter.revoked))

    def decided(self, wish: Command) -> None:
        """Note what *wish* made true. A revocation of the ring above closes a gap when none is missing before it."""
        if isinstance(wish, Revoke):
            said = read_revocation(open_statement(wish))
            if self._trust.grant(said.issuer).subject == self._parent:
                with self._watching():
                    self.watch.fetch(said.number)

    def heard(self, seen: Seen) -> None:
        """Take a beacon of the ring above. Raises: Forbidden, HeadFell, HeadForked, Malformed."""
        if seen.opened.statement.iss != self._parent:
            raise Forbidden("only the ring that runs us says what it says")
        with self._watching():
            self.watch.hear(parse(seen.body, ParentBeacon).beacon)

    async def admit(self, wish: Command, grant: str, *, behalf: bool) -> None:
        """Let *wish* of whoever has *grant* through; wait a moment for a revocation that is on its way.

        Raises:
            NotNow: It may not command now.
            HeadFell, HeadForked: It brings a charter that is not the one which the beacon named.
            RevocationRefused, BadSignature: It brings a revocation by who stands above nothing of it.
            Refused: Its grant is not in force, or its charter cannot be read.
        """
        if isinstance(wish, ReceiveCharter):
            charter = parse(open_frame(from_text(wish.frame)).payload, Charter)
            with self._watching():
                self.watch.check_holding(of_charter(charter))
        if isinstance(wish, Revoke):
            check_revocation(self._trust, open_statement(wish), self._clock(), self.own)
        deadline = asyncio.get_running_loop().time() + self._fetch_s
        while True:
            self._moved.clear()
            try:
                authority = self._trust.authority(grant, self._clock(), self._trust.grant(self.own).subject)
                self.watch.check(signer_of(self._trust, self.own, authority, behalf=behalf), self._clock())
                return
            except NotNow:
                left = deadline - asyncio.get_running_loop().time()
                if self.watch.standing(self._clock()) is not Standing.BEHIND or left <= 0:
                    raise
            try:
                async with asyncio.timeout(left):
                    await self._moved.wait()
            except TimeoutError:
                continue

    def view(self) -> dict[str, Any]:
        """Return what is known of the ring above."""
        watch, now = self.watch, self._clock()
        standing = watch.standing(now)
        return {
            "standing": standing.value,
            "why": watch.alarm or why(standing),
            "parent": self._parent,
            "grant": self.own,
            "heard": watch.heard,
            "age_ms": max(0, now - watch.heard) // 1000,
            "head": watch.held.version if watch.held is not None else 0,
            "head_told": watch.head.version if watch.head is not None else 0,
            "revocations": watch.revocations_held,
            "revocations_told": watch.beacon.revocations if watch.beacon is not None else 0,
        }

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Tell whoever waits that something happened to the watch, and log what it changed."""
        before = self.watch.alarm
        try:
            yield
        finally:
            standing = self.watch.standing(self._clock())
            if standing is not self._standing:
                self._log.info("standing.changed", before=self._standing.value, now=standing.value)
                self._standing = standing
            if self.watch.alarm and self.watch.alarm != before:
                self._log.error("trust.alarmed", why=self.watch.alarm)
                self._alarmed(TrustAlarmed(why=self.watch.alarm))
            self._moved.set()


def questions(gate: Callable[[], Gate | None]) -> tuple[Question, ...]:
    """Return the row of the closed table that answers from *gate*, which is None while the daemon starts."""

    def show(_query: ShowStanding, _world: World, _asker: Asker) -> dict[str, Any]:
        found = gate()
        if found is None:
            raise Refused("the daemon is starting", hint="ask again in a second")
        return found.view()

    return (Question(ShowStanding, show, Role.OPERATOR),)

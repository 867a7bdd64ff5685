"""What stands in for the deciding half of a journal in a daemon that does not decide now: World as it is on disk, and no for an answer.

Owns that World. It comes from the server, or, while there is no server, from the local projection. Believes an entry when
a commit of one of the domain's keys vouches for it. Imports the rest of the journal.

INV-BYS-1: World never runs ahead of what is on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from bus.journal.deciding import Outcome, Wish
from bus.journal.entry import JournalIdentity, StoredEntry, Stretch, authenticate, check_commit, entry_hash, genesis
from bus.journal.errors import BadStretch, JournalAway, NotDecider
from bus.journal.lease import lease_is_free, read_lease
from bus.journal.reader import Reader
from bus.journal.replay import Facts, Replayed, fold, read_entry, replay
from bus.journal.store import Projection, Store
from keys.signing import BadSignature


class Parts(NamedTuple):
    """What a journal is made of: whose it is, and its World."""

    identity: JournalIdentity
    world_factory: Callable[[], Any]
    facts: Facts
    projection: Projection
    now_us: Callable[[], int]


class News(NamedTuple):
    """What a look at the server has shown: what comes next, whether that is all, who decides, and whether nobody does."""

    stretch: Stretch | None
    holder: str
    free: bool


class Bystander:
    """Plays sequencer, decider and store for a ``Journal`` that may only look on; used in one event loop's thread."""

    projection = None  # none is kept up: whoever decides next makes it anew

    def __init__(self, parts: Parts, found: Replayed, why: str, holder: str = "") -> None:
        self.world, self.head, self.time = found.world, found.head, found.time
        self.identity, self.world_factory, self.facts = parts.identity, parts.world_factory, parts.facts
        self.why, self.holder = why, holder
        self._now_us = parts.now_us

    @classmethod
    def from_reader(cls, reader: Reader, parts: Parts, holder: str) -> Bystander:
        """Return one with the World of *reader*'s journal. Raises: JournalAway, UnknownFact, JournalDamaged."""
        publics = parts.identity.publics
        found = replay(reader, world_factory=parts.world_factory, facts=parts.facts, publics=publics)
        found.world.take_changes()
        return cls(parts, found, "", holder)

    @classmethod
    def from_projection(cls, store: Store, parts: Parts, time: int, why: str) -> Bystander:
        """Return one with the World of the projection beside *store*, whose server is gone for the reason *why*.

        Args:
            store: A writer that lost its server.
            parts: What the journal is made of.
            time: Cloud time that the last entry is not later than, in microseconds.
            why: What wishes are refused with.
        """
        world = parts.world_factory()
        store.project(lambda connection: parts.projection.load(connection, world))
        place = store.projected(None)
        head = place.head if place is not None else genesis(parts.identity.cloud, parts.identity.domain)
        return cls(parts, Replayed(world, head, time, False), why)

    def now(self) -> int:
        """Return cloud time in microseconds; never before the last entry that is known."""
        return max(self.time, self._now_us())

    async def decide(self, _wish: Wish) -> Outcome:
        """Refuse. Raises: NotDecider: another daemon decides; JournalAway: nobody can."""
        self._refuse()

    async def run(self, _work: Callable[[], Any]) -> Any:
        """Refuse to write anything else, as ``decide`` does."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        if self.why:
            raise JournalAway(self.why)
        holder = self.holder or "another daemon"
        raise NotDecider(f"{holder} decides in {self.identity.domain}, not this daemon", hint=f"ask {holder}", holder=holder)

    async def settled(self) -> None:
        """Return: everything in World is on disk."""

    async def close(self) -> None:
        """Return: nobody waits."""

    def look(self, reader: Reader) -> News:
        """Return what is new on the server of *reader*; blocks on it, and may run in another thread than ``follow``.

        Raises:
            BadStretch: The server holds what no key of the domain has signed.
            JournalAway: There is no server.
        """
        stretch = reader.stretch(self.head.number)
        if stretch is not None:
            self._check(stretch)
        lease, free = reader.view(lambda connection: (read_lease(connection), lease_is_free(connection)))
        return News(stretch, lease.holder if lease is not None else "", free)

    def _check(self, stretch: Stretch) -> None:
        commit = stretch.commit
        try:
            check_commit(commit, str(self.identity.cloud), self.identity.domain, self.identity.publics)
        except BadSignature as error:
            raise BadStretch(f"commit {commit.number} is not signed by a decider of {self.identity.domain}") from error
        entries = _stored(stretch)
        if authenticate(entries, [read_entry(entry).previous for entry in entries], commit) != len(entries):
            raise BadStretch(f"the entries up to {commit.number} are not the ones that their commit signs")

    def follow(self, stretch: Stretch) -> None:
        """Apply what ``look`` returned to World. Raises: UnknownFact, JournalDamaged."""
        entries = _stored(stretch)
        self.head = fold(self.world, entries, self.facts, self.head)
        self.time = max(self.time, read_entry(entries[-1]).time)
        self.world.take_changes()


def _stored(stretch: Stretch) -> list[StoredEntry]:
    first = stretch.commit.number - len(stretch.entries) + 1
    return [StoredEntry(first + at, entry_hash(data), data) for at, data in enumerate(stretch.entries)]


def read_anew(url: str, parts: Parts, holder: str) -> tuple[Bystander, Reader, Reader]:
    """Return World as the server has it, and two readers: one to look on with, in whatever thread, one for the event loop's."""
    with contextlib.ExitStack() as undo:
        poll, reader = (undo.enter_context(Reader(url)) for _ in range(2))
        found = Bystander.from_reader(reader, parts, holder)
        undo.pop_all()
        return found, poll, reader


def close_read(found: tuple[Bystander, Reader, Reader]) -> None:
    """Close the readers that ``read_anew`` opened, when nobody waits for them any more."""
    for reader in found[1:]:
        reader.close()


class NoReader:
    """Stands in for a journal's reader while there is no server: whatever is asked of it is refused with the reason."""

    def __init__(self, bystander: Bystander) -> None:
        self._bystander = bystander

    def __getattr__(self, name: str) -> Any:
        raise JournalAway(self._bystander.why)

    def close(self) -> None:
        """Nothing is open."""

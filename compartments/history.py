"""Questions about the journal itself: its head, its entries for followers, and whether it verifies.

Owns the queries that need more than World, and ``world_at``. They stand in the same closed table as every other kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bus.journal import Journal, Stretch, verify
from bus.journal.snapshot_parts import SnapshotPart
from bus.messages import Asker, Observation, Query, Question, Role
from compartments.difference import RowChange, difference
from compartments.moments import parse_moment
from compartments.world import World

CHANGES_MAX: Final = 1_000


class GetHead(Query, kind="journal.head"):
    """Where the journal stands, and who has witnessed it."""


class FetchEntries(Query, kind="journal.fetch"):
    """The entries that follow one that a follower has, with the commit that signs them."""

    after: int = 0


class FetchSnapshot(Query, kind="journal.snapshot", kw_only=True):
    """A part of a signed snapshot of the world: of entry *number*, or of the newest one above entry *after*, from byte *offset*."""

    after: int = 0
    number: int = 0
    offset: int = 0


class Witnessed(Observation, kind="journal.witnessed"):
    """The ring above, or a sibling, has seen the journal up to a checkpoint and cosigned it (canonical JSON)."""

    cosigned: str


class VerifyAudit(Query, kind="audit.verify"):
    """Check chain and signatures of the whole journal."""


class ExportEntries(Query, kind="audit.export", kw_only=True):
    """The entries that follow number *after*, byte for byte, with the commit that signs them: a page of the journal."""

    after: int = 0


class DiffWorlds(Query, kind="audit.diff", kw_only=True):
    """What was otherwise at *until* than at *since*: times or entry numbers; ``until`` empty is now."""

    since: str
    until: str = ""


class GetCounters(Query, kind="daemon.counters"):
    """How many messages each stage refused, and how many passed, since the daemon started."""


class HeadView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``journal.head``."""

    domain: str
    epoch: int
    number: int
    hash: str
    digest: str
    time: int
    witnesses: dict[str, int]


class VerifyView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``audit.verify``; ``first_bad`` is 0 when nothing is bad."""

    domain: str
    entries: int
    ok: bool
    first_bad: int
    reason: str


class DiffView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``audit.diff``: at most ``CHANGES_MAX`` changes, and how many there are."""

    domain: str
    changes: list[RowChange]
    total: int


def questions(
    journal: Journal, signers: Callable[[], Mapping[str, bytes]], counters: Callable[[], Mapping[str, int]]
) -> tuple[Question, ...]:
    """Return the rows of the closed table that answer from *journal*.

    Args:
        journal: The domain's.
        signers: Returns the public message keys that are known, by key id.
        counters: Returns the dispatcher's counters.
    """

    def head(_query: GetHead, world: World, _asker: Asker) -> HeadView:
        identity, now = journal.identity, journal.head
        return HeadView(
            domain=identity.domain,
            epoch=identity.epoch,
            number=now.number,
            hash=now.hash,
            digest=world.digest(),
            time=journal.now(),
            witnesses={key: seen.number for key, seen in journal.witnessed().items()},
        )

    def fetch(query: FetchEntries, _world: World, _asker: Asker) -> Stretch | None:
        return journal.stretch(query.after)

    def snapshot(query: FetchSnapshot, _world: World, _asker: Asker) -> SnapshotPart | None:
        return journal.snapshot_part(query.after, query.number, query.offset)

    def export(query: ExportEntries, _world: World, _asker: Asker) -> Stretch | None:
        return journal.stretch(query.after)

    async def diff(query: DiffWorlds, world: World, _asker: Asker) -> DiffView:
        before = await world_at(journal, query.since)
        after = await world_at(journal, query.until) if query.until else world
        found = list(difference(before, after))  # here and now: no entry changes the live world meanwhile
        return DiffView(domain=journal.identity.domain, changes=found[:CHANGES_MAX], total=len(found))

    async def check(_query: VerifyAudit, _world: World, _asker: Asker) -> VerifyView:
        identity = journal.identity
        await journal.settled()
        found = await asyncio.to_thread(verify, journal.url, lambda _domain: identity.publics, signers=signers())
        return VerifyView(domain=identity.domain, entries=found.entries, ok=found.ok, first_bad=found.first_bad, reason=found.reason)

    def count(_query: GetCounters, _world: World, _asker: Asker) -> dict[str, int]:
        return dict(counters())

    return (
        Question(GetCounters, count, Role.OPERATOR),
        Question(GetHead, head, Role.TENANT),
        Question(FetchEntries, fetch, Role.SUPERVISOR),
        Question(FetchSnapshot, snapshot, Role.SUPERVISOR),
        Question(ExportEntries, export, Role.OPERATOR),
        Question(DiffWorlds, diff, Role.OPERATOR),
        Question(VerifyAudit, check, Role.OPERATOR),
    )


async def world_at(journal: Journal, text: str) -> World:
    """Return the world as it was at *text* (``compartments.moments``), from a replay. Raises: BadMoment, NoSuchEntry."""
    at = parse_moment(text, journal.now())
    replayed = await asyncio.to_thread(journal.replay, number=at.number, time=at.time)
    world: World = replayed.world
    return world

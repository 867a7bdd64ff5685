"""Questions about the journal itself: its head, its entries for followers, who did what, and whether it verifies.

Owns the queries that need more than World, and ``world_at``. They stand in the same closed table as every other kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from bus.journal import Filters, Journal, Stretch, verify
from bus.messages import Asker, Query, Question, Role
from compartments.moments import parse_moment
from compartments.world import World


class GetHead(Query, kind="journal.head"):
    """Where the journal stands, and who has witnessed it."""


class FetchEntries(Query, kind="journal.fetch"):
    """The entries that follow one that a follower has, with the commit that signs them."""

    after: int = 0


class ReadAudit(Query, kind="audit.log"):
    """Who did what, when and why."""

    after: int = 0
    limit: int = 100
    who: str = ""
    action: str = ""
    since: str = ""
    until: str = ""
    newest: bool = True


class VerifyAudit(Query, kind="audit.verify"):
    """Check chain and signatures of the whole journal."""


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


def questions(journal: Journal, keys: Callable[[str], bytes | None]) -> tuple[Question, ...]:
    """Return the rows of the closed table that answer from *journal*; *keys* finds a signer's public key by its id."""

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

    def read(query: ReadAudit, _world: World, _asker: Asker) -> Any:
        now = journal.now()
        since, until = (parse_moment(text, now).time or 0 if text else 0 for text in (query.since, query.until))
        filters = Filters(who=query.who, kind=query.action, since=since, until=until)
        return journal.listing(query.after, query.limit, filters, newest=query.newest)

    async def check(_query: VerifyAudit, _world: World, _asker: Asker) -> VerifyView:
        identity = journal.identity
        await journal.settled()
        found = await asyncio.to_thread(verify, journal.url, identity.publics, keys)
        return VerifyView(
            domain=identity.domain, entries=found.entries, ok=found.ok, first_bad=found.first_bad or 0, reason=found.reason
        )

    return (
        Question(GetHead, head, Role.TENANT),
        Question(FetchEntries, fetch, Role.SUPERVISOR),
        Question(ReadAudit, read, Role.OPERATOR),
        Question(VerifyAudit, check, Role.OPERATOR),
    )


async def world_at(journal: Journal, text: str) -> World:
    """Return the world as it was at *text* (``compartments.moments``), from a replay. Raises: BadMoment, NoSuchEntry."""
    at = parse_moment(text, journal.now())
    replayed = await asyncio.to_thread(journal.replay, number=at.number, time=at.time)
    world: World = replayed.world
    return world

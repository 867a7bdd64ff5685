"""Following another domain's journal over its channel: its entries in order, and its snapshots.

Owns the questions that a follower asks and their order. Believes nothing: what comes back is checked by the follower.
Imports the bus and ``history``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from bus.journal import Follower, Stretch
from bus.journal.snapshot_parts import Parts, SnapshotPart
from bus.messages import Query, Reply
from compartments.history import FetchEntries, FetchSnapshot
from enjin.canonical import parse
from enjin.errors import from_reply

FETCHES_MAX: Final = 10_000

Ask = Callable[[Query], Awaitable[Reply]]


async def copy_entries(follower: Follower, ask: Ask) -> None:
    """Copy what the domain has and *follower* has not.

    Raises:
        EnjinError: What the domain refuses with, or Unreachable.
        BadStretch, StaleEpoch, Forked, JournalLost: See ``Follower.append``.
    """
    for _ in range(FETCHES_MAX):
        reply = await _answered(ask, FetchEntries(after=follower.head.number))
        if bytes(reply.result) == b"null":
            return
        follower.append(parse(reply.result, Stretch))


async def take_snapshot(follower: Follower, ask: Ask) -> None:
    """Fetch the domain's newest snapshot, if *follower* has an older one.

    After a long absence the follower's view of the domain's world starts there; without one the two must be equal.

    Raises:
        EnjinError: What the domain refuses with, or Unreachable.
        BadSnapshot, Forked, Diverged, JournalLost: See ``Follower.keep``.
    """
    parts: Parts | None = None
    asked = FetchSnapshot(after=follower.snapshot)
    while parts is None or not parts.whole:
        reply = await _answered(ask, asked)
        if bytes(reply.result) == b"null":
            return
        part = parse(reply.result, SnapshotPart)
        if parts is None:
            parts = Parts(part)
        else:
            parts.add(part)
        asked = FetchSnapshot(number=parts.number, offset=parts.offset)
    snapshot = parts.snapshot()
    await asyncio.to_thread(follower.keep, snapshot)


async def _answered(ask: Ask, query: Query) -> Reply:
    reply = await ask(query)
    if not reply.ok:
        raise from_reply(reply.code, reply.message, reply.hint)
    return reply

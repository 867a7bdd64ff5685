"""Listing a journal: who did what, when and why.

Owns the rows of ``enjin audit log`` and their filters. Shows what the entries' own bytes say.
Imports SQLAlchemy Core.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import select

from bus.journal.entry import Shape, StoredEntry
from bus.journal.reader import Reader
from bus.journal.replay import read_entry
from bus.journal.schema import ENTRIES
from enjin.errors import Invalid

LIMIT_MAX: Final = 1_000


class Line(Shape, frozen=True, kw_only=True):
    """One entry as it is listed; ``facts`` as they stand in it."""

    number: int
    hash: str
    time: int
    epoch: int
    who: str
    kind: str
    request: str
    door: str = ""
    token: str = ""
    reason: str = ""
    facts: tuple[msgspec.Raw, ...] = ()


class Filters(Shape, frozen=True, kw_only=True):
    """Which entries to list; empty means all. ``since`` and ``until`` are inclusive, in microseconds of cloud time."""

    who: str = ""
    kind: str = ""
    since: int = 0
    until: int = 0


def to_line(stored: StoredEntry) -> Line:
    """Return *stored* as a line. Raises: JournalDamaged."""
    entry = read_entry(stored)
    cause = entry.cause
    return Line(
        number=entry.number,
        hash=stored.hash,
        time=entry.time,
        epoch=entry.epoch,
        who=cause.asker,
        kind=cause.kind,
        request=cause.request,
        door=cause.door,
        token=cause.token,
        reason=cause.reason,
        facts=tuple(entry.facts),
    )


def listing(reader: Reader, after: int = 0, limit: int = 100, filters: Filters | None = None, *, newest: bool = False) -> list[Line]:
    """Return at most *limit* lines in rising order.

    Args:
        reader: The journal.
        after: Only entries with higher numbers.
        limit: 1..1,000 lines.
        filters: Who, which kind, from when to when.
        newest: The last *limit* that match, instead of the first.

    Raises:
        Invalid: *limit* is out of range.
        JournalDamaged: An entry cannot be read.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise Invalid(f"a listing has 1 to {LIMIT_MAX} lines, not {limit}")
    wanted = filters or Filters()
    query = select(ENTRIES.c.number, ENTRIES.c.hash, ENTRIES.c.data).where(ENTRIES.c.number > after)
    if wanted.who:
        query = query.where(ENTRIES.c.asker == wanted.who)
    if wanted.kind:
        query = query.where(ENTRIES.c.kind == wanted.kind)
    if wanted.since:
        query = query.where(ENTRIES.c.number > reader.number_at(wanted.since - 1))
    if wanted.until:
        query = query.where(ENTRIES.c.number <= reader.number_at(wanted.until))
    order = ENTRIES.c.number.desc() if newest else ENTRIES.c.number
    lines = [to_line(StoredEntry(row[0], row[1], row[2])) for row in reader.rows(query.order_by(order).limit(limit))]
    return lines[::-1] if newest else lines

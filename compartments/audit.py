"""Who did what, when and why: the queries about a journal, the same in every ring.

Owns the queries and how an entry is told. The answers come from the journal and not from World, so ``questions`` takes the
daemon's journal; everything that shapes an answer is pure.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from bus.messages import Asker, Query, Question, Role
from enjin.errors import Invalid

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000


class ListEntries(Query, kind="audit.log", kw_only=True):
    """Who did what, when and why: at most *limit* entries after number *after*, the newest ones unless *oldest*."""

    after: int = 0
    limit: int = LIMIT_DEFAULT
    who: str = ""
    command: str = ""
    since: int = 0
    until: int = 0
    oldest: bool = False


class ShowHead(Query, kind="audit.head"):
    """Up to where the journal goes: the last entry's number and hash."""


class Line(Protocol):
    """What a journal tells of an entry."""

    number: int
    hash: str
    time: int
    who: str
    kind: str
    request: str
    door: str
    token: str
    reason: str
    facts: list[msgspec.Raw]


class Told(Protocol):
    """What these queries want of a journal."""

    @property
    def head(self) -> Any:
        """The last entry's number and hash."""

    def listing(self, after: int, limit: int, filters: Any, *, newest: bool) -> list[Any]:
        """Return lines."""


def questions(journal: Told, domain: str, ring: int) -> tuple[Question, ...]:
    """Return the rows of the closed table that answer from *journal*, which is *domain*'s in *ring*."""

    def entries(query: ListEntries, _world: Any, _asker: Asker) -> list[dict[str, Any]]:
        from bus.journal.listing import Filters

        if not 1 <= query.limit <= LIMIT_MAX or query.after < 0:
            raise Invalid(f"a listing has 1 to {LIMIT_MAX} lines after an entry from 0 on")
        filters = Filters(who=query.who, kind=query.command, since=query.since, until=query.until)
        return [tell(line, domain, ring) for line in journal.listing(query.after, query.limit, filters, newest=not query.oldest)]

    def head(_query: ShowHead, _world: Any, _asker: Asker) -> dict[str, Any]:
        return {"domain": domain, "ring": ring, "number": journal.head.number, "hash": journal.head.hash}

    return (Question(ListEntries, entries, allow=Role.OPERATOR), Question(ShowHead, head, allow=Role.OPERATOR))


def tell(line: Line, domain: str, ring: int) -> dict[str, Any]:
    """Return what ``enjin audit log`` shows of one entry; ``facts`` are the kinds of what became true."""
    return {
        "ring": ring,
        "domain": domain,
        "number": line.number,
        "hash": line.hash,
        "time": line.time,
        "who": line.who,
        "what": line.kind,
        "why": line.reason,
        "request": line.request,
        "door": line.door,
        "token": line.token,
        "facts": [msgspec.json.decode(fact, type=_Tag).kind for fact in line.facts],
    }


def merge(*logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return several journals' lines as one log in the order of time; at one instant the inner ring comes later."""
    return sorted((line for log in logs for line in log), key=lambda line: (line["time"], line["ring"], line["domain"], line["number"]))


class _Tag(msgspec.Struct):
    kind: str

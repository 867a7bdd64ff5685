"""Reading a journal's database: by a connection that cannot write, in the thread that made it.

Owns the queries. Believes nothing: what is read here is checked by ``verify``, ``replay`` and the follower.
Imports SQLAlchemy Core.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar

from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.exc import DBAPIError

from bus.journal import postgres
from bus.journal.database import reader_engine, sqlite_path
from bus.journal.entry import Commit, Head, StoredEntry, Stretch
from bus.journal.errors import JournalAway, JournalDamaged, NoSuchEntry
from bus.journal.schema import COMMITS, ENTRIES, HEAD, PROJECTION, REQUESTS, SNAPSHOTS, WITNESSES

T = TypeVar("T")
STRETCH_ENTRIES_MAX: Final = 1_000
STRETCH_BYTES_MAX: Final = 524_288
_UNWATCHED: Final = contextlib.nullcontext()  # a file answers, or fails, by itself
_AS_NEEDED: Final = {"stream_results": True, "max_row_buffer": 128}


class Meta(NamedTuple):
    """Whose journal a file says it is, and its head."""

    format: int
    cloud: str
    domain: str
    head: Head


class KnownRequest(NamedTuple):
    """What became of a request id."""

    request: str
    asker: str
    kind: str
    body: str
    number: int
    hash: str
    reply: bytes


class ListedEntry(NamedTuple):
    """An entry with everything that stands beside its bytes."""

    number: int
    hash: str
    data: bytes
    time: int
    asker: str
    kind: str


class StoredSnapshot(NamedTuple):
    """A snapshot of World as it lies in the database, its body still compressed."""

    number: int
    hash: str
    digest: str
    key_id: str
    signature: bytes
    body: bytes


_HAS_HEAD: Final = select(func.to_regclass(HEAD.name).is_not(None))
_META: Final = select(HEAD.c.format, HEAD.c.cloud, HEAD.c.domain, HEAD.c.number, HEAD.c.hash)
_ENTRY: Final = select(ENTRIES.c.number, ENTRIES.c.hash, ENTRIES.c.data)
_LISTED: Final = (
    select(ENTRIES.c.number, ENTRIES.c.hash, ENTRIES.c.data, ENTRIES.c.time, ENTRIES.c.asker, ENTRIES.c.kind)
    .where(ENTRIES.c.number > bindparam("after"))
    .order_by(ENTRIES.c.number)
    .limit(bindparam("most"))
)
_TIME: Final = select(ENTRIES.c.number, ENTRIES.c.time).where(ENTRIES.c.number <= bindparam("most"))
_COMMIT: Final = select(COMMITS.c.number, COMMITS.c.epoch, COMMITS.c.hash, COMMITS.c.key_id, COMMITS.c.signature)
_REQUEST: Final = select(*(REQUESTS.c[name] for name in KnownRequest._fields))
_REQUEST_ONE: Final = _REQUEST.where(REQUESTS.c.request == bindparam("wanted"))
_REQUEST_SOME: Final = _REQUEST.where(REQUESTS.c.request.in_(bindparam("wanted", expanding=True)))
_SNAPSHOT: Final = select(*(SNAPSHOTS.c[name] for name in StoredSnapshot._fields))


def to_commit(row: Any) -> Commit:
    """Return the commit in a row of the query for commits."""
    return Commit(number=row[0], epoch=row[1], hash=row[2], key_id=row[3], signature=row[4])


class Reader:
    """One read-only connection to the journal at *url*.

    Raises:
        NoSuchEntry: There is no journal at *url*.
        JournalDamaged: The file cannot be opened.
        JournalAway: The server does not answer; so does every later call, and the first after its return is answered again.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._watch: Callable[[Connection], contextlib.AbstractContextManager[None]] = lambda _connection: _UNWATCHED
        if postgres.is_postgres(url):
            self._engine = postgres.reader_engine(url)
            self._watch = postgres.watched
            self._connection = self._engine.connect()
            if not self.rows(_HAS_HEAD)[0][0]:
                self.close()
                raise NoSuchEntry(f"there is no journal in {postgres.place(url)}")
            return
        path = sqlite_path(url)
        if not path.exists():
            raise NoSuchEntry(f"there is no journal at {path}")
        self._engine = reader_engine(url)
        try:
            self._connection = self._engine.connect()
        except DBAPIError as error:
            self._engine.dispose()
            raise JournalDamaged(f"{path} cannot be opened: {error.orig}") from error

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """One consistent view; ended at once, so that no reader holds the write-ahead log."""
        try:
            with self._watch(self._connection):
                transaction = self._connection.begin()
                try:
                    yield self._connection
                finally:
                    transaction.rollback()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise JournalAway(f"{postgres.place(self._url)} went away: {postgres.first_line(error.orig or error)}") from error

    def rows(self, query: Select[Any], values: dict[str, Any] | None = None) -> Sequence[Any]:
        """Return the rows of *query*, all of one view of the database."""
        with self._reading() as connection:
            return list(connection.execute(query, values))

    def view(self, function: Callable[[Connection], T]) -> T:
        """Run *function*, which only reads, on one view of the database."""
        with self._reading() as connection:
            return function(connection)

    def meta(self) -> Meta | None:
        """Return whose journal this is; None before its first opening by a writer."""
        rows = self.rows(_META.limit(1))
        return Meta(rows[0][0], rows[0][1], rows[0][2], Head(rows[0][3], rows[0][4])) if rows else None

    def entries(self, after: int, limit: int) -> list[StoredEntry]:
        """Return at most *limit* entries with numbers above *after*, in order."""
        rows = self.rows(_ENTRY.where(ENTRIES.c.number > after).order_by(ENTRIES.c.number).limit(limit))
        return [StoredEntry(row[0], row[1], row[2]) for row in rows]

    def walk(self, after: int, until: int | None = None, step: int = 512) -> Iterator[StoredEntry]:
        """Yield every entry above *after*, up to *until* when given, a bounded number at a time.

        Raises:
            JournalDamaged: Numbers do not rise: the database's own pages are damaged.
        """
        while batch := self.entries(after, step):
            for entry in batch:
                if entry.number <= after:
                    raise JournalDamaged(f"the database returns entry {entry.number} after entry {after}", number=after + 1)
                if until is not None and entry.number > until:
                    return
                yield entry
                after = entry.number

    def entry(self, number: int) -> StoredEntry | None:
        """Return entry *number*; None when there is none."""
        rows = self.rows(_ENTRY.where(ENTRIES.c.number == number))
        return StoredEntry(rows[0][0], rows[0][1], rows[0][2]) if rows else None

    def last_entry(self) -> StoredEntry | None:
        """Return the entry with the highest number; None when there is none."""
        rows = self.rows(_ENTRY.order_by(ENTRIES.c.number.desc()).limit(1))
        return StoredEntry(rows[0][0], rows[0][1], rows[0][2]) if rows else None

    def listed(self, after: int, limit: int) -> list[ListedEntry]:
        """Return at most *limit* entries with numbers above *after*, in order, with the columns beside them."""
        return [ListedEntry(*row) for row in self.rows(_LISTED, {"after": after, "most": limit})]

    def commits(self, after: int, limit: int) -> list[Commit]:
        """Return at most *limit* commits with numbers above *after*, in order."""
        rows = self.rows(_COMMIT.where(COMMITS.c.number > after).order_by(COMMITS.c.number).limit(limit))
        return [to_commit(row) for row in rows]

    def commit_at(self, number: int) -> Commit | None:
        """Return the last commit whose number is at most *number*; None when there is none."""
        rows = self.rows(_COMMIT.where(COMMITS.c.number <= number).order_by(COMMITS.c.number.desc()).limit(1))
        return to_commit(rows[0]) if rows else None

    def last_commit(self) -> Commit | None:
        """Return the newest commit; None for an empty journal."""
        rows = self.rows(_COMMIT.order_by(COMMITS.c.number.desc()).limit(1))
        return to_commit(rows[0]) if rows else None

    def stretch(self, after: int, *, entries_max: int = STRETCH_ENTRIES_MAX, bytes_max: int = STRETCH_BYTES_MAX) -> Stretch | None:
        """Return the entries that follow number *after* and a commit that covers them; None when there are none.

        Ends at a commit; holds at least one whole commit, and no more than the bounds beyond that.
        """
        with self._reading() as connection:
            query = _COMMIT.where(COMMITS.c.number > after).order_by(COMMITS.c.number).limit(entries_max)
            commits = [to_commit(row) for row in connection.execute(query)]
            if not commits:
                return None
            taken: list[bytes] = []
            pending: list[bytes] = []
            size, at, chosen = 0, 0, commits[0]
            # A server would send every entry there is; a file is read as far as it is needed anyway.
            rows = connection.execute(_ENTRY.where(ENTRIES.c.number > after).order_by(ENTRIES.c.number), execution_options=_AS_NEEDED)
            for number, _hash, data in rows:
                pending.append(data)
                size += len(data)
                if number == commits[at].number:
                    if taken and (size > bytes_max or len(taken) + len(pending) > entries_max):
                        break
                    taken, pending, chosen = taken + pending, [], commits[at]
                    at += 1
                    if at == len(commits):
                        break
            rows.close()
        return Stretch(entries=taken, commit=chosen)

    def requests(self, requests: Sequence[str]) -> dict[str, KnownRequest]:
        """Return what became of those of *requests* that are known."""
        # Statements made once: making one anew costs more than running it, and this runs before every decision.
        if len(requests) == 1:
            rows = self.rows(_REQUEST_ONE, {"wanted": requests[0]})
        else:
            rows = self.rows(_REQUEST_SOME, {"wanted": list(requests)})
        return {row[0]: KnownRequest(*row) for row in rows}

    def request_ids(self, limit: int) -> list[str]:
        """Return at most *limit* of the request ids that are known."""
        return [row[0] for row in self.rows(select(REQUESTS.c.request).limit(limit))]

    def snapshots(self, until: int | None) -> Iterator[StoredSnapshot]:
        """Yield the snapshots at or below number *until* (None: all), the nearest first."""
        below = until
        while True:
            query = _SNAPSHOT.order_by(SNAPSHOTS.c.number.desc()).limit(1)
            rows = self.rows(query if below is None else query.where(SNAPSHOTS.c.number <= below))
            if not rows or (below is not None and rows[0][0] > below):
                return
            yield StoredSnapshot(*rows[0])
            below = rows[0][0] - 1

    def newest_snapshot(self) -> int:
        """Return the number of the newest snapshot; 0 when there is none."""
        rows = self.rows(select(SNAPSHOTS.c.number).order_by(SNAPSHOTS.c.number.desc()).limit(1))
        return int(rows[0][0]) if rows else 0

    def snapshot_part(self, after: int, number: int, offset: int, length: int) -> tuple[StoredSnapshot, int] | None:
        """Return snapshot *number* (0: the newest above *after*) with *length* bytes of its body from *offset*, and the body's size."""
        wanted = SNAPSHOTS.c.number == number if number else SNAPSHOTS.c.number > after
        body = func.substr(SNAPSHOTS.c.body, offset + 1, length)
        columns = [body if name == "body" else SNAPSHOTS.c[name] for name in StoredSnapshot._fields]
        query = select(*columns, func.length(SNAPSHOTS.c.body)).where(wanted).order_by(SNAPSHOTS.c.number.desc()).limit(1)
        rows = self.rows(query)
        return (StoredSnapshot(*rows[0][:-1]), int(rows[0][-1])) if rows else None

    def number_at(self, time: int) -> int:
        """Return the number of the last entry made at or before *time*; 0 when there is none. Times rise with numbers (INV-DEC-3)."""
        query, meta = _TIME.order_by(ENTRIES.c.number.desc()).limit(1), self.meta()
        low, high = 0, meta.head.number if meta is not None else 0
        while low < high:
            middle = (low + high + 1) // 2
            rows = self.rows(query, {"most": middle})
            low, high = (middle, high) if not rows or rows[0][1] <= time else (low, rows[0][0] - 1)
        return low

    def projection(self) -> Meta | None:
        """Return whose projection lies beside the journal and up to where; None when none was ever made."""
        columns = (PROJECTION.c.cloud, PROJECTION.c.domain, PROJECTION.c.number, PROJECTION.c.hash)
        rows = self.rows(select(*columns))
        return Meta(0, rows[0][0], rows[0][1], Head(rows[0][2], rows[0][3])) if rows else None

    def witnesses(self) -> list[bytes]:
        """Return the newest cosigned checkpoint of each witness, as it was sent."""
        return [row[0] for row in self.rows(select(WITNESSES.c.cosigned).order_by(WITNESSES.c.key_id))]

"""Moving a journal that nobody has open from an SQLite file into a PostgreSQL database, entry by entry and byte by byte.

Owns the copy and when it counts as whole. Does not touch the file, and trusts neither side: both are verified by whoever
calls, who knows the keys. Imports the rest of the journal.

INV-MIG-1: until everything is there and verified, the database says that it has no format, and no daemon writes or believes it.
INV-MIG-2: a copy that was interrupted goes on where it stood; one that is whole is found to be whole; what another history
left in the database is never replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or

from bus.journal.entry import Head, genesis
from bus.journal.errors import ForeignJournal, Forked, JournalDamaged, NoSuchEntry, UnsupportedDatabase
from bus.journal.postgres import is_postgres, place
from bus.journal.reader import Meta, Reader
from bus.journal.schema import COMMITS, ENTRIES, FORMAT, HEAD, METADATA, REQUESTS, SNAPSHOTS, WITNESSES
from bus.journal.shared_store import PostgresStore
from bus.journal.store import Store
from bus.journal.verify import Verification

UNFINISHED: Final = 0
COMMITS_AT_ONCE: Final = 32
ROWS_AT_ONCE: Final = 1_000
_REST: Final = (REQUESTS, SNAPSHOTS, WITNESSES)

Check = Callable[[str], Verification]


class Migrated(NamedTuple):
    """How many entries the journal has, how many of them were copied now, and its head."""

    entries: int
    copied: int
    head: Head


def migrate(source: str, target: str, check: Check) -> Migrated:
    """Copy the journal at *source* to *target*, and return when the copy is whole and verified.

    Args:
        source: ``sqlite:////absolute/path`` of a file that no daemon has open.
        target: ``postgresql://…`` of a database that holds nothing, or an earlier run's copy.
        check: Verifies the journal at an address, whole and with the right keys.

    Raises:
        NoSuchEntry: There is no journal at *source*.
        JournalBusy: A daemon has one of them open.
        JournalDamaged: One of them does not verify; the error's ``number`` says where.
        ForeignJournal: The database holds the journal of another cloud or domain.
        Forked: The database holds another history of this domain.
        JournalAway, UnsupportedDatabase: See ``postgres.connect``.
    """
    if not is_postgres(target):
        raise UnsupportedDatabase("a journal is migrated to PostgreSQL", hint="postgresql://host/database")
    with Reader(source):  # before a writer would make an empty one
        pass
    with contextlib.closing(Store(source)), contextlib.closing(PostgresStore(target, holder="a migration")) as store:
        verified = _checked(check, source)
        with Reader(source) as reader:
            meta = reader.meta()
            if meta is None:
                raise NoSuchEntry("the file does not say whose journal it holds")
            head = store.transact(lambda connection: _begin(connection, meta, reader))
            start = head.number
            if start > meta.head.number:
                return Migrated(head.number, 0, head)
            for rows in _stretches(reader, start):
                head = store.transact(lambda connection, rows=rows, head=head: _append(connection, head, *rows))  # type: ignore[misc]
            for table in _REST:
                for batch in _batches(reader, table):
                    store.transact(lambda connection, table=table, batch=batch: _put(connection, table, batch))  # type: ignore[misc]
            _compare(store, reader)
        if _checked(check, target) != verified:
            raise JournalDamaged(f"what {place(target)} holds is not what was copied", number=head.number)
        store.transact(lambda connection: connection.execute(update(HEAD).values(format=FORMAT)).close())
        return Migrated(head.number, head.number - start, head)


def _checked(check: Check, url: str) -> tuple[int, str]:
    found = check(url)
    if not found.ok:
        where = place(url) if is_postgres(url) else "the file"
        raise JournalDamaged(f"entry {found.first_bad} of {where} does not hold: {found.reason}", number=found.first_bad)
    return found.entries, found.head


def _begin(connection: Connection, meta: Meta, reader: Reader) -> Head:
    """Return where the copy stands; a new one, or one that goes on, has no format from now on."""
    METADATA.create_all(connection)
    row = connection.execute(select(HEAD.c.format, HEAD.c.cloud, HEAD.c.domain, HEAD.c.number, HEAD.c.hash)).first()
    if row is None:
        start = genesis(meta.cloud, meta.domain)
        values = {"id": 1, "format": UNFINISHED, "cloud": meta.cloud, "domain": meta.domain}
        connection.execute(insert(HEAD), values | start._asdict())
        return start
    if (row[1], row[2]) != (meta.cloud, meta.domain) or row[0] not in (UNFINISHED, FORMAT):
        raise ForeignJournal(f"the database holds the journal of domain {row[2]!r} in cloud {row[1][:6]}, in format {row[0]}")
    head = Head(row[3], row[4])
    last = min(head.number, meta.head.number)
    theirs = connection.execute(select(ENTRIES.c.hash).where(ENTRIES.c.number == last)).scalar()
    ours = reader.entry(last)
    if last and (ours is None or ours.hash != theirs):
        raise Forked(f"the database holds another entry {last} than the file", number=last)
    if head.number <= meta.head.number:
        connection.execute(update(HEAD).values(format=UNFINISHED))
    elif row[0] != FORMAT:
        raise Forked(f"the database holds entry {head.number}, the file ends at entry {meta.head.number}", number=meta.head.number + 1)
    return head


def _stretches(reader: Reader, after: int) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Yield the rows of entries and commits above *after*, a bounded number of whole commits at a time."""
    while commits := reader.commits(after, COMMITS_AT_ONCE):
        until = commits[-1].number
        query = select(ENTRIES).where(ENTRIES.c.number > after, ENTRIES.c.number <= until).order_by(ENTRIES.c.number)
        entries = [dict(row._mapping) for row in reader.rows(query)]
        columns = [column.name for column in COMMITS.columns]
        yield entries, [{name: getattr(commit, name) for name in columns} for commit in commits]
        after = until


def _append(connection: Connection, head: Head, entries: list[dict[str, Any]], commits: list[dict[str, Any]]) -> Head:
    fenced = update(HEAD).where(HEAD.c.number == head.number, HEAD.c.hash == head.hash)
    new = Head(commits[-1]["number"], commits[-1]["hash"])
    if connection.execute(fenced.values(**new._asdict())).rowcount != 1:
        raise Forked(f"somebody else wrote into the database after entry {head.number}", number=head.number + 1)
    connection.execute(insert(ENTRIES), entries)
    connection.execute(insert(COMMITS), commits)
    return new


def _batches(reader: Reader, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows of *table*, a bounded number at a time: snapshots are large."""
    (key,) = table.primary_key.columns
    limit = 1 if table is SNAPSHOTS else ROWS_AT_ONCE
    query = select(table).order_by(key).limit(limit)
    rows = reader.rows(query)
    while rows:
        yield [dict(row._mapping) for row in rows]
        rows = reader.rows(query.where(key > rows[-1]._mapping[key.name]))


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Make the rows of *table* what they are in the file; an earlier run may have put them there."""
    (key,) = table.primary_key.columns
    statement = insert_or(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column is not key}
    connection.execute(statement.on_conflict_do_update(index_elements=[key], set_=changed), rows)


def _compare(store: PostgresStore, reader: Reader) -> None:
    """Check that no row is missing and none too many. Raises: JournalDamaged."""
    for table in (ENTRIES, COMMITS, *_REST):
        query = select(func.count()).select_from(table)
        ours = reader.rows(query)[0][0]
        theirs = store.transact(lambda connection, query=query: connection.execute(query).scalar())  # type: ignore[misc]
        if ours != theirs:
            raise JournalDamaged(f"the database holds {theirs} rows of {table.name}, the file {ours}")

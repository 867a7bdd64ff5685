"""Writing a journal's database: one connection, owned by one thread, one transaction per commit.

Owns the writer's thread, lock and transactions. Decides nothing and checks no signature.
Imports SQLAlchemy Core.

INV-STO-1: entries, commit, head, idempotency rows, snapshots and projection rows of a batch are in one transaction; the
function returns only after the database has synced it.
INV-STO-2: the transaction finds the head that the batch was decided on, or nothing is written.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from bus.journal.database import WriterLock, sqlite_path, writer_engine
from bus.journal.entry import Commit, Head, StoredEntry, genesis
from bus.journal.errors import ForeignJournal, JournalBusy, JournalDamaged
from bus.journal.prepared import Prepared
from bus.journal.reader import KnownRequest, Meta, Reader, StoredSnapshot
from bus.journal.schema import COMMITS, ENTRIES, FORMAT, HEAD, METADATA, PROJECTION, REQUESTS, SNAPSHOTS, UNUSED_INDEXES, WITNESSES
from enjin.failpoints import failpoint

T = TypeVar("T")
PRUNE_ROWS: Final = 5_000


class Projection(Protocol):
    """The SQL tables of a World, kept beside the journal; every call runs inside a transaction of the writer."""

    def create(self, connection: Connection) -> Any:
        """Make the tables that are absent, or are of another shape."""

    def clear(self, connection: Connection) -> None:
        """Remove every row."""

    def write(self, connection: Connection, changes: Any) -> None:
        """Write what ``World.take_changes`` returned."""

    def load(self, connection: Connection, world: Any) -> Any:
        """Put every stored row into the empty *world*."""


class Row(msgspec.Struct, frozen=True):
    """An entry with what stands in the columns beside its bytes."""

    entry: StoredEntry
    time: int
    asker: str
    kind: str

    def columns(self) -> dict[str, Any]:
        """Return the row of the table of entries."""
        number, digest, data = self.entry
        return {"number": number, "hash": digest, "data": data, "time": self.time, "asker": self.asker, "kind": self.kind}


class Batch(msgspec.Struct):
    """What one commit writes; decided on the head *previous*."""

    previous: Head
    rows: list[Row] = []
    commit: Commit | None = None
    requests: dict[str, KnownRequest] = {}
    snapshots: list[StoredSnapshot] = []
    changes: Any = None
    forget_before: str = ""

    @property
    def head(self) -> Head:
        """The head after this batch."""
        return Head(self.rows[-1].entry.number, self.rows[-1].entry.hash) if self.rows else self.previous


_INSERT_ENTRY: Final = Prepared(insert(ENTRIES))
_INSERT_COMMIT: Final = Prepared(insert(COMMITS))
_INSERT_REQUEST: Final = Prepared(insert(REQUESTS))
_INSERT_SNAPSHOT: Final = Prepared(insert(SNAPSHOTS))
_OLD_NUMBER: Final[Any] = bindparam("old_number")
_OLD_HASH: Final[Any] = bindparam("old_hash")
_NEW: Final[dict[str, Any]] = {"number": bindparam("new_number"), "hash": bindparam("new_hash")}
_MOVE_HEAD: Final = Prepared(update(HEAD).where(and_(HEAD.c.number == _OLD_NUMBER, HEAD.c.hash == _OLD_HASH)).values(_NEW))
_AT_OLD: Final = and_(PROJECTION.c.number == _OLD_NUMBER, PROJECTION.c.hash == _OLD_HASH)
_MOVE_PROJECTION: Final = Prepared(update(PROJECTION).where(_AT_OLD).values(_NEW))


class Store:
    """The one writer of the journal at *url*.

    Raises:
        JournalBusy: Another process writes it.
        JournalDamaged: The file is not a database, or cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._lock = WriterLock(url)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._engine = writer_engine(url)
        self._connection: Connection | None = None
        try:
            self._connection = self.call(self._engine.connect)
        except DBAPIError as error:
            self.close()
            if "locked" in str(error.orig):
                raise JournalBusy(f"{sqlite_path(url)} is locked") from error
            raise JournalDamaged(f"{sqlite_path(url)} cannot be opened: {error.orig}") from error

    def call(self, function: Callable[[], T]) -> T:
        """Run *function* in the writer's thread and wait for it."""
        return self._thread.submit(function).result()

    async def run(self, function: Callable[[], T]) -> T:
        """Run *function* in the writer's thread; the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def transact(self, function: Callable[[Connection], T]) -> T:
        """Run *function* in one transaction, in the writer's thread, and return after it is on disk."""
        return self.call(lambda: self._transact(function))

    def _transact(self, function: Callable[[Connection], T]) -> T:
        connection = self._open_connection()
        with connection.begin():
            found = function(connection)
            failpoint("journal.commit")
        failpoint("journal.committed")
        return found

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise JournalDamaged("the journal's connection is closed")
        return self._connection

    def close(self) -> None:
        """End connection and thread, and let another writer come; SQLite moves its log into the file when the last one closes."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            failpoint("journal.close")
            self.call(connection.close)
        self._engine.dispose()
        self._thread.shutdown()
        self._lock.release()

    def prepare(self, cloud: str, domain: str) -> Head:
        """Make the tables that are absent and return the head.

        Raises:
            ForeignJournal: The file holds the journal of another cloud or domain, or of another format.
        """
        return self.transact(lambda connection: _prepare(connection, cloud, domain))

    def project(self, function: Callable[[Connection], T]) -> T:
        """Run *function* in one transaction of the database that holds the projection: here the journal's own."""
        return self.transact(function)

    def projected(self, reader: Reader | None) -> Meta | None:
        """Return whose projection is kept and up to where, seen by *reader* where it can; None when none was ever made."""
        return reader.projection() if reader is not None else None

    def write(self, batch: Batch) -> None:
        """Write *batch* in one transaction; to be called in the writer's thread."""
        self._transact(lambda connection: _write(connection, batch))

    def write_with(self, projection: Projection, batch: Batch) -> None:
        """Write *batch* and its projection rows in one transaction; to be called in the writer's thread."""

        def everything(connection: Connection) -> None:
            _write(connection, batch)
            failpoint("journal.projection.write")
            if batch.rows:
                projection.write(connection, batch.changes)
                move_projection(connection, batch.previous, batch.head)

        self._transact(everything)

    def keep_witness(self, key_id: str, number: int, cosigned: bytes) -> None:
        """Store the newest cosigned checkpoint of the witness *key_id*; to be called in the writer's thread."""

        def replace(connection: Connection) -> None:
            connection.execute(delete(WITNESSES).where(WITNESSES.c.key_id == key_id))
            connection.execute(insert(WITNESSES), {"key_id": key_id, "number": number, "cosigned": cosigned})

        self._transact(replace)


def _prepare(connection: Connection, cloud: str, domain: str) -> Head:
    METADATA.create_all(connection)
    for name in UNUSED_INDEXES:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
    row = connection.execute(select(HEAD.c.format, HEAD.c.cloud, HEAD.c.domain, HEAD.c.number, HEAD.c.hash)).first()
    if row is None:
        start = genesis(cloud, domain)
        values = {"id": 1, "format": FORMAT, "cloud": cloud, "domain": domain, "number": start.number, "hash": start.hash}
        connection.execute(insert(HEAD), values)
        return start
    if (row[1], row[2]) != (cloud, domain):
        raise ForeignJournal(f"this journal is of domain {row[2]!r} in cloud {row[1][:6]}, not of {domain!r} in cloud {cloud[:6]}")
    if row[0] != FORMAT:
        raise ForeignJournal(f"this journal has format {row[0]}, this version writes format {FORMAT}")
    return Head(row[3], row[4])


def _write(connection: Connection, batch: Batch) -> None:
    if batch.rows and batch.commit is not None:
        if _MOVE_HEAD.run(connection, _move(batch.previous, batch.head)) != 1:
            raise JournalBusy(f"entry {batch.previous.number} is not the journal's head any more: somebody else wrote it")
        failpoint("journal.entries.write")
        _INSERT_ENTRY.run(connection, [row.columns() for row in batch.rows])
        commit = batch.commit
        _INSERT_COMMIT.run(
            connection,
            {"number": commit.number, "epoch": commit.epoch, "hash": commit.hash, "key_id": commit.key_id, "signature": commit.signature},
        )
    if batch.requests:
        failpoint("journal.requests.write")
        _INSERT_REQUEST.run(connection, [row._asdict() for row in batch.requests.values()])
    if batch.snapshots:
        _INSERT_SNAPSHOT.run(connection, [row._asdict() for row in batch.snapshots])
    if batch.forget_before:
        old_rows = select(REQUESTS.c.request).where(REQUESTS.c.request < batch.forget_before).order_by(REQUESTS.c.request).limit(PRUNE_ROWS)
        connection.execute(delete(REQUESTS).where(REQUESTS.c.request.in_(old_rows)))


def _move(old: Head, new: Head) -> dict[str, Any]:
    return {"old_number": old.number, "old_hash": old.hash, "new_number": new.number, "new_hash": new.hash}


def move_projection(connection: Connection, old: Head, new: Head) -> None:
    """Say in the transaction that writes the rows that the projection now stands at *new*.

    Raises:
        ForeignJournal: It did not stand at *old*.
    """
    if _MOVE_PROJECTION.run(connection, _move(old, new)) != 1:
        raise ForeignJournal(f"the projection does not stand at entry {old.number}")


def set_projection(connection: Connection, cloud: str, domain: str, head: Head) -> None:
    """Say that the projection, made anew in this transaction, stands at *head*."""
    connection.execute(delete(PROJECTION))
    connection.execute(insert(PROJECTION), {"id": 1, "cloud": cloud, "domain": domain, "number": head.number, "hash": head.hash})

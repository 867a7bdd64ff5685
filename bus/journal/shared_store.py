"""Writing a journal that lies in PostgreSQL, with its projection in a local SQLite file.

Owns the writer's connection, the lease that goes with it, the local file, and the order of the two transactions. The rows
and the fence (the head that a batch was decided on) are ``store``'s own. Imports SQLAlchemy Core.

INV-PGW-1: the projection's transaction ends after the journal's: what the local file holds is in the journal, never the
other way round; a crash between the two leaves it behind, and the next opening makes it anew.
INV-PGW-2: the lease is a lock of the very session that writes. With the session both are gone, and no other session is ever
made in its place: a writer that was cut off has to be opened, and to read, anew.
INV-PGW-3: a commit that the server ended with a warning is not acknowledged: it may stand on one disk only.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from bus.journal import postgres
from bus.journal.beside import open_local, remember_server
from bus.journal.database import WriterLock
from bus.journal.entry import Head
from bus.journal.errors import JournalAway, JournalBusy, JournalClosed, JournalDamaged, SupersededServer
from bus.journal.lease import give_lease, live_on, take_lease
from bus.journal.reader import Meta, Reader
from bus.journal.schema import PROJECTION
from bus.journal.store import Batch, Projection, Store, move_projection
from enjin.log import get

T = TypeVar("T")
_log: Final = get("journal.store")


class PostgresStore(Store):
    """The one writer of the journal at *url*.

    Args:
        url: ``postgresql://…``, see ``postgres``.
        beside: ``sqlite:////absolute/path`` of the file for the projection; "": none is kept.
        holder: What other daemons are told when they ask who decides.

    Raises:
        JournalBusy: Another session holds the lease, or another process the local file.
        JournalAway: No server takes writes, or its synchronous replica does not confirm.
        UnsupportedDatabase: See ``postgres.connect``.
        SupersededServer: A later timeline of the server was seen before: it is a former primary.
        JournalDamaged: The local file cannot be opened.
    """

    def __init__(self, url: str, beside: str = "", holder: str = "") -> None:
        self._url, self._patience_s = url, postgres.PATIENCE_S
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._driver: Any = None
        self._gone: JournalAway | None = None
        self._warned = ""
        self._connection: Connection | None = None
        self._local: Connection | None = None
        self._local_lock: WriterLock | None = None
        self._engine = postgres.engine(self._connect)
        try:
            self._connection = self._beyond(self._engine.connect)  # connecting has limits of its own
            self._driver = self._connection.connection.driver_connection
            self._driver.add_notice_handler(self._notice)
            if beside:
                self._local_lock = WriterLock(beside)
                self._local = self._beyond(lambda: open_local(beside))
                self._compare_server()
            # A commit of its own, first of all: once it is confirmed, so is everything that stands before it.
            self.lease = self.transact(lambda connection: take_lease(connection, holder or socket.gethostname()))
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        if self._driver is not None:
            raise self._gone or JournalAway("the writer's session has ended")
        return postgres.connect(self._url, read_only=False)

    def _notice(self, diagnostic: Any) -> None:
        if diagnostic.severity_nonlocalized not in ("NOTICE", "INFO", "LOG", "DEBUG"):
            self._warned = str(diagnostic.message_primary)

    # -- one transaction ---------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T:
        """Run *function* in the writer's thread and wait for it, as long as the store's patience goes."""
        future = self._thread.submit(function)
        concurrent.futures.wait([future], self._patience_s)
        if not future.done():
            self._cut()
        return future.result()

    async def run(self, function: Callable[[], T]) -> T:
        """Run *function* in the writer's thread; the event loop goes on, and cuts the session when patience ends."""
        timer = asyncio.get_running_loop().call_later(self._patience_s, self._cut)
        try:
            return await super().run(function)
        finally:
            timer.cancel()

    def _transact(self, function: Callable[[Connection], T]) -> T:
        connection = self._open_connection()
        self._warned = ""
        try:
            with connection.begin():
                found = function(connection)
        except Exception as error:
            said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error  # the driver's, or SQLAlchemy's
            if self._driver.closed or postgres.away(said):
                raise self._lose(f"{postgres.place(self._url)} went away: {postgres.first_line(said)}") from error
            if postgres.raced(said):
                raise JournalBusy(f"somebody else wrote the journal's next rows: {postgres.first_line(said)}") from error
            raise
        if self._warned:
            raise self._lose(f"{postgres.place(self._url)} did not confirm a commit: {self._warned}")
        return found

    def _open_connection(self) -> Connection:
        if self._gone is not None:
            raise self._gone
        if self._connection is None:
            raise JournalClosed("the journal's connection is closed")
        return self._connection

    def _lose(self, message: str) -> JournalAway:
        self._gone = self._gone or JournalAway(message)
        return self._gone

    def _cut(self) -> None:
        """End the session from this side: whoever waits for the server is told so; called from another thread than the writer's."""
        self._lose(f"{postgres.place(self._url)} has not confirmed a commit in {self._patience_s:g} s")
        _log.error("session.cut", seconds=self._patience_s)
        postgres.cut(self._driver)

    # -- the projection's file ---------------------------------------------------------------------------------------------

    def _beyond(self, function: Callable[[], T]) -> T:
        """Run *function*, which asks nothing of the server, in the writer's thread: without a limit of time."""
        return self._thread.submit(function).result()

    def project(self, function: Callable[[Connection], T]) -> T:
        """Run *function* in one transaction of the projection's file."""

        def whole() -> T:
            with self._own().begin():
                return function(self._own())

        return self._beyond(whole)

    def _own(self) -> Connection:
        if self._local is None:
            raise JournalDamaged("this journal was opened without a file for its projection")
        return self._local

    def _compare_server(self) -> None:
        """Remember the server and its timeline. Raises: SupersededServer when a later timeline of it was seen here."""

        def ask() -> tuple[str, int]:
            self._open_connection()
            found = postgres.server_of(self._driver)
            self._driver.rollback()
            return found

        identity, timeline = self.call(ask)
        seen = self.project(lambda connection: remember_server(connection, identity, timeline))
        if seen > timeline:
            raise SupersededServer(f"{postgres.place(self._url)} is on timeline {timeline}, and timeline {seen} was seen")

    def ping(self) -> None:
        """Keep the lease for a while; to be called in the writer's thread. Raises: JournalAway when the session has ended."""
        self._transact(live_on)

    def projected(self, reader: Reader | None) -> Meta | None:
        """Return whose projection the local file holds and up to where."""

        def look(connection: Connection) -> Meta | None:
            row = connection.execute(select(PROJECTION.c.cloud, PROJECTION.c.domain, PROJECTION.c.number, PROJECTION.c.hash)).first()
            return Meta(0, row[0], row[1], Head(row[2], row[3])) if row is not None else None

        return self.project(look)

    def write_with(self, projection: Projection, batch: Batch) -> None:
        """Write *batch* to the server, then its rows to the projection's file; to be called in the writer's thread."""
        if not batch.rows:
            self.write(batch)
            return
        local = self._own()
        with local.begin():
            # What can fail here fails before anything is in the journal.
            projection.write(local, batch.changes)
            move_projection(local, batch.previous, batch.head)
            self.write(batch)

    def _end(self, connection: Connection) -> None:
        if self._gone is None:  # the server ends a session some time after its client: who opens next shall not have to wait
            with connection.begin():
                give_lease(connection)
        connection.close()

    def close(self) -> None:
        """End the session, and with it the lease; close the local file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._gone is not None:
                connection.invalidate()  # the server may not even listen to a good-bye
            with contextlib.suppress(DBAPIError):
                self.call(lambda: self._end(connection))
        if self._local is not None:
            local, self._local = self._local, None
            self._beyond(local.close)
            local.engine.dispose()
        self._engine.dispose()
        self._thread.shutdown()
        if self._local_lock is not None:
            self._local_lock.release()

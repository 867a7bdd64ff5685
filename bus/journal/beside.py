"""The local file beside a journal in PostgreSQL: the projection, and what was seen of the server.

Owns how it is opened. Imports SQLAlchemy Core.

INV-BSD-1: the highest timeline seen of a server is never forgotten: a former primary that comes back is known as such.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import DBAPIError

from bus.journal.database import writer_engine
from bus.journal.errors import JournalDamaged
from bus.journal.schema import PROJECTION

_METADATA: Final = MetaData()
_SERVERS: Final = Table(
    "journal_servers", _METADATA, Column("identity", String, primary_key=True), Column("timeline", Integer, nullable=False)
)


def open_local(url: str) -> Connection:
    """Open the file at *url*, making it when there is none. Raises: JournalDamaged, UnsupportedDatabase."""
    engine = writer_engine(url)
    try:
        connection = engine.connect()
        with connection.begin():
            PROJECTION.create(connection, checkfirst=True)
            _METADATA.create_all(connection)
        # The file is made from the journal: what a crash of the machine takes from it is made again.
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA synchronous=NORMAL").close()
    except DBAPIError as error:
        engine.dispose()
        raise JournalDamaged(f"the projection's file cannot be opened: {error.orig}") from error
    return connection


def remember_server(connection: Connection, identity: str, timeline: int) -> int:
    """Remember that the server *identity* was on *timeline*, in the caller's transaction; return the highest ever seen of it."""
    row = connection.execute(select(_SERVERS.c.timeline).where(_SERVERS.c.identity == identity)).first()
    if row is None:
        connection.execute(insert(_SERVERS), {"identity": identity, "timeline": timeline})
        return timeline
    if row[0] < timeline:
        connection.execute(update(_SERVERS).where(_SERVERS.c.identity == identity).values(timeline=timeline))
    return max(int(row[0]), timeline)

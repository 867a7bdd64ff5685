"""PostgreSQL under a journal: addresses, connections, and what a server has to promise before anything is written to it.

Owns the only door to psycopg. An address is libpq's own: ``postgresql://[user@][host][:port]/database[?option=…]``, with
several hosts where a replica may be promoted; the one that takes writes is found among them. Retries nothing.
Imports SQLAlchemy Core; psycopg when a connection is made.

INV-PGS-1: a commit returns after the server, and its synchronous replicas where it has some, have it on disk, whatever the
server's, database's or role's own settings say.
INV-PGS-2: no password stands in a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from bus.journal.errors import JournalAway, UnsupportedDatabase

SCHEMES: Final = ("postgresql://", "postgres://")
OLDEST: Final = 15
CONNECT_S: Final = 5
# A peer that has vanished without a word (a cut cable, a stopped machine) counts as gone after this long.
SILENT_MS: Final = 10_000
_SESSION: Final = (
    # Only the strongest levels are let stand; and a warning has to arrive: it may say that a commit was not replicated.
    "SELECT set_config('synchronous_commit',"
    " CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)",
    "SET client_min_messages = warning",
    "SET statement_timeout = 0",
    "SET idle_session_timeout = 0",
    "SET client_encoding = 'UTF8'",
)
_PROMISES: Final = (
    "SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('server_encoding'), pg_is_in_recovery()"
)


def is_postgres(url: str) -> bool:
    """Return whether *url* names a PostgreSQL database."""
    return url.startswith(SCHEMES)


def place(url: str) -> str:
    """Return what of *url* may stand in a message: host and database, no user and no password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] or "its socket"
    return f"the database {parts.path.strip('/')!r} on {host}"


def connect(url: str, *, read_only: bool) -> Any:
    """Return a new connection of psycopg to the server among *url*'s hosts that takes writes.

    Raises:
        UnsupportedDatabase: psycopg is not installed, *url* is no address, or the server does not promise what a journal needs.
        JournalAway: No server answers, or none of those that answer takes writes.
    """
    try:
        import psycopg
    except ImportError as error:
        raise UnsupportedDatabase("a journal in PostgreSQL needs psycopg", hint="./bootstrap setup --postgres") from error
    try:
        # Not the writer's rights decide here: a reader, too, has to see what was acknowledged last.
        connection = psycopg.connect(
            url,
            target_session_attrs="read-write",
            connect_timeout=CONNECT_S,
            tcp_user_timeout=SILENT_MS,
            keepalives_idle=SILENT_MS // 2_000,
            keepalives_interval=1,
            keepalives_count=SILENT_MS // 2_000,
            fallback_application_name="enjin",
            autocommit=True,
        )
    except psycopg.ProgrammingError as error:
        raise UnsupportedDatabase(f"the journal's address cannot be read: {first_line(error)}") from error
    except psycopg.Error as error:
        raise JournalAway(f"{place(url)} does not answer for writing: {first_line(error)}") from error
    try:
        for statement in _SESSION:
            connection.execute(statement)
        row = connection.execute(_PROMISES).fetchone()
        _check_promises(url, *(row or (0, "off", "off", "", True)))
        connection.autocommit = False
        if read_only:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    except psycopg.Error as error:
        connection.close()
        raise JournalAway(f"{place(url)} ended the connection: {first_line(error)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_promises(url: str, version: int, fsync: str, full_pages: str, encoding: str, recovering: bool) -> None:
    if recovering:
        raise JournalAway(f"{place(url)} is a replica that was not promoted")
    if version < OLDEST:
        raise UnsupportedDatabase(f"{place(url)} is PostgreSQL {version}", hint=f"use {OLDEST} or newer")
    if (fsync, full_pages) != ("on", "on"):
        raise UnsupportedDatabase(f"{place(url)} may lose what it acknowledged", hint="set fsync and full_page_writes to on")
    if encoding != "UTF8":
        raise UnsupportedDatabase(f"{place(url)} stores text as {encoding}", hint="create the database with ENCODING 'UTF8'")


def engine(connecting: Callable[[], Any]) -> Engine:
    """Return an engine whose connections are made by *connecting*."""
    return create_engine("postgresql+psycopg://", creator=connecting, poolclass=NullPool, use_native_hstore=False)


def reader_engine(url: str) -> Engine:
    """Return an engine that cannot write; each of its transactions is one consistent view."""
    return engine(lambda: connect(url, read_only=True))


def first_line(error: BaseException) -> str:
    """Return the first line of what a driver says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def away(error: DBAPIError) -> bool:
    """Return whether *error* says that the server is gone, goes, or does not take writes any more."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    # Classes 08 (connection), 57P (operator's intervention) and 53 (out of resources); 25006 is a server that only reads.
    return error.connection_invalidated or state.startswith(("08", "57P", "53")) or state == "25006"

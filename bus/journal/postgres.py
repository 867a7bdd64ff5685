"""PostgreSQL under a journal: addresses, connections, and what a server has to promise before anything is written to it.

Owns the only door to psycopg. An address is libpq's own: ``postgresql://[user@][host][:port]/database[?option=…]``, with
several hosts where a replica may be promoted; the one that takes writes, and was promoted last, is found among them.
Retries nothing.
Imports SQLAlchemy Core; psycopg when a connection is made.

INV-PGS-1: a commit returns after the server, and its synchronous replicas where it has some, have it on disk, whatever the
server's, database's or role's own settings say.
INV-PGS-2: no password stands in a message.
INV-PGS-3: see INV-TLS-1: a server elsewhere is spoken to over TLS that checks its name, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from bus.journal.errors import JournalAway, UnprovedServer, UnsupportedDatabase
from bus.journal.tls import check_protection, unproved

SCHEMES: Final = ("postgresql://", "postgres://")
OLDEST: Final = 15
CONNECT_S: Final = 5
PATIENCE_S: Final = 10.0  # for one transaction; a server that takes longer counts as gone
# A peer that has vanished without a word (a cut cable, a stopped machine) counts as gone after this long.
SILENT_MS: Final = 10_000
# From the first statement on. A warning has to arrive: it may say that a commit was not replicated.
_SETTINGS: Final = " -c client_min_messages=warning -c statement_timeout=0 -c idle_session_timeout=0"
# Only the strongest levels are let stand.
_SYNCHRONOUS: Final = (
    "SELECT set_config('synchronous_commit',"
    " CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)"
)
_PROMISES: Final = (
    "SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('server_encoding')"
)
# The first eight digits of the name of the file that is written now; what pg_control says is as old as its last checkpoint.
_TIMELINE: Final = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
_SYSTEM: Final = "SELECT system_identifier::text FROM pg_control_system()"
_OPTIONS: Final[dict[str, Any]] = {
    # A reader, too, has to see what was acknowledged last.
    "target_session_attrs": "read-write",
    "tcp_user_timeout": SILENT_MS,
    "keepalives_idle": SILENT_MS // 2_000,
    "keepalives_interval": 1,
    "keepalives_count": SILENT_MS // 2_000,
    "fallback_application_name": "enjin",
    "client_encoding": "UTF8",
    "autocommit": True,
}


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

    Where several do, one of them is a former primary that has come back: the one that was promoted last is taken.

    Raises:
        UnsupportedDatabase: psycopg is not installed, *url* is no address, or the server does not promise what a journal needs.
        UnprotectedServer: One of the servers is elsewhere, and the way there would not be protected.
        UnprovedServer: No server takes writes, and one that answered does not prove to be what the address names.
        JournalAway: No server answers, or none of those that answer takes writes.
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise UnsupportedDatabase("a journal in PostgreSQL needs psycopg", hint="./bootstrap setup --postgres") from error
    try:
        options = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise UnsupportedDatabase(f"the journal's address cannot be read: {first_line(error)}") from error
    found: list[tuple[int, Any]] = []
    refused: list[str] = []
    options["options"] = str(options.get("options") or "") + _SETTINGS
    servers = _one_by_one(options)
    for one in servers:
        check_protection(options, one)
    for one in servers:
        try:
            connection = psycopg.connect(**options | one | _OPTIONS, connect_timeout=CONNECT_S)
        except psycopg.Error as error:
            refused.append(first_line(error))
            continue
        try:
            with _cut_after(PATIENCE_S, lambda connection=connection: connection):  # type: ignore[misc]
                found.append((_begin(url, connection), connection))
        except psycopg.Error as error:
            refused.append(first_line(error))
            connection.close()
        except BaseException:
            for _timeline, other in (*found, (0, connection)):
                other.close()
            raise
    if not found:
        away_as = UnprovedServer if unproved(refused) else JournalAway
        raise away_as(f"{place(url)} does not answer for writing: {'; '.join(dict.fromkeys(refused))}")
    found.sort(key=lambda pair: pair[0])
    *others, (_timeline, chosen) = found
    for _timeline, other in others:
        other.close()
    chosen.autocommit = False
    if read_only:
        chosen.read_only = True
        chosen.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return chosen


def check_address(url: str) -> None:
    """Check that *url* may stand in a file that everybody reads, and that a server there can serve a journal.

    Raises:
        UnsupportedDatabase: It holds a password; and what ``connect`` raises.
        JournalAway: See ``connect``.
    """
    connection = connect(url, read_only=True)
    try:
        from psycopg.conninfo import conninfo_to_dict

        if conninfo_to_dict(url).get("password"):
            raise UnsupportedDatabase("the journal's address holds a password", hint="put it into a file, and name that with ?passfile=")
    finally:
        connection.close()


def _one_by_one(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what names each host of an address that may name several: libpq would take the first that answers."""
    hosts = {key: str(options[key]).split(",") for key in ("host", "hostaddr") if options.get(key)}
    count = max((len(names) for names in hosts.values()), default=1)
    ports = str(options.get("port") or "").split(",")
    hosts["port"] = ports * count if len(ports) == 1 else ports
    return [{key: names[at] for key, names in hosts.items() if at < len(names)} for at in range(count)]


def _begin(url: str, connection: Any) -> int:
    """Make the session one that a journal can rely on, and return its server's timeline: one more with each promotion."""
    connection.execute(_SYNCHRONOUS)
    row = connection.execute(_PROMISES).fetchone()
    _check_promises(url, *(row or (0, "off", "off", "")))
    return int(connection.execute(_TIMELINE).fetchone()[0])


def _check_promises(url: str, version: int, fsync: str, full_pages: str, encoding: str) -> None:
    if version < OLDEST:
        raise UnsupportedDatabase(f"{place(url)} is PostgreSQL {version}", hint=f"use {OLDEST} or newer")
    if (fsync, full_pages) != ("on", "on"):
        raise UnsupportedDatabase(f"{place(url)} may lose what it acknowledged", hint="set fsync and full_page_writes to on")
    if encoding != "UTF8":
        raise UnsupportedDatabase(f"{place(url)} stores text as {encoding}", hint="create the database with ENCODING 'UTF8'")


def server_of(connection: Any) -> tuple[str, int]:
    """Return the identity of the server of a connection of psycopg, and its timeline: promoted once more, it is one higher."""
    return str(connection.execute(_SYSTEM).fetchone()[0]), int(connection.execute(_TIMELINE).fetchone()[0])


def cut(connection: Any) -> None:
    """End the session of a connection of psycopg from another thread: whoever waits for the server there is told so."""
    with contextlib.suppress(Exception):  # a session that is gone already
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as own:
            own.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _cut_after(seconds: float, connection: Callable[[], Any]) -> Iterator[None]:
    timer = threading.Timer(seconds, lambda: cut(connection()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def watched(connection: Connection) -> contextlib.AbstractContextManager[None]:
    """Cut the session of *connection* if the body takes longer than ``PATIENCE_S``: a server may stop without a word."""
    return _cut_after(PATIENCE_S, lambda: connection.connection.driver_connection)


def engine(connecting: Callable[[], Any]) -> Engine:
    """Return an engine whose connections are made by *connecting*."""
    return create_engine("postgresql+psycopg://", creator=connecting, poolclass=NullPool, use_native_hstore=False)


def reader_engine(url: str) -> Engine:
    """Return an engine that cannot write; each of its transactions is one consistent view."""
    return engine(lambda: connect(url, read_only=True))


def first_line(error: BaseException) -> str:
    """Return the first line of what a driver says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def away(error: BaseException) -> bool:
    """Return whether *error*, of the driver, says that the server goes, or does not take writes any more."""
    from psycopg import OperationalError

    state = str(getattr(error, "sqlstate", None) or "")
    if not state and isinstance(error, OperationalError):
        return True  # libpq's own word on the connection, which broke while rows were sent: no server has said anything
    # Classes 08 (connection), 57P (operator's intervention) and 53 (out of resources); 25006 is a server that only reads.
    return state.startswith(("08", "57P", "53")) or state == "25006"


def raced(error: BaseException) -> bool:
    """Return whether *error*, of the driver, says that rows are there already: class 23, integrity."""
    return str(getattr(error, "sqlstate", None) or "").startswith("23")

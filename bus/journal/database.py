"""From a database URL to connections: the one writer, and readers that cannot write.

Everything that depends on the kind of database is here. SQLite now: WAL, ``synchronous=FULL``, one writer connection
per file that owns every write and every checkpoint (versions before 3.51.3 lose data when two connections checkpoint),
readers opened read-only, no memory mapping. Another kind is refused, not guessed.
Imports SQLAlchemy Core.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from bus.journal.errors import JournalBusy, UnsupportedDatabase

BUSY_TIMEOUT_MS: Final = 5_000
_WRITER: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
    "PRAGMA mmap_size=0",
    "PRAGMA cell_size_check=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA journal_size_limit=67108864",
)
_READER: Final = (f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}", "PRAGMA mmap_size=0", "PRAGMA wal_autocheckpoint=0", "PRAGMA query_only=ON")


def sqlite_path(url: str) -> Path:
    """Return the file that *url* names.

    Raises:
        UnsupportedDatabase: Not ``sqlite:///…``, or a database in memory: a journal that is not on disk is none.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UnsupportedDatabase("the journal's address is not a database URL") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise UnsupportedDatabase(f"a journal cannot live in {parsed.render_as_string(hide_password=True)}")
    return Path(parsed.database)


def _engine(path: Path, *, pragmas: tuple[str, ...], begin: str, read_only: bool) -> Engine:
    address = f"file:{quote(str(path.absolute()))}" + ("?mode=ro" if read_only else "?mode=rwc")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        try:
            for pragma in pragmas:
                connection.execute(pragma).close()
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    def do_begin(opened: Any) -> None:
        opened.dbapi_connection.execute(begin).close()

    # The dialect's own step, which does nothing for SQLite: an event that executes a statement takes ten times as long.
    engine.dialect.do_begin = do_begin  # type: ignore[assignment, method-assign]
    return engine


def writer_engine(url: str) -> Engine:
    """Return the engine of the one writer: each transaction starts with the write lock."""
    return _engine(sqlite_path(url), pragmas=_WRITER, begin="BEGIN IMMEDIATE", read_only=False)


def reader_engine(url: str) -> Engine:
    """Return an engine that cannot write, for a file that exists."""
    return _engine(sqlite_path(url), pragmas=_READER, begin="BEGIN", read_only=True)


class WriterLock:
    """The exclusive right to write one journal; ends with the process, also by kill -9."""

    def __init__(self, url: str) -> None:
        path = sqlite_path(url)
        # A file of its own: closing any descriptor of the database file would drop SQLite's own locks on it.
        try:
            self._descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnsupportedDatabase(f"a journal cannot be written at {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise JournalBusy(f"another process writes {path.name}") from error

    def release(self) -> None:
        """Let another writer come."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

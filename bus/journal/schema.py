"""The journal's own tables. The projection's tables are its owner's; all share one database, so that one transaction
covers both. Imports SQLAlchemy Core only.

Each index costs every commit a page of the log: when an entry was made needs none, because times rise with numbers.

Columns beside ``data`` repeat what the bytes hold, for listings; ``verify`` checks that they agree.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

FORMAT: Final = 1
METADATA: Final = MetaData()
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")

HEAD: Final = Table(
    "journal_head",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("format", Integer, nullable=False),
    Column("cloud", String, nullable=False),
    Column("domain", String, nullable=False),
    Column("number", _NUMBER, nullable=False),
    Column("hash", String, nullable=False),
)
ENTRIES: Final = Table(
    "journal_entries",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("hash", String, nullable=False),
    Column("time", _NUMBER, nullable=False),
    Column("asker", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("journal_entries_asker", "asker", "number"),
    Index("journal_entries_kind", "kind", "number"),
)
COMMITS: Final = Table(
    "journal_commits",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("epoch", _NUMBER, nullable=False),
    Column("hash", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
REQUESTS: Final = Table(
    "journal_requests",
    METADATA,
    Column("request", String, primary_key=True),
    Column("asker", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("body", String, nullable=False),
    Column("number", _NUMBER, nullable=False),
    Column("hash", String, nullable=False),
    Column("reply", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
SNAPSHOTS: Final = Table(
    "journal_snapshots",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("hash", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
PROJECTION: Final = Table(
    "journal_projection",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("cloud", String, nullable=False),
    Column("domain", String, nullable=False),
    Column("number", _NUMBER, nullable=False),
    Column("hash", String, nullable=False),
)
UNUSED_INDEXES: Final = ("journal_entries_time",)  # that earlier versions made
WITNESSES: Final = Table(
    "journal_witnesses",
    METADATA,
    Column("key_id", String, primary_key=True),
    Column("number", _NUMBER, nullable=False),
    Column("cosigned", LargeBinary, nullable=False),
)

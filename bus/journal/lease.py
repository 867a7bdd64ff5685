"""The decider's lease of a shared journal: a lock of the session that writes, and a row that says who holds it.

Owns both. The lock decides: it ends with the session, also by kill -9 or with the server, and needs no clock of ours: a session that
has said nothing for ``LIFE_S`` (its daemon stopped, or hangs) is ended by the server, by the server's own clock. The row is
for people and for those who forward: it may still name who held the lease last. The fence is neither, but the entry's
number. Imports SQLAlchemy Core.

INV-LSE-1: the term rises with every holder, also over a promotion.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, String, Table, func, insert, select, text, update

from bus.journal.errors import JournalBusy

# Locks of this kind belong to one database, and a database holds one journal: one number will do ("enjin" in ASCII).
LOCK: Final = 0x656E6A696E
LIFE_S: Final = 10
_LIVE: Final = text(
    "SELECT set_config('idle_session_timeout', :life, false), set_config('idle_in_transaction_session_timeout', :life, false)"
)
_HOLDERS: Final = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :high AND objid = :low AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_METADATA: Final = MetaData()
LEASE: Final = Table(
    "journal_lease",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("term", BigInteger, nullable=False),
    Column("holder", String, nullable=False),
)


class Lease(NamedTuple):
    """Who decides, or decided last, and for the how manieth time somebody does."""

    term: int
    holder: str


def take_lease(connection: Connection, holder: str) -> Lease:
    """Take the lease for *holder* in this session, in the caller's transaction.

    Raises:
        JournalBusy: Another session holds it; the error's ``holder`` says who.
    """
    if not connection.execute(select(func.pg_try_advisory_lock(LOCK))).scalar():
        found = read_lease(connection)
        name = found.holder if found is not None else "another daemon"
        raise JournalBusy(f"{name} holds the decider's lease of this journal", hint=f"ask {name}", holder=name)
    _METADATA.create_all(connection)
    found = read_lease(connection)
    if found is None:
        lease = Lease(1, holder)
        connection.execute(insert(LEASE), {"id": 1, **lease._asdict()})
        return lease
    lease = Lease(found.term + 1, holder)
    connection.execute(update(LEASE).values(**lease._asdict()))
    return lease


def live_on(connection: Connection) -> None:
    """Have the server end this session, and with it the lease, unless it says something within ``LIFE_S`` from now."""
    connection.execute(_LIVE, {"life": f"{LIFE_S}s"}).close()


def give_lease(connection: Connection) -> None:
    """Let another session take the lease, if this one holds it."""
    connection.execute(text("SELECT pg_advisory_unlock_all()")).close()


def lease_is_free(connection: Connection) -> bool:
    """Return whether no session of this database holds the lease, as far as the server knows now."""
    return connection.execute(text(_HOLDERS), {"high": LOCK >> 32, "low": LOCK & 0xFFFFFFFF}).scalar() == 0


def read_lease(connection: Connection) -> Lease | None:
    """Return what the row says; None when nobody ever held the lease."""
    if connection.execute(text("SELECT to_regclass('journal_lease')")).scalar() is None:
        return None
    row = connection.execute(select(LEASE.c.term, LEASE.c.holder)).first()
    return Lease(row[0], row[1]) if row is not None else None

"""Which writer a journal's address asks for. Imports both."""

from __future__ import annotations

from bus.journal.postgres import is_postgres
from bus.journal.shared_store import PostgresStore
from bus.journal.store import Store


def open_store(url: str, beside: str = "", holder: str = "") -> Store:
    """Open the one writer of the journal at *url*.

    Args:
        url: ``sqlite:////absolute/path`` or ``postgresql://…``.
        beside: Where a journal in PostgreSQL has its projection: ``sqlite:////absolute/path``.
        holder: Who is named as the decider of a journal in PostgreSQL.

    Raises:
        JournalBusy, JournalDamaged, UnsupportedDatabase, JournalAway.
    """
    return PostgresStore(url, beside, holder) if is_postgres(url) else Store(url)

"""Which request ids may be known: spares the database a look-up before every decision.

Owns a set of ids that is either complete or given up. Says "maybe" or "certainly not", never "yes": the row in the
database decides. Imports ``reader`` only.

INV-REM-1: an id that is on disk is never called unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bus.journal.reader import KnownRequest, Reader

LIMIT: Final = 20_000


class Remembered:
    """The ids of the idempotency rows while there are at most *limit*; beyond that every look-up asks the database."""

    def __init__(self, reader: Reader, limit: int = LIMIT) -> None:
        self._reader, self._limit = reader, limit
        found = reader.request_ids(limit + 1)
        self._ids: set[str] | None = set(found) if len(found) <= limit else None

    def rows(self, requests: Iterable[str]) -> dict[str, KnownRequest]:
        """Return the rows of those of *requests* that are on disk."""
        wanted = [request for request in requests if self._ids is None or request in self._ids]
        return self._reader.requests(wanted) if wanted else {}

    def add(self, requests: Iterable[str]) -> None:
        """Count *requests* among the known ones; before they are written, or after."""
        if self._ids is not None:
            self._ids.update(requests)
            if len(self._ids) > self._limit:
                self._ids = None

    def forget(self, before: str) -> None:
        """Drop the ids below *before*: they are refused for their age from now on."""
        if self._ids is not None:
            self._ids = {request for request in self._ids if request >= before}

"""Repairing a damaged journal from a witness: what was changed or cut is put back, nothing is given up.

Owns the one way in which rows of a journal are ever replaced. Works on a file that no decider has open; what the witness
sends is believed only as far as a commit of the domain's own key vouches for it. Imports the rest of the journal.

INV-RPR-1: an entry that its own signed commit vouches for is never replaced: a witness that has another one is a fork.
INV-RPR-2: nothing is cut: entries beyond what the witness holds stay where they are.
INV-RPR-3: a request whose entry came back is remembered again, so that a repeat of it has no second effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select, update

from bus.journal.entry import Commit, Entry, Head, StoredEntry, Stretch, authenticate, check_commit, entry_hash, genesis
from bus.journal.errors import BadStretch, Forked
from bus.journal.reader import to_commit
from bus.journal.replay import read_entry
from bus.journal.schema import COMMITS, ENTRIES, HEAD, REQUESTS
from bus.journal.stores import open_store
from bus.messages import Reply, canonical
from keys.signing import BadSignature


class Repaired(NamedTuple):
    """What was done: entries whose rows were replaced, entries that were missing, and the head after it."""

    replaced: tuple[int, ...]
    restored: tuple[int, ...]
    head: Head


def repair(url: str, *, cloud: str, domain: str, publics: Iterable[bytes], fetch: Callable[[int], Stretch | None]) -> Repaired:
    """Put back into the journal at *url* what a witness still has; with no file there, all of it.

    Run ``verify`` before, to see that it is needed, and after, to see that it was enough.

    Args:
        url: The journal, which nobody has open.
        cloud: Its cloud.
        domain: Its domain.
        publics: Public journal keys of the domain.
        fetch: Returns the witness's stretch after a number (``Follower.stretch``); None at its end.

    Raises:
        JournalBusy: It is open elsewhere.
        BadStretch: The witness's entries are not signed by the domain or do not follow each other.
        Forked: The domain signed another history than the witness holds; nothing of that stretch was changed.
    """
    keys = tuple(publics)
    store = open_store(url)
    try:
        store.prepare(cloud, domain)
        trusted = genesis(cloud, domain)
        work = _Repair(cloud, domain, keys)
        while (stretch := fetch(trusted.number)) is not None:
            entries = work.check(stretch, trusted)
            store.transact(lambda connection, entries=entries, commit=stretch.commit: work.put_back(connection, entries, commit))  # type: ignore[misc]
            trusted = stretch.commit.head
        head = store.transact(work.name_head)
        return Repaired(tuple(work.replaced), tuple(work.restored), head)
    finally:
        store.close()


class _Repair:
    """One run over one journal."""

    def __init__(self, cloud: str, domain: str, publics: tuple[bytes, ...]) -> None:
        self.replaced: list[int] = []
        self.restored: list[int] = []
        self._cloud, self._domain, self._publics = cloud, domain, publics

    def _holds(self, commit: Commit) -> bool:
        try:
            check_commit(commit, self._cloud, self._domain, self._publics)
        except BadSignature:
            return False
        return True

    def check(self, stretch: Stretch, trusted: Head) -> list[tuple[StoredEntry, Entry]]:
        """Return the entries of *stretch* after checking that they are the signed continuation of *trusted*."""
        entries = [StoredEntry(trusted.number + 1 + at, entry_hash(data), data) for at, data in enumerate(stretch.entries)]
        read = [read_entry(entry) for entry in entries]
        follows = bool(read) and read[0].previous == trusted.hash and entries[-1].number == stretch.commit.number
        if not follows or not self._holds(stretch.commit):
            raise BadStretch(f"the witness's entries after {trusted.number} are not signed by {self._domain}")
        if authenticate(entries, [entry.previous for entry in read], stretch.commit) != len(entries):
            raise BadStretch(f"the witness's entries after {trusted.number} are not the ones that were signed")
        return list(zip(entries, read, strict=True))

    def put_back(self, connection: Connection, entries: list[tuple[StoredEntry, Entry]], commit: Commit) -> None:
        """Make the rows of *entries* and their commits what they were."""
        first, last = entries[0][0].number, entries[-1][0].number
        hashes = {stored.number: stored.hash for stored, _entry in entries}
        within = and_(COMMITS.c.number >= first, COMMITS.c.number <= last)
        columns = (COMMITS.c.number, COMMITS.c.epoch, COMMITS.c.hash, COMMITS.c.key_id, COMMITS.c.signature)
        for own in [to_commit(row) for row in connection.execute(select(*columns).where(within))]:
            if not self._holds(own):
                connection.execute(delete(COMMITS).where(COMMITS.c.number == own.number))
            elif own.hash != hashes[own.number]:
                raise Forked(f"{self._domain} signed two different entries {own.number}", number=own.number)
        if connection.execute(select(COMMITS.c.number).where(COMMITS.c.number == last)).first() is None:
            connection.execute(
                insert(COMMITS),
                {"number": last, "epoch": commit.epoch, "hash": commit.hash, "key_id": commit.key_id, "signature": commit.signature},
            )
        for stored, entry in entries:
            self._put_entry(connection, stored, entry)

    def _put_entry(self, connection: Connection, stored: StoredEntry, entry: Entry) -> None:
        cause = entry.cause
        right: dict[str, Any] = stored._asdict() | {"time": entry.time, "asker": cause.asker, "kind": cause.kind}
        row = connection.execute(select(ENTRIES).where(ENTRIES.c.number == stored.number)).mappings().first()
        if row is not None and dict(row) == right:
            return
        (self.restored if row is None else self.replaced).append(stored.number)
        connection.execute(delete(ENTRIES).where(ENTRIES.c.number == stored.number))
        connection.execute(insert(ENTRIES), right)
        if connection.execute(select(REQUESTS.c.request).where(REQUESTS.c.request == cause.request)).first() is None:
            reply = canonical(Reply(ok=True, number=stored.number, message="done; the reply was lost with the disk, ask for the result"))
            remembered = {"request": cause.request, "asker": cause.asker, "kind": cause.kind, "body": cause.body}
            connection.execute(insert(REQUESTS), remembered | {"number": stored.number, "hash": stored.hash, "reply": reply})

    def name_head(self, connection: Connection) -> Head:
        """Make the head what the last commit that holds says."""
        columns = (COMMITS.c.number, COMMITS.c.epoch, COMMITS.c.hash, COMMITS.c.key_id, COMMITS.c.signature)
        head = genesis(self._cloud, self._domain)
        for row in connection.execute(select(*columns).order_by(COMMITS.c.number.desc())):
            if self._holds(commit := to_commit(row)):
                head = commit.head
                break
        connection.execute(update(HEAD).values(number=head.number, hash=head.hash))
        return head

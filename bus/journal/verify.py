"""Verifying a journal's file from outside: what holds, and the first entry that does not.

Owns the checks of ``enjin audit verify``. Uses a connection of its own that cannot write, trusts nothing in the file but
what a key that the caller names has signed, and never repairs. Imports the rest of the journal and ``bus.envelope``.

INV-VER-1: a changed byte, a dropped, swapped, repeated or cut entry, and an edited row beside it, is found, and the lowest
entry that does not hold is named.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from bus.envelope import read_statement
from bus.journal.checkpoint import Checkpoint
from bus.journal.entry import Commit, Entry, Head, Shape, StoredEntry, authenticate, check_commit, entry_hash, genesis
from bus.journal.errors import JournalDamaged
from bus.journal.reader import Reader
from bus.journal.snapshot import open_snapshot
from bus.messages import canonical, parse
from enjin.errors import EnjinError
from keys.frame import MESSAGE, open_frame
from keys.signing import BadSignature
from keys.signing import verify as verify_signature

COMMITS_AT_ONCE: Final = 256
# What a damaged page turns into on its way through the database's driver: errors of its own, or values of other types.
UNREADABLE: Final = (SQLAlchemyError, ValueError, TypeError, OverflowError)

KeysFor = Callable[[str], Iterable[bytes]]
SignerOf = Callable[[str], bytes | None]


class Verification(Shape, frozen=True, kw_only=True):
    """What was found: entries that were checked, whether all hold, the first bad number (0: none) and why.

    ``causes`` counts the entries whose cause was checked against the asker's key, which the caller knew.
    """

    entries: int
    ok: bool
    first_bad: int = 0
    reason: str = ""
    head: str = ""
    causes: int = 0


class _Bad(Exception):
    """An entry does not hold."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


class _Row(NamedTuple):
    """An entry as stored, and as its bytes read; None when they cannot be read."""

    stored: StoredEntry
    entry: Entry | None


def verify(
    url: str,
    keys_for: KeysFor,
    *,
    from_genesis: bool = True,
    signer_of: SignerOf | None = None,
    checkpoints: Sequence[Checkpoint] = (),
) -> Verification:
    """Check the journal (or a follower's copy) at *url*.

    Args:
        url: The database.
        keys_for: Public journal keys that may sign the domain's commits.
        from_genesis: Check every entry; else only those after the newest signed snapshot.
        signer_of: The public key of a key id, for the causes' signatures; None for an unknown one, which is skipped.
        checkpoints: What witnesses have seen of this journal.

    Returns:
        A verdict; a damaged file is an answer, not an exception.

    Raises:
        NoSuchEntry: There is no journal at *url*.
    """
    try:
        with contextlib.closing(Reader(url)) as reader:
            check = _Check(reader, keys_for, signer_of)
            try:
                check.run(from_genesis, checkpoints)
            except _Bad as bad:
                return check.verdict(bad.number, bad.reason)
            except UNREADABLE as error:
                return check.verdict(check.head.number + 1, f"the database cannot be read: {_line(error)}")
            return check.verdict()
    except (JournalDamaged, *UNREADABLE) as error:
        return Verification(entries=0, ok=False, first_bad=1, reason=f"the database cannot be read: {_line(error)}")


class _Check:
    """One walk over one journal."""

    def __init__(self, reader: Reader, keys_for: KeysFor, signer_of: SignerOf | None) -> None:
        meta = reader.meta()
        if meta is None:
            raise JournalDamaged("the journal does not say whose it is")
        self._reader, self._meta, self._signer_of = reader, meta, signer_of
        self._publics = tuple(keys_for(meta.domain))
        self.head = genesis(meta.cloud, meta.domain)
        self.checked = self.causes = self._time = self._epoch = 0

    def verdict(self, first_bad: int = 0, reason: str = "") -> Verification:
        """Return what was found so far."""
        return Verification(
            entries=self.checked, ok=not first_bad, first_bad=first_bad, reason=reason, head=self.head.hash, causes=self.causes
        )

    def run(self, from_genesis: bool, checkpoints: Sequence[Checkpoint]) -> None:
        """Check everything. Raises: _Bad."""
        if not from_genesis:
            self._start_at_snapshot()
        seen = {checkpoint.number: checkpoint for checkpoint in checkpoints if checkpoint.domain == self._meta.domain}
        for commit in self._commits():
            self._group(commit, seen)
        self._tail()
        lost = [number for number in seen if number > self.head.number]
        if lost:
            raise _Bad(self.head.number + 1, f"a witness has seen entry {max(lost)}: the tail was cut or an old copy put back")

    def _start_at_snapshot(self) -> None:
        for snapshot in self._reader.snapshots(None):
            with contextlib.suppress(EnjinError):
                open_snapshot(snapshot, self._meta.cloud, self._meta.domain, self._publics)
                self.head = Head(snapshot.number, snapshot.hash)
                return

    def _commits(self) -> Iterator[Commit]:
        after = self.head.number
        while found := self._reader.commits(after, COMMITS_AT_ONCE):
            for commit in found:
                if commit.number <= after:
                    raise _Bad(self.head.number + 1, f"the database returns commit {commit.number} after commit {after}")
                yield commit
                after = commit.number

    def _group(self, commit: Commit, seen: dict[int, Checkpoint]) -> None:
        """Check the entries that *commit* covers, the lowest first."""
        rows = self._rows(commit.number)
        signed = True
        try:
            check_commit(commit, self._meta.cloud, self._meta.domain, self._publics)
        except BadSignature:
            signed = False
        bad = self._first_break(rows, commit, signed)
        columns = {number: (time, asker, kind) for number, time, asker, kind in self._reader.columns(self.head.number, commit.number)}
        for row in rows:
            if bad is not None and row.stored.number >= bad.number:
                break
            self._entry(row, columns, seen)
        if bad is not None:
            raise bad
        if not signed:
            raise _Bad(commit.number, f"the signature of commit {commit.number} does not hold")
        if commit.epoch != self._epoch:
            raise _Bad(commit.number, f"commit {commit.number} names epoch {commit.epoch}, its entry epoch {self._epoch}")

    def _rows(self, until: int) -> list[_Row]:
        """Return the entries up to *until*, or up to the first that is missing."""
        rows: list[_Row] = []
        try:
            for stored in self._reader.walk(self.head.number, until):
                if stored.number != self.head.number + 1 + len(rows):
                    break
                rows.append(_Row(stored, _read(stored)))
        except (JournalDamaged, *UNREADABLE) as error:
            raise _Bad(self._unreadable(until), f"the database cannot read it: {_line(error)}") from error
        return rows

    def _unreadable(self, until: int) -> int:
        """Return the first number after the head that cannot be read on its own."""
        for number in range(self.head.number + 1, until + 1):
            try:
                if self._reader.entry(number) is None:
                    return number
            except UNREADABLE:
                return number
        return self.head.number + 1

    def _first_break(self, rows: list[_Row], commit: Commit, signed: bool) -> _Bad | None:
        """Return the lowest entry of the group that is not part of the signed chain.

        Backwards from the commit each hash is vouched for by the entry after it. What the commit does not vouch for is
        searched forwards for the first entry that contradicts itself or the one before; without one, the last of them
        is what the signed chain contradicts.
        """
        first = self.head.number + 1
        for at, number in enumerate(range(first, commit.number + 1)):
            if at >= len(rows) or rows[at].stored.number != number:
                return _Bad(number, f"entry {number} is missing")
        previous_of = [row.entry.previous if row.entry is not None else "" for row in rows]
        doubtful = len(rows) - (authenticate([row.stored for row in rows], previous_of, commit) if signed else 0)
        if signed and not doubtful and previous_of[0] != self.head.hash:
            return _Bad(first, f"entry {first} does not follow entry {first - 1}")
        previous = self.head.hash
        for row in rows[:doubtful]:
            number = row.stored.number
            if row.entry is None:
                return _Bad(number, f"the bytes of entry {number} are not an entry")
            if entry_hash(row.stored.data) != row.stored.hash:
                return _Bad(number, f"entry {number} does not have its hash")
            if row.entry.number != number:
                return _Bad(number, f"entry {row.entry.number} stands in the place of entry {number}")
            if row.entry.previous != previous:
                return _Bad(number, f"entry {number} does not follow entry {number - 1}")
            previous = row.stored.hash
        if signed and doubtful:
            return _Bad(rows[doubtful - 1].stored.number, f"entry {rows[doubtful - 1].stored.number} is not the one that was signed")
        return None

    def _entry(self, row: _Row, columns: dict[int, tuple[int, str, str]], seen: dict[int, Checkpoint]) -> None:
        """Check what an entry of the signed chain says, and the columns beside it."""
        stored, entry = row
        number = stored.number
        if entry is None or entry.number != number:
            raise _Bad(number, f"the bytes of entry {number} are not entry {number}")
        if stored.hash != entry_hash(stored.data):
            raise _Bad(number, f"the hash beside entry {number} was changed")
        if columns.get(number) != (entry.time, entry.cause.asker, entry.cause.kind):
            raise _Bad(number, f"a column beside entry {number} was changed")
        if entry.time <= self._time:
            raise _Bad(number, f"entry {number} is not later than entry {number - 1}")
        if entry.epoch < self._epoch:
            raise _Bad(number, f"entry {number} is of an earlier epoch than entry {number - 1}")
        if number in seen and seen[number].hash != stored.hash:
            raise _Bad(number, f"entry {number} is not the one that a witness has seen")
        self._cause(entry)
        self._time, self._epoch = entry.time, entry.epoch
        self.head = Head(number, stored.hash)
        self.checked += 1

    def _cause(self, entry: Entry) -> None:
        """Check that the frame says what the entry says of it, and its signature where the signer's key is known."""
        number, cause = entry.number, entry.cause
        try:
            frame = open_frame(cause.frame)
            public = self._signer_of(frame.key_id) if self._signer_of is not None else None
            if public is not None:
                verify_signature(public, frame.type, frame.payload, frame.signature)
                self.causes += 1
            if frame.type == MESSAGE:
                statement = read_statement(frame)
                body = hashlib.sha256(bytes(statement.body)).hexdigest()
                said = (statement.rid, statement.kind, body, statement.reason)
                if said != (cause.request, f"command.{cause.kind}", cause.body, cause.reason):
                    raise _Bad(number, f"the cause of entry {number} is another message than the entry says")
        except EnjinError as error:
            raise _Bad(number, f"the cause of entry {number} does not hold: {error}") from error

    def _tail(self) -> None:
        """Check that nothing follows the last commit and that the head is what the file says."""
        if rest := self._reader.entries(self.head.number, 1):
            raise _Bad(rest[0].number, f"no commit covers entry {rest[0].number}: the tail is torn")
        named = self._meta.head
        if named != self.head:
            number = min(self.head.number, named.number) + (named.number != self.head.number)
            raise _Bad(number, f"the head names entry {named.number}, the last commit is of entry {self.head.number}")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _read(stored: StoredEntry) -> Entry | None:
    """Return the entry in *stored*; None when its bytes are not one, in its one spelling, facts included."""
    try:
        entry = parse(stored.data, Entry)
        if any(canonical(msgspec.json.decode(raw)) != bytes(raw) for raw in entry.facts):
            return None
    except (EnjinError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return entry

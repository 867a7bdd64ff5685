"""Checking one range of a journal: from an entry that is taken as given to a commit, or to the very end.

Owns the walk over commits and entries, and the program that does it in a process of its own (``python -m
bus.journal.range_check``: a ``Work`` on standard input, a ``Found`` on standard output, both JSON), so that a long
journal is checked by every core. What a range takes as given, the range before it has to arrive at:
``bus.journal.verify`` holds them together.

INV-RCK-1: the lowest entry of the range that does not hold is named, whatever else is wrong after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from bus.envelope import read_statement
from bus.journal.entry import Commit, Entry, check_commit, entry_hash
from bus.journal.errors import JournalDamaged
from bus.journal.ranges import Edge, Found, Work
from bus.journal.reader import ListedEntry, Reader
from bus.messages import canonical, parse
from enjin.canonical import is_canonical
from enjin.errors import EnjinError
from keys.frame import MESSAGE, open_frame
from keys.signing import BadSignature
from keys.signing import verify as verify_signature

COMMITS_AT_ONCE: Final = 256
ENTRIES_AT_ONCE: Final = 512
# What a damaged page turns into on its way through the database's driver: errors of its own, or values of other types.
UNREADABLE: Final = (SQLAlchemyError, ValueError, TypeError, OverflowError)


class _Bad(Exception):
    """An entry does not hold."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


class _Row(NamedTuple):
    """An entry as stored, the hash that its bytes have, and what they say; None when they cannot be read."""

    listed: ListedEntry
    hash: str
    entry: Entry | None

    @property
    def number(self) -> int:
        return self.listed.number


def check_range(reader: Reader, work: Work) -> Found:
    """Check one range of the journal of *reader*.

    Raises:
        JournalDamaged: The journal does not say whose it is.
    """
    check = _RangeCheck(reader, work)
    try:
        check.run()
    except _Bad as bad:
        return check.found(bad.number, bad.reason)
    except UNREADABLE as error:
        return check.found(check.end.number + 1, f"the database cannot be read: {first_line(error)}")
    return check.found()


class _RangeCheck:
    """One walk over one range."""

    def __init__(self, reader: Reader, work: Work) -> None:
        meta = reader.meta()
        if meta is None:
            raise JournalDamaged("the journal does not say whose it is")
        self._reader, self._meta, self._work = reader, meta, work
        self._publics = tuple(bytes.fromhex(key) for key in work.publics)
        self._signers = {key: bytes.fromhex(public) for key, public in work.signers.items()}
        self._rows: deque[_Row] = deque()
        self._read_to = work.begin.number
        self.end = work.begin
        self.checked = self.causes = 0

    def found(self, first_bad: int = 0, reason: str = "") -> Found:
        """Return what was found so far."""
        return Found(checked=self.checked, causes=self.causes, end=self.end, first_bad=first_bad, reason=reason)

    def run(self) -> None:
        """Check everything. Raises: _Bad."""
        for commit in self._commits():
            self._group(commit)
        if not self._work.until:
            self._tail()
        elif self.end.number != self._work.until:
            raise _Bad(self.end.number + 1, f"no commit ends at entry {self._work.until} any more")

    def _commits(self) -> Iterator[Commit]:
        after, until = self.end.number, self._work.until
        while found := self._reader.commits(after, COMMITS_AT_ONCE):
            for commit in found:
                if commit.number <= after:
                    raise _Bad(self.end.number + 1, f"the database returns commit {commit.number} after commit {after}")
                if until and commit.number > until:
                    return
                yield commit
                after = commit.number

    def _group(self, commit: Commit) -> None:
        """Check the entries that *commit* covers, the lowest first."""
        rows = self._take(commit.number)
        signed = True
        try:
            check_commit(commit, self._meta.cloud, self._meta.domain, self._publics)
        except BadSignature:
            signed = False
        bad = self._first_break(rows, commit, signed)
        for row in rows:
            if bad is not None and row.number >= bad.number:
                break
            self._entry(row)
        if bad is not None:
            raise bad
        if not signed:
            raise _Bad(commit.number, f"the signature of commit {commit.number} does not hold")
        if commit.epoch != self.end.epoch:
            raise _Bad(commit.number, f"commit {commit.number} names epoch {commit.epoch}, its entry epoch {self.end.epoch}")

    def _take(self, until: int) -> list[_Row]:
        """Return the entries up to *until*, or up to the first that is missing; many are read at once, across commits."""
        taken: list[_Row] = []
        expected = self.end.number + 1
        while expected <= until:
            if not self._rows and not self._fill(until):
                break
            if self._rows[0].number != expected:
                break
            taken.append(self._rows.popleft())
            expected += 1
        return taken

    def _fill(self, until: int) -> bool:
        """Read on; return whether there was more. Raises: _Bad, naming the first entry that the database cannot read."""
        try:
            listed = self._reader.listed(self._read_to, ENTRIES_AT_ONCE)
        except (JournalDamaged, *UNREADABLE) as error:
            listed = self._singly(until)
            if not listed:
                raise _Bad(self._read_to + 1, f"the database cannot read it: {first_line(error)}") from error
        for one in listed:
            if one.number <= self._read_to:
                raise _Bad(self._read_to + 1, f"the database returns entry {one.number} after entry {self._read_to}")
            self._rows.append(_Row(one, _hash(one.data), _read(one.data)))
            self._read_to = one.number
        return bool(listed)

    def _singly(self, until: int) -> list[ListedEntry]:
        """Return the entries up to *until* that can be read one by one, before the first that cannot."""
        found: list[ListedEntry] = []
        with contextlib.suppress(JournalDamaged, *UNREADABLE):
            for number in range(self._read_to + 1, until + 1):
                one = self._reader.listed(number - 1, 1)
                if not one or one[0].number != number:
                    break
                found += one
        return found

    def _first_break(self, rows: list[_Row], commit: Commit, signed: bool) -> _Bad | None:
        """Return the lowest entry of the group that is not part of the signed chain.

        Backwards from the commit each hash is vouched for by the entry after it. What the commit does not vouch for is
        searched forwards for the first entry that contradicts itself or the one before; without one, the last of them
        is what the signed chain contradicts.
        """
        first = self.end.number + 1
        if len(rows) < commit.number - self.end.number:
            return _Bad(first + len(rows), f"entry {first + len(rows)} is missing")
        doubtful = len(rows) - (_vouched(rows, commit) if signed else 0)
        if signed and not doubtful and (rows[0].entry is None or rows[0].entry.previous != self.end.hash):
            return _Bad(first, f"entry {first} does not follow entry {first - 1}")
        previous = self.end.hash
        for row in rows[:doubtful]:
            number = row.number
            if row.entry is None:
                return _Bad(number, f"the bytes of entry {number} are not an entry")
            if row.hash != row.listed.hash:
                return _Bad(number, f"entry {number} does not have its hash")
            if row.entry.number != number:
                return _Bad(number, f"entry {row.entry.number} stands in the place of entry {number}")
            if row.entry.previous != previous:
                return _Bad(number, f"entry {number} does not follow entry {number - 1}")
            previous = row.listed.hash
        if signed and doubtful:
            return _Bad(rows[doubtful - 1].number, f"entry {rows[doubtful - 1].number} is not the one that was signed")
        return None

    def _entry(self, row: _Row) -> None:
        """Check what an entry of the signed chain says, and the columns beside it."""
        listed, digest, entry = row
        number = listed.number
        if entry is None or entry.number != number:
            raise _Bad(number, f"the bytes of entry {number} are not entry {number}")
        if listed.hash != digest:
            raise _Bad(number, f"the hash beside entry {number} was changed")
        if (listed.time, listed.asker, listed.kind) != (entry.time, entry.cause.asker, entry.cause.kind):
            raise _Bad(number, f"a column beside entry {number} was changed")
        if entry.time <= self.end.time:
            raise _Bad(number, f"entry {number} is not later than entry {number - 1}")
        if entry.epoch < self.end.epoch:
            raise _Bad(number, f"entry {number} is of an earlier epoch than entry {number - 1}")
        if self._work.seen.get(str(number), listed.hash) != listed.hash:
            raise _Bad(number, f"entry {number} is not the one that a witness has seen")
        self._cause(entry)
        self.end = Edge(number=number, hash=listed.hash, time=entry.time, epoch=entry.epoch)
        self.checked += 1

    def _cause(self, entry: Entry) -> None:
        """Check that the frame says what the entry says of it, and its signature where the signer's key is known."""
        number, cause = entry.number, entry.cause
        try:
            frame = open_frame(cause.frame)
            public = self._signers.get(frame.key_id)
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
        if rest := self._reader.entries(self.end.number, 1):
            raise _Bad(rest[0].number, f"no commit covers entry {rest[0].number}: the tail is torn")
        named = self._meta.head
        if (named.number, named.hash) != (self.end.number, self.end.hash):
            number = min(self.end.number, named.number) + (named.number != self.end.number)
            raise _Bad(number, f"the head names entry {named.number}, the last commit is of entry {self.end.number}")


def first_line(error: Exception) -> str:
    """Return the first line of what *error* says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _vouched(rows: list[_Row], commit: Commit) -> int:
    """Return how many of *rows*, counted from the end, the verified *commit* vouches for; see ``entry.authenticate``."""
    expected, count = commit.hash, 0
    for row in reversed(rows):
        if row.hash != expected:
            break
        expected, count = row.entry.previous if row.entry is not None else "", count + 1
    return count


def _hash(data: bytes) -> str:
    """Return the hash of an entry's bytes; "" when what the database holds is no bytes at all."""
    return entry_hash(data) if isinstance(data, bytes) else ""


def _read(data: bytes) -> Entry | None:
    """Return the entry in *data*; None when its bytes are not one, in its one spelling, facts included."""
    try:
        entry = parse(data, Entry)
    except (EnjinError, RecursionError, TypeError):
        return None
    return entry if all(map(is_canonical, entry.facts)) else None


def main() -> int:
    """Check the range on standard input, say what it holds on standard output, and return the exit status."""
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    with contextlib.closing(Reader(work.url)) as reader:
        sys.stdout.buffer.write(canonical(check_range(reader, work)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

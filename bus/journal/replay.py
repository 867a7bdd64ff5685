"""From entries to World: replay folds facts and never decides.

Owns the decoding of facts, the fold, and the choice where it starts: the nearest snapshot whose signature and digest
hold, else the beginning. Imports the ground, keys and the rest of the journal, not the database.

INV-REP-1: the same entries give the same World, from whichever snapshot the fold starts.
INV-REP-2: the fold checks the chain that it walks; it never folds an entry that does not follow the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, Self

import msgspec

from bus.journal.entry import Commit, Entry, Head, StoredEntry, Stretch, authenticate, entry_hash, genesis
from bus.journal.errors import BadStretch, JournalDamaged, NoSuchEntry, StaleEpoch, UnknownFact
from bus.journal.reader import Reader
from bus.journal.snapshot import open_snapshot
from bus.messages import Fact, canonical, parse
from enjin.errors import EnjinError
from enjin.log import get

_log: Final = get("journal.replay")


class Foldable(Protocol):
    """What the journal wants of a World."""

    def take_changes(self) -> Any:
        """Return the rows changed since the last call, for the projection; the next call starts anew."""

    def digest(self) -> str:
        """Return a hash of every row; equal digests mean equal worlds."""

    def snapshot(self) -> bytes:
        """Return every row."""

    @classmethod
    def restore(cls, body: bytes) -> Self:
        """Return the world of a snapshot."""


class _Tag(msgspec.Struct):
    kind: str


class Facts:
    """The closed table from a fact's kind to its shape."""

    def __init__(self, shapes: Mapping[str, type[Fact]]) -> None:
        self._shapes = dict(shapes)
        self._tag = msgspec.json.Decoder(_Tag)

    @classmethod
    def of(cls, shapes: Mapping[str, type[Fact]] | Iterable[type[Fact]]) -> Facts:
        """Return the table of *shapes*, which are given by kind or one after the other."""
        return cls(shapes if isinstance(shapes, Mapping) else {shape.KIND: shape for shape in shapes})

    def decode(self, raw: msgspec.Raw, number: int) -> Fact:
        """Return the fact in *raw*, which stands in entry *number*.

        Raises:
            UnknownFact: No shape here has its kind.
            Malformed, NotCanonical, BadName, BadId: It is not of its kind's shape.
        """
        try:
            kind = self._tag.decode(raw).kind
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalDamaged(f"entry {number} holds a fact without a kind", number=number) from error
        if (shape := self._shapes.get(kind)) is None:
            raise UnknownFact(f"entry {number} holds a fact of the unknown kind {kind[:64]!r}", number=number, kind=kind[:64])
        return parse(raw, shape)

    def encode(self, fact: Fact) -> msgspec.Raw:
        """Return *fact* as it will stand in an entry. Raises: UnknownFact when it could not be read again."""
        if self._shapes.get(fact.KIND) is not type(fact):
            raise UnknownFact(f"{type(fact).__name__} is not in this journal's table of facts", kind=fact.KIND)
        return msgspec.Raw(canonical(fact))


_ENTRY: Final = msgspec.json.Decoder(Entry)


def read_entry(stored: StoredEntry) -> Entry:
    """Return the entry in *stored*. Raises: JournalDamaged."""
    try:
        return _ENTRY.decode(stored.data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise JournalDamaged(f"entry {stored.number} cannot be read: {error}", number=stored.number) from error


def vouched_entries(stretch: Stretch) -> list[StoredEntry]:
    """Return the entries of *stretch*, whose commit's signature holds.

    Raises:
        BadStretch: The commit does not vouch for all of them.
    """
    first = stretch.commit.number - len(stretch.entries) + 1
    entries = [StoredEntry(first + at, entry_hash(data), data) for at, data in enumerate(stretch.entries)]
    try:
        read = [read_entry(entry) for entry in entries]
    except JournalDamaged as error:
        raise BadStretch(error.message) from error
    vouched = authenticate(entries, [entry.previous for entry in read], stretch.commit)
    if first < 1 or vouched != len(entries) or any(entry.number != stored.number for entry, stored in zip(read, entries, strict=True)):
        raise BadStretch(f"the entries up to {stretch.commit.number} are not the ones that their commit signs")
    return entries


def check_order(read: Sequence[Entry], commit: Commit, domain: str, time: int, epoch: int) -> None:
    """See that *read* and their *commit* go on from an entry of *time* (microseconds) and *epoch*.

    Raises:
        BadStretch: A time or epoch that does not fit.
        StaleEpoch: The epoch falls.
    """
    for entry in read:
        if entry.time <= time:
            raise BadStretch(f"entry {entry.number} of {domain} is not later than the one before")
        if entry.epoch < epoch:
            raise StaleEpoch(f"entry {entry.number} is of epoch {entry.epoch}, {domain} is in epoch {epoch}")
        time, epoch = entry.time, entry.epoch
    if commit.epoch != epoch:
        raise BadStretch(f"commit {commit.number} of {domain} names epoch {commit.epoch}, its entry epoch {epoch}")


def follow(stored: StoredEntry, head: Head) -> Entry:
    """Return the entry in *stored* after checking that it follows *head*.

    Raises:
        JournalDamaged: Its number, previous hash or own hash is another one.
    """
    entry = read_entry(stored)
    if (entry.number, stored.number, entry.previous) != (head.number + 1, head.number + 1, head.hash):
        raise JournalDamaged(f"entry {head.number + 1} does not follow entry {head.number}", number=head.number + 1)
    if entry_hash(stored.data) != stored.hash:
        raise JournalDamaged(f"entry {stored.number} does not have its hash", number=stored.number)
    return entry


def fold(world: Any, entries: Iterable[StoredEntry], facts: Facts, head: Head) -> Head:
    """Apply the facts of *entries*, which follow *head*, to *world* and return the new head.

    Raises:
        UnknownFact: The fold stopped before the entry that holds it; the error's ``number`` says which.
        JournalDamaged: The entries do not follow each other.
    """
    for stored in entries:
        entry = follow(stored, head)
        # All of an entry's facts are decoded before the first is applied, so a fold stops between entries.
        decoded = [facts.decode(raw, stored.number) for raw in entry.facts]
        for fact in decoded:
            fact.apply(world)
        head = Head(stored.number, stored.hash)
    return head


class Replayed(NamedTuple):
    """A World as it was after an entry; ``whole`` when it was folded from the first one, so that every row counts as changed."""

    world: Any
    head: Head
    time: int
    whole: bool


def replay(
    reader: Reader,
    *,
    world_factory: Callable[[], Any],
    facts: Facts,
    publics: Iterable[bytes],
    number: int | None = None,
    time: int | None = None,
    from_genesis: bool = False,
) -> Replayed:
    """Return the World as it was after entry *number*, or at *time* (microseconds of cloud time), or now.

    Args:
        reader: The journal.
        world_factory: Makes an empty World; its class has ``restore``.
        facts: The shapes of every fact.
        publics: Keys whose snapshots are believed.
        number: Stop after this entry.
        time: Stop after the last entry made at or before this time.
        from_genesis: Fold every entry; use no snapshot.

    Raises:
        NoSuchEntry: *number* is beyond the head.
        UnknownFact, JournalDamaged.
    """
    meta = reader.meta()
    if meta is None:
        raise NoSuchEntry("the journal is empty")
    until = reader.number_at(time) if time is not None else meta.head.number if number is None else number
    if not 0 <= until <= meta.head.number:
        raise NoSuchEntry(f"the journal has entries 1 to {meta.head.number}, not {until}")
    world, start = world_factory(), genesis(meta.cloud, meta.domain)
    head = start
    if not from_genesis:
        nearest = _restore(reader, until, type(world), (meta.cloud, meta.domain), tuple(publics))
        if nearest is not None:
            world, head = nearest
    whole = head == start
    head = fold(world, reader.walk(head.number, until), facts, head)
    if head.number != until:
        raise JournalDamaged(f"entry {head.number + 1} is missing", number=head.number + 1)
    last = reader.entry(until) if until else None
    return Replayed(world, head, read_entry(last).time if last is not None else 0, whole)


def _restore(reader: Reader, until: int, shape: Any, owner: tuple[str, str], publics: tuple[bytes, ...]) -> tuple[Any, Head] | None:
    """Return the World of the nearest snapshot at or below *until* that holds, with its head; None when there is none."""
    for snapshot in reader.snapshots(until):
        try:
            world = shape.restore(open_snapshot(snapshot, *owner, publics))
            if world.digest() != snapshot.digest:
                raise JournalDamaged(f"snapshot {snapshot.number} does not have its digest", number=snapshot.number)
        except (EnjinError, msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            _log.warning("snapshot.refused", number=snapshot.number, error=error)
            continue
        return world, Head(snapshot.number, snapshot.hash)
    return None

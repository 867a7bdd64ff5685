"""A follower's copy of another domain's journal: verified entry by entry, in a file of its own.

Owns what a parent or a sibling does with entries on offer: check the commit's signature, the chain, epoch and time, copy,
and say what is missing. It has no path to the writer's database: everything it knows came through ``append``, and so
everything it vouches for as a witness it has checked itself. Imports the rest of the journal.

INV-FOL-1: only entries that a signed commit vouches for are copied; a signed entry that contradicts the copy is a fork,
which is an alarm and changes nothing.
INV-FOL-2: the epoch never falls, and what was copied is never given up.
INV-FOL-3: an unknown fact stops the projecting, never the copying.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Self, TypeVar

from bus.journal.checkpoint import Checkpoint, Cosigned, cosign
from bus.journal.entry import Commit, Head, StoredEntry, Stretch, check_commit
from bus.journal.errors import BadCheckpoint, BadSnapshot, BadStretch, Diverged, Forked, JournalDamaged, JournalLost, RolledBack, StaleEpoch
from bus.journal.followed_world import FollowedWorld
from bus.journal.listing import Filters, Line, listing
from bus.journal.reader import STRETCH_ENTRIES_MAX, Reader, StoredSnapshot
from bus.journal.replay import Facts, check_order, read_entry, vouched_entries
from bus.journal.store import Batch, Row, Store
from bus.journal.stores import open_store
from bus.messages import Fact
from enjin.errors import EnjinError
from enjin.log import get
from keys.signing import BadSignature, Signer

_log: Final = get("journal.follower")

KeysFor = Callable[[str], Iterable[bytes]]
AlarmT = TypeVar("AlarmT", bound="Forked | RolledBack | Diverged")


class Fetch(NamedTuple):
    """What is missing: the entries after *after*, at least up to *until*."""

    after: int
    until: int


class Follower:
    """The copy of one domain's journal; its methods block on the disk and may be called from any one thread at a time."""

    def __init__(self, store: Store, reader: Reader, *, cloud: str, domain: str, keys_for: KeysFor, head: Head) -> None:
        self.cloud, self.domain, self.head = cloud, domain, head
        self.alarm: Forked | RolledBack | Diverged | None = None
        self.snapshot = reader.newest_snapshot()
        self._store, self._reader, self._keys_for = store, reader, keys_for
        self._followed: FollowedWorld | None = None
        self._lost: JournalLost | None = None
        self._turn = threading.Lock()
        commit = reader.last_commit()
        last = reader.last_entry()
        self.epoch = commit.epoch if commit is not None else 0
        self._time = read_entry(last).time if last is not None else 0

    @classmethod
    def open(cls, url: str, *, cloud: str, domain: str, keys_for: KeysFor) -> Self:
        """Open the copy at *url*, making it when there is none.

        Args:
            url: ``sqlite:////absolute/path`` of this follower's own file, or a database of its own: ``postgresql://…``.
            cloud: The cloud.
            domain: Whose journal is followed.
            keys_for: Public journal keys that may sign the domain's commits now.

        Raises:
            JournalBusy, ForeignJournal, JournalDamaged.
        """
        store = open_store(url)
        try:
            head = store.prepare(cloud, domain)
            reader = Reader(url)
            try:
                last = reader.last_commit()
                if (last.head if last is not None else Head(0, head.hash)) != head:
                    raise JournalDamaged(f"the copy's head names entry {head.number}, which its last commit does not", number=head.number)
                return cls(store, reader, cloud=cloud, domain=domain, keys_for=keys_for, head=head)
            except BaseException:
                reader.close()
                raise
        except BaseException:
            store.close()
            raise

    @property
    def world(self) -> Any:
        """World as of ``projected``; None until ``project``."""
        return None if self._followed is None else self._followed.world

    @property
    def projected(self) -> Head:
        """The entry after which ``world`` is as it stands: the copy's head, or a snapshot's beyond it."""
        return Head(0, "") if self._followed is None else self._followed.at

    @property
    def stopped(self) -> EnjinError | None:
        """Why ``world`` does not move any more."""
        return None if self._followed is None else self._followed.stopped

    def project(self, world_factory: Callable[[], Any], facts: Mapping[str, type[Fact]] | Iterable[type[Fact]]) -> None:
        """Keep ``world`` at the head from now on; an unknown fact leaves it where it stands and ``stopped`` says why."""
        followed = FollowedWorld(self._reader, world_factory, Facts.of(facts), self._publics, (self.cloud, self.domain))
        followed.start(self.head)
        self._followed = followed

    def keep(self, snapshot: StoredSnapshot) -> None:
        """Keep the decider's *snapshot*: World goes on from it when the copy is behind, and is compared with it otherwise.

        Raises:
            BadSnapshot: It is not a snapshot that the domain's decider signed, or ``project`` was not called.
            Forked: It contradicts the copy.
            Diverged: The same entries gave the decider another World.
            JournalLost: It could not be written.
        """
        with self._turn:
            if self._lost is not None:
                raise self._lost
            if self._followed is None:
                raise BadSnapshot(f"{self.domain} is copied here without a world")
            try:
                self._followed.take(snapshot, self.head)
            except (Forked, Diverged) as error:
                raise self._alarm(error) from None
            if snapshot.number > self.snapshot:
                self._write(Batch(self.head, snapshots=[snapshot]))
                self.snapshot = snapshot.number

    def agree(self, number: int, digest: str) -> None:
        """Compare World with *digest*, which the decider's has after entry *number*; says nothing while ours stands elsewhere.

        Raises:
            Diverged: The same entries gave the decider another World.
        """
        with self._turn:
            if self._followed is not None and not self._followed.agrees(number, digest):
                raise self._alarm(Diverged(f"entries 1 to {number} of {self.domain} give another world here", number=number))

    def append(self, stretch: Stretch) -> Fetch | None:
        """Copy what is new in *stretch*.

        Args:
            stretch: Consecutive entries and a commit that covers the last of them, from anybody.

        Returns:
            What has to be fetched first when there is a gap (nothing was copied then); None when there is none.

        Raises:
            BadStretch: No signed continuation of this journal.
            StaleEpoch: A superseded decider's.
            Forked: Signed, and yet other entries than ours.
            JournalLost: The copy could not be written: open it again.
        """
        with self._turn:
            if self._lost is not None:  # what reached the disk is unknown until the file is opened again
                raise self._lost
            entries = self._authentic(stretch)
            first = entries[0].number if entries else stretch.commit.number
            if first > self.head.number + 1:
                return Fetch(self.head.number, stretch.commit.number)
            self._compare_known([entry for entry in entries if entry.number <= self.head.number], stretch.commit.epoch)
            new = [entry for entry in entries if entry.number > self.head.number]
            if new:
                self._copy(new, stretch.commit)
            return None

    def hear(self, commit: Commit, *, fresh: bool = False) -> Fetch | None:
        """Compare a signed commit that the domain speaks of with the copy; see ``compare``.

        Raises:
            BadStretch, StaleEpoch, Forked, RolledBack.
        """
        with self._turn:
            self._check_commit(commit)
        return self.compare(commit.head, commit.epoch, fresh=fresh)

    def compare(self, head: Head, epoch: int, *, fresh: bool = False) -> Fetch | None:
        """Compare the head that the domain's decider names (in a beacon, whose envelope was verified) with the copy.

        Args:
            head: Number and hash.
            epoch: The decider's.
            fresh: It was certainly said after everything that was copied: then less than the copy holds is a rollback.
                A beacon may cross an answer on its way; two in a row that show less are certain.

        Returns:
            What has to be fetched; None when the copy is not behind.

        Raises:
            StaleEpoch: A superseded decider's.
            Forked: It names another entry than the copy holds.
            RolledBack: It is fresh and shows less.
        """
        with self._turn:
            if head.number > self.head.number:
                if epoch < self.epoch:
                    raise StaleEpoch(f"head {head.number} is of epoch {epoch}, {self.domain} is in epoch {self.epoch}")
                return Fetch(self.head.number, head.number)
            if head.number:
                self._compare_known([StoredEntry(head.number, head.hash, b"")], epoch)
            if fresh and head.number < self.head.number:
                shown = f"{self.domain} shows entry {head.number} as its last, we hold entry {self.head.number}"
                raise self._alarm(RolledBack(shown, number=head.number + 1))
            return None

    def witness(self, checkpoint: Checkpoint, signer: Signer) -> Cosigned:
        """Cosign *checkpoint* if it is what the copy holds.

        Raises:
            BadCheckpoint: Of another journal, or beyond the copy: fetch first.
            Forked, RolledBack: It contradicts the copy.
        """
        with self._turn:
            if (checkpoint.cloud, checkpoint.domain) != (self.cloud, self.domain):
                raise BadCheckpoint("the checkpoint speaks of another journal")
            if checkpoint.number > self.head.number or checkpoint.number < 1:
                raise BadCheckpoint(f"we hold {self.domain} up to entry {self.head.number}, not {checkpoint.number}")
            self._compare_known([StoredEntry(checkpoint.number, checkpoint.hash, b"")], checkpoint.epoch)
            return cosign(checkpoint, signer)

    def stretch(self, after: int) -> Stretch | None:
        """Return what another follower, or the writer's repair, needs after entry *after*."""
        return self._reader.stretch(after)

    def listing(self, after: int = 0, limit: int = 100, filters: Filters | None = None, *, newest: bool = False) -> list[Line]:
        """Return who did what, when and why, as far as it was copied."""
        return listing(self._reader, after, limit, filters, newest=newest)

    def checkpoint(self) -> Checkpoint:
        """Return what the copy holds, as a checkpoint."""
        return Checkpoint(cloud=self.cloud, domain=self.domain, epoch=self.epoch, number=self.head.number, hash=self.head.hash)

    def close(self) -> None:
        """Close the copy."""
        self._reader.close()
        self._store.close()

    def _publics(self) -> tuple[bytes, ...]:
        return tuple(self._keys_for(self.domain))

    def _check_commit(self, commit: Commit) -> None:
        try:
            check_commit(commit, self.cloud, self.domain, self._publics())
        except BadSignature as error:
            raise BadStretch(f"commit {commit.number} of {self.domain} is not signed by its decider") from error
        if commit.epoch < self.epoch and commit.number > self.head.number:
            raise StaleEpoch(f"commit {commit.number} is of epoch {commit.epoch}, {self.domain} is in epoch {self.epoch}")

    def _authentic(self, stretch: Stretch) -> list[StoredEntry]:
        """Return the entries of *stretch*, all of which its commit vouches for."""
        if not 0 < len(stretch.entries) <= STRETCH_ENTRIES_MAX:
            raise BadStretch(f"a stretch holds 1 to {STRETCH_ENTRIES_MAX} entries, not {len(stretch.entries)}")
        self._check_commit(stretch.commit)
        return vouched_entries(stretch)

    def _compare_known(self, entries: list[StoredEntry], epoch: int) -> None:
        for entry in entries:
            ours = self._reader.entry(entry.number) if entry.number else None
            if ours is None or ours.hash != entry.hash:
                if epoch < self.epoch:  # a decider that does not know yet that it was superseded
                    raise StaleEpoch(f"entry {entry.number} is of epoch {epoch}, {self.domain} is in epoch {self.epoch}")
                raise self._alarm(Forked(f"{self.domain} signed two different entries {entry.number}", number=entry.number))

    def _copy(self, entries: list[StoredEntry], commit: Commit) -> None:
        read = [read_entry(entry) for entry in entries]
        if read[0].previous != self.head.hash:
            raise self._alarm(
                Forked(f"{self.domain} signed an entry {entries[0].number} that does not follow ours", number=entries[0].number)
            )
        check_order(read, commit, self.domain, self._time, self.epoch)
        if self._followed is not None:
            try:
                self._followed.check(entries)
            except Forked as error:
                raise self._alarm(error) from None
        rows = [Row(stored, entry.time, entry.cause.asker, entry.cause.kind) for stored, entry in zip(entries, read, strict=True)]
        self._write(Batch(self.head, rows, commit))
        self.head, self.epoch, self._time = commit.head, commit.epoch, read[-1].time
        if self._followed is not None:
            self._followed.fold(entries)

    def _write(self, batch: Batch) -> None:
        try:
            self._store.call(lambda: self._store.write(batch))
        except Exception as error:
            self._lost = JournalLost(f"the copy of {self.domain} could not be written: {error}", number=self.head.number)
            raise self._lost from error

    def _alarm(self, error: AlarmT) -> AlarmT:
        self.alarm = error
        _log.critical("journal.contradicted", domain=self.domain, error=error)
        return error

"""Opening a journal for writing: lock, tables, tail, World, projection, in this order.

Owns the steps and what they refuse. Imports the rest of the journal.

INV-JNL-3: a journal whose tail does not hold, whose epoch is newer than ours, or that shows less than a witness saw, is
not opened for writing, and nothing in it is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bus.journal.checkpoint import Checkpoint, compare
from bus.journal.entry import Head, JournalIdentity, authenticate, check_commit
from bus.journal.errors import JournalDamaged, StaleEpoch
from bus.journal.projection import fold_from_genesis, settle
from bus.journal.reader import Reader
from bus.journal.replay import Facts, Replayed, read_entry, replay
from bus.journal.store import Projection, Store
from keys.signing import BadSignature

TAIL: Final = 256


class Opening:
    """The steps from a file to a World, and what later replays need of them."""

    def __init__(
        self,
        url: str,
        store: Store,
        identity: JournalIdentity,
        world_factory: Callable[[], Any],
        facts: Facts,
        projection: Projection | None,
    ) -> None:
        self.world_factory, self.facts, self.projection = world_factory, facts, projection
        self._store, self._identity = store, identity
        self.head = store.prepare(str(identity.cloud), identity.domain)
        self.reader = Reader(url)
        self.repaired = ""

    def run(self, floor: Checkpoint | None) -> Replayed:
        """Check tail, epoch and floor, fold World and settle the projection; return World at the head."""
        try:
            check_tail(self.reader, self._identity, self.head)
            if floor is not None:
                compare(self.reader, floor)
            found = replay(self.reader, world_factory=self.world_factory, facts=self.facts, publics=self._identity.publics)
            if found.head != self.head:
                raise JournalDamaged(f"entry {self.head.number} is not the head that the journal names", number=self.head.number)
            if self.projection is not None:
                self.repaired = settle(
                    self._store, self.reader, self.projection, self.head, found.world, self.world_factory, lambda: self._full(found)
                )
            found.world.take_changes()
            return found
        except BaseException:
            self.reader.close()
            raise

    def _full(self, found: Replayed) -> Any:
        return found.world if found.whole else fold_from_genesis(self.reader, self.world_factory, self.facts, self.head)


def check_tail(reader: Reader, identity: JournalIdentity, head: Head) -> None:
    """Check that the last commit is ours, signs the head, and vouches for the entries it covers.

    Raises:
        JournalDamaged: It does not; the error's ``number`` says where.
        StaleEpoch: The journal was written in a later epoch than *identity*'s.
    """
    last, commit = reader.last_entry(), reader.last_commit()
    ends = {head.number, last.number if last is not None else 0, commit.number if commit is not None else 0}
    if len(ends) != 1:
        raise JournalDamaged(f"the journal's tail is torn: entries, commits and head end at {sorted(ends)}", number=min(ends) + 1)
    if commit is None:
        return
    try:
        check_commit(commit, str(identity.cloud), identity.domain, identity.publics)
    except BadSignature as error:
        raise JournalDamaged(f"the last commit, {commit.number}, does not hold", number=commit.number) from error
    if commit.head != head:
        raise JournalDamaged(f"the last commit does not sign the head {head.number}", number=head.number)
    if commit.epoch > identity.epoch:
        raise StaleEpoch(f"the journal is in epoch {commit.epoch}, this decider was appointed for epoch {identity.epoch}")
    tail = reader.entries(max(0, commit.number - TAIL), TAIL)
    vouched = authenticate(tail, [read_entry(entry).previous for entry in tail], commit)
    if vouched != len(tail):
        bad = tail[len(tail) - vouched - 1].number
        raise JournalDamaged(f"entry {bad} is not the one that was signed", number=bad)


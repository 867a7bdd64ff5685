"""World as a follower sees it: folded from its own copy of the entries, or ahead of it from the decider's snapshot.

Owns where World stands while a follower copies. A follower that was away for long takes the newest signed snapshot first,
so that its World is of today while the entries in between are still being copied; when the copy reaches the snapshot's
entry, both must name the same hash. A follower that is not behind compares: equal entries have to give an equal digest.
Imports the rest of the journal.

INV-FWD-1: a snapshot is believed only under a journal key, and never over a copied entry that has another hash.
INV-FWD-2: two Worlds of the same entries with different digests are an alarm, and the follower keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from bus.journal.entry import Head, StoredEntry
from bus.journal.errors import BadSnapshot, Diverged, Forked, UnknownFact
from bus.journal.reader import Reader, StoredSnapshot
from bus.journal.replay import Facts, fold, replay
from bus.journal.snapshot import open_snapshot
from enjin.errors import EnjinError
from enjin.log import get

_log: Final = get("journal.follower")


class FollowedWorld:
    """One domain's World at a follower.

    Attributes:
        world: The World; None until ``start``.
        at: The entry after which World is as it stands.
        stopped: Why it does not move any more; None while it does.
    """

    def __init__(
        self, reader: Reader, factory: Callable[[], Any], facts: Facts, publics: Callable[[], Iterable[bytes]], owner: tuple[str, str]
    ) -> None:
        self.world: Any = None
        self.at = Head(0, "")
        self.stopped: UnknownFact | None = None
        self._reader, self._factory, self._facts = reader, factory, facts
        self._publics, self._owner = publics, owner

    def start(self, head: Head) -> None:
        """Make World from the copy, which ends at *head*, or from a kept snapshot beyond it."""
        newest = next(self._reader.snapshots(None), None)
        if newest is not None and newest.number > head.number:
            try:
                self.world, self.at = self._restore(newest), Head(newest.number, newest.hash)
                return
            except BadSnapshot as error:
                _log.warning("snapshot.refused", number=newest.number, error=error)
        try:
            self.world = self._replayed(head.number)
            self.at = head
        except UnknownFact as error:
            before = int(error.details["number"]) - 1
            self.world = self._replayed(before)
            last = self._reader.entry(before) if before else None
            self.at = Head(before, last.hash if last is not None else "")
            self._stop(error)

    def check(self, entries: Sequence[StoredEntry]) -> None:
        """See that *entries*, about to be copied, are those that World has come from.

        Raises:
            Forked: World was taken from a signed snapshot of another history.
        """
        for entry in entries:
            if entry.number == self.at.number and entry.hash != self.at.hash:
                raise Forked(f"{self._owner[1]} signed a snapshot and an entry {entry.number} that differ", number=entry.number)

    def fold(self, entries: Sequence[StoredEntry]) -> None:
        """Apply the facts of *entries*, which were copied, as far as World is not beyond them."""
        if self.stopped is not None:
            return
        try:
            for entry in entries:
                if entry.number > self.at.number:
                    self.at = fold(self.world, [entry], self._facts, self.at)
        except UnknownFact as error:
            self._stop(error)

    def take(self, snapshot: StoredSnapshot, head: Head) -> None:
        """Compare with *snapshot* if the copy, which ends at *head*, has its entry; else go on from it.

        Raises:
            BadSnapshot: No journal key signed it, or it is not what it says.
            Forked: It names another entry than the copy holds.
            Diverged: The same entries gave the decider another World.
        """
        restored = self._restore(snapshot)
        if snapshot.number > head.number:
            if snapshot.number > self.at.number:
                self.world, self.at, self.stopped = restored, Head(snapshot.number, snapshot.hash), None
            return
        ours = self._reader.entry(snapshot.number)
        if ours is None or ours.hash != snapshot.hash:
            raise Forked(f"{self._owner[1]} signed a snapshot of an entry {snapshot.number} that is not ours", number=snapshot.number)
        if self.stopped is None and self._replayed(snapshot.number).digest() != snapshot.digest:
            raise Diverged(f"entries 1 to {snapshot.number} of {self._owner[1]} give another world here", number=snapshot.number)

    def agrees(self, number: int, digest: str) -> bool:
        """Whether World, if it stands at entry *number*, has *digest*."""
        return self.at.number != number or self.stopped is not None or self.world.digest() == digest

    def _replayed(self, number: int) -> Any:
        return replay(self._reader, world_factory=self._factory, facts=self._facts, publics=self._publics(), number=number).world

    def _restore(self, snapshot: StoredSnapshot) -> Any:
        try:
            world = type(self._factory()).restore(open_snapshot(snapshot, *self._owner, self._publics()))
            digest = world.digest()
        except (EnjinError, msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
            raise BadSnapshot(f"snapshot {snapshot.number} of {self._owner[1]} does not hold: {error}") from error
        if digest != snapshot.digest:
            raise BadSnapshot(f"snapshot {snapshot.number} of {self._owner[1]} does not have its digest")
        return world

    def _stop(self, error: UnknownFact) -> None:
        self.stopped = error
        _log.error("projecting.stopped", domain=self._owner[1], error=error)

"""The journal of one domain as its daemon uses it: opened, decided on, read, followed, closed.

Owns the lives of writer and reader. The work is done by ``opening``, ``deciding``, ``sequencer``, ``store``, ``replay``
and ``projection``. Imports the rest of the journal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

from bus.journal.checkpoint import Checkpoint, Cosigned, check_cosigned, compare, read_cosigned
from bus.journal.deciding import Decider, MomentOf, Outcome, Wish
from bus.journal.entry import Cause, Head, JournalIdentity, StoredEntry, Stretch
from bus.journal.errors import JournalLost
from bus.journal.listing import Filters, Line, listing
from bus.journal.opening import Opening
from bus.journal.projection import fold_from_genesis, make_anew
from bus.journal.reader import Reader
from bus.journal.replay import Facts, Replayed, replay
from bus.journal.reserve import Reserve
from bus.journal.sequencer import QUEUE_MAX, Fatal, OnCommit, Sequencer
from bus.journal.snapshot import SNAPSHOT_EVERY
from bus.journal.snapshot_parts import SnapshotPart, part_of
from bus.journal.store import Projection, Store
from bus.journal.stores import open_store
from bus.messages import Command, Fact, Rule, canonical
from enjin import host
from enjin.log import get

EXIT_LOST: Final = 70
_log: Final = get("journal")


def end_process(lost: JournalLost) -> None:
    """End the process at once: nothing that it believes about its journal is certain any more."""
    _log.critical("journal.lost", error=lost)
    os._exit(EXIT_LOST)


def wall_us() -> int:
    """Return the wall clock's microseconds: cloud time where nobody above knows better."""
    return host.clock().wall_us


class Journal:
    """One domain's journal and its decider; made by ``open``, used in one event loop's thread."""

    def __init__(self, url: str, store: Store, reader: Reader, sequencer: Sequencer, decider: Decider, opening: Opening) -> None:
        self.url = url
        self._store, self._reader, self._sequencer, self._decider, self._opening = store, reader, sequencer, decider, opening
        self.repaired = opening.repaired

    @classmethod
    def open(
        cls,
        url: str,
        *,
        identity: JournalIdentity,
        world_factory: Callable[[], Any],
        facts: Mapping[str, type[Fact]] | Iterable[type[Fact]],
        projection: Projection | None = None,
        now_us: Callable[[], int] = wall_us,
        fatal: Fatal = end_process,
        floor: Checkpoint | None = None,
        snapshot_every: int = SNAPSHOT_EVERY,
        queue_max: int = QUEUE_MAX,
        reserve: Reserve | None = None,
        beside: str = "",
        holder: str = "",
    ) -> Self:
        """Open the journal at *url* for writing, making it when there is none.

        Args:
            url: ``sqlite:////absolute/path`` or ``postgresql://…``.
            identity: Cloud, domain, epoch (from the charter) and the journal subkey.
            world_factory: Makes an empty World; its class has ``restore``.
            facts: Every fact's shape, by kind or one after the other.
            projection: The SQL tables beside the entries; None: none are kept.
            now_us: Cloud time in microseconds.
            fatal: Called when a commit could not be written; the default ends the process with status 70.
            floor: What a witness has seen of this journal; less than that is refused.
            snapshot_every: Entries between two snapshots of World.
            queue_max: Wishes that may wait.
            reserve: Room that is kept on the journal's disk; None: none is.
            beside: The file for the projection of a journal in PostgreSQL: ``sqlite:////absolute/path``.
            holder: Who is named to other daemons as the decider of a journal in PostgreSQL.

        Raises:
            JournalBusy, ForeignJournal, JournalDamaged, StaleEpoch, RolledBack, Forked, ProjectionAhead, UnknownFact,
            UnsupportedDatabase, JournalAway.
        """
        table = Facts.of(facts)
        store = open_store(url, beside, holder)
        try:
            opening = Opening(url, store, identity, world_factory, table, projection)
            opened = opening.run(floor)
        except BaseException:
            store.close()
            raise
        decider = Decider(identity, opened.world, table, opened.head, opened.time, now_us, snapshot_every)
        sequencer = Sequencer(decider, store, opening.reader, projection, fatal, queue_max, reserve)
        return cls(url, store, opening.reader, sequencer, decider, opening)

    @property
    def head(self) -> Head:
        """The last entry that is on disk."""
        return self._sequencer.head

    @property
    def world(self) -> Any:
        """World, which may be ahead of the disk by what is being committed: await ``settled`` before acting on it."""
        return self._decider.world

    @property
    def identity(self) -> JournalIdentity:
        """Whose journal this is."""
        return self._decider.identity

    def now(self) -> int:
        """Return cloud time in microseconds; never before the last entry."""
        return self._decider.now()

    async def decide(self, cause: Cause, rule: Rule, wish: Command, moment_of: MomentOf) -> Outcome:
        """Decide *wish* in its turn and return after its entry is on disk.

        Args:
            cause: Who asked, by which frame.
            rule: The row of the closed table for the wish's kind.
            wish: The command.
            moment_of: Makes the decision's moment from the entry's time. It is called in turn, right before the
                decision: what it refuses (a key revoked since the wish came in) is refused.

        Raises:
            DiskFull, Overloaded, JournalClosed, JournalLost, RequestReused, RequestTooOld, RequestFromFuture, EntryTooLarge,
            BadId, and whatever the decision refuses with.
        """
        return await self._sequencer.decide(Wish(cause, rule, wish, moment_of))

    async def settled(self) -> None:
        """Return when everything in ``world`` is on disk; whoever awaits it directly goes on before the next decision.

        Raises:
            JournalLost: It will never be.
        """
        await self._sequencer.settled()

    def on_commit(self, callback: OnCommit) -> None:
        """Call *callback* with every commit's stretch, in order, on the event loop; it must not block."""
        self._sequencer.on_commit(callback)

    def entries(self, after: int, limit: int) -> list[StoredEntry]:
        """Return at most *limit* entries with numbers above *after*."""
        return self._reader.entries(after, limit)

    def stretch(self, after: int) -> Stretch | None:
        """Return what a follower that has entry *after* needs next, within 1,000 entries and 512 KiB; None: nothing."""
        return self._reader.stretch(after)

    def snapshot_part(self, after: int, number: int = 0, offset: int = 0) -> SnapshotPart | None:
        """Return a part of snapshot *number*, or of the newest one above entry *after*; see ``snapshot_parts``."""
        return part_of(self._reader, after, number, offset)

    def listing(self, after: int = 0, limit: int = 100, filters: Filters | None = None, *, newest: bool = False) -> list[Line]:
        """Return who did what, when and why; see ``listing.listing``."""
        return listing(self._reader, after, limit, filters, newest=newest)

    def replay(self, *, number: int | None = None, time: int | None = None) -> Replayed:
        """Return World as it was after entry *number* or at *time*, from a connection of its own: may run in any thread.

        Raises:
            NoSuchEntry: *number* is beyond the head.
        """
        with Reader(self.url) as reader:
            opening = self._opening
            return replay(
                reader, world_factory=opening.world_factory, facts=opening.facts, publics=self.identity.publics, number=number, time=time
            )

    async def rebuild(self) -> None:
        """Make the projection again from nothing beside the old one, and swap, in one transaction.

        The fold reads from the first entry and blocks the event loop; it is meant for a daemon that is starting or idle.
        """
        await self.settled()
        opening = self._opening
        if opening.projection is None:
            return
        head = self.head
        changes = fold_from_genesis(self._reader, opening.world_factory, opening.facts, head).take_changes()
        make_anew(self._store, opening.projection, self.identity.cloud, self.identity.domain, head, changes)

    def checkpoint(self) -> Checkpoint:
        """Return what witnesses are asked to cosign: the head on disk."""
        identity = self.identity
        return Checkpoint(
            cloud=str(identity.cloud), domain=identity.domain, epoch=identity.epoch, number=self.head.number, hash=self.head.hash
        )

    async def keep(self, cosigned: Cosigned, publics: Iterable[bytes]) -> None:
        """Store a cosignature of one of the witnesses *publics*, if it says more than that witness said before.

        Raises:
            BadCheckpoint, BadSignature: It is not one of theirs.
            RolledBack, Forked: The witness has seen another history than ours: an alarm.
        """
        checkpoint = check_cosigned(cosigned, publics)
        compare(self._reader, checkpoint)
        if self.witnessed().get(cosigned.key_id, Head(-1, "")).number < checkpoint.number:
            data = canonical(cosigned)
            await self._store.run(lambda: self._store.keep_witness(cosigned.key_id, checkpoint.number, data))

    def witnessed(self) -> dict[str, Head]:
        """Return up to where each witness, by key id, has cosigned; empty: unwitnessed."""
        found = [read_cosigned(data) for data in self._reader.witnesses()]
        return {cosigned.key_id: cosigned.checkpoint.head for cosigned in found}

    async def close(self) -> None:
        """Answer what waits, then let another writer come."""
        await self._sequencer.close()
        self._reader.close()
        self._store.close()

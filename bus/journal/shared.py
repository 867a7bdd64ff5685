"""The journal of one domain whose daemons share a database: one of them decides, the others look on and stand ready.

Owns which of the three this daemon does: *deciding* (it holds the lease), *following* (another does; World is kept up by
reading on), *away* (no server takes writes; World stands at what was acknowledged). A ``Journal`` whose deciding half is
exchanged as that changes: by that of an opened journal, or by a ``Bystander``. Imports the rest of the journal.

INV-SHJ-1: what was decided and could not be written is dropped whole, and World with it: it is read anew, from the local
projection or the server, before anything more is answered from it.
INV-SHJ-2: listeners hear every commit once and in order, whoever decided it.
INV-SHJ-3: only a server that went away, or a race that was lost, is survived; any other failed write ends the process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self, TypeVar

from bus.journal.bystander import Bystander, News, NoReader, Parts, close_read, read_anew
from bus.journal.entry import Head, JournalIdentity, Stretch
from bus.journal.errors import JournalAway, JournalBusy, JournalLost, SupersededServer
from bus.journal.journal import Journal, end_process, wall_us
from bus.journal.reader import Reader
from bus.journal.replay import Facts
from bus.journal.sequencer import Fatal, OnCommit
from bus.journal.shared_store import PostgresStore
from bus.journal.store import Projection
from bus.messages import Fact
from enjin.errors import EnjinError
from enjin.log import get

T = TypeVar("T")
BEAT_S: Final = 0.25
_SURVIVED: Final = (JournalAway, JournalBusy, SupersededServer)
_log: Final = get("journal.shared")


class SharedJournal(Journal):
    """One domain's shared journal: made by ``open``, kept by ``attend``, used in one event loop's thread."""

    def __init__(self, url: str, parts: Parts, holder: str, fatal: Fatal, beat_s: float, again: Callable[[Fatal], Journal]) -> None:
        self.url, self.reason, self.repaired = url, "", ""
        self._parts, self._holder, self._fatal, self._beat_s, self._again = parts, holder, fatal, beat_s, again
        self._deciding: Journal | None = None
        self._fallen: Journal | None = None
        self._bystander: Bystander | None = None
        self._poll: Reader | None = None
        self._listeners: list[OnCommit] = []
        self._told = Head(0, "")
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="journal-keeper")
        self._wake = asyncio.Event()

    @classmethod
    def open(  # type: ignore[override]
        cls,
        url: str,
        *,
        identity: JournalIdentity,
        world_factory: Callable[[], Any],
        facts: Mapping[str, type[Fact]] | Iterable[type[Fact]],
        projection: Projection,
        beside: str,
        holder: str,
        now_us: Callable[[], int] = wall_us,
        fatal: Fatal = end_process,
        beat_s: float = BEAT_S,
        **options: Any,
    ) -> Self:
        """Open the journal at *url*: to decide, when nobody does, else to follow.

        Args:
            url: ``postgresql://…``.
            identity, world_factory, facts, projection, beside, holder, now_us: As ``Journal.open`` takes them.
            fatal: Called when a commit could not be written for another reason than those of INV-SHJ-3.
            beat_s: How often the server is asked whether it is there and what is new, in seconds.
            options: Further ones of ``Journal.open``.

        Raises:
            JournalAway, SupersededServer: A daemon that has no World yet does not start without a server.
            And whatever else ``Journal.open`` refuses.
        """
        parts = Parts(identity, world_factory, Facts.of(facts), projection, now_us)
        shared = {"identity": identity, "world_factory": world_factory, "facts": facts, "projection": projection, "now_us": now_us}

        def again(lost: Fatal) -> Journal:
            return Journal.open(url, **shared, beside=beside, holder=holder, fatal=lost, **options)  # type: ignore[arg-type]

        own = cls(url, parts, holder, fatal, beat_s, again)
        try:
            own._become_decider(again(own._lost))
        except JournalBusy as busy:
            if "holder" not in busy.details:
                raise
            own._become_follower(*read_anew(url, parts, str(busy.details["holder"])))
        return own

    # -- what it does now --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """What this daemon does: ``deciding``, ``following`` or ``away``."""
        if self._deciding is not None:
            return "deciding"
        return "following" if self._bystander is not None and not self._bystander.why else "away"

    @property
    def decider(self) -> str:
        """Who decides, as far as this daemon knows; "" when nobody can."""
        if self._deciding is not None:
            return self._holder
        return self._bystander.holder if self._bystander is not None and not self._bystander.why else ""

    def on_commit(self, callback: OnCommit) -> None:
        """Call *callback* with every commit's stretch, in order, on the event loop; it must not block."""
        self._listeners.append(callback)

    def _tell(self, stretch: Stretch) -> None:
        # What a decider committed while its session was being lost is read again by the follower that it becomes: told once.
        new = stretch.commit.number - self._told.number
        if new <= 0:
            return
        stretch, self._told = Stretch(entries=stretch.entries[-new:], commit=stretch.commit), stretch.commit.head
        for listener in self._listeners:
            try:
                listener(stretch)
            except Exception as error:  # a listener's fault is not the journal's
                _log.error("listener.failed", error=error, number=stretch.commit.number)

    def _become_decider(self, journal: Journal) -> None:
        self._deciding, self._bystander = journal, None
        self._store, self._reader, self._opening = journal._store, journal._reader, journal._opening
        self._sequencer, self._decider = journal._sequencer, journal._decider
        self.reason, self.repaired = "", journal.repaired
        journal.on_commit(self._tell)
        self._catch_up(journal._reader)
        _log.info("journal.deciding", holder=self._holder, number=journal.head.number)

    def _become_follower(self, bystander: Bystander, poll: Reader, reader: Reader) -> None:
        self._look_on(bystander)
        self._poll, self._reader, self.reason = poll, reader, ""
        self._catch_up(reader)
        _log.info("journal.following", holder=bystander.holder, number=bystander.head.number)

    def _look_on(self, bystander: Bystander) -> None:
        self._bystander, self._deciding = bystander, None
        stand_in: Any = bystander
        self._store = self._sequencer = self._decider = self._opening = stand_in

    def _catch_up(self, reader: Reader) -> None:
        """Tell what became true between what was told and what World holds now."""
        if not self._told.hash:  # it has just been opened: nobody listens yet
            self._told = self.head
        while self._told.number < self.head.number and (stretch := reader.stretch(self._told.number)) is not None:
            self._tell(stretch)

    # -- keeping it --------------------------------------------------------------------------------------------------------

    async def attend(self) -> None:
        """Decide, follow or wait for a server, whichever is possible, until cancelled.

        Raises:
            UnknownFact, JournalDamaged, BadStretch, ForeignJournal, StaleEpoch, ProjectionAhead: What the server holds is not
                what this daemon can go on with.
        """
        while True:
            try:
                await self._step()
            except _SURVIVED as error:
                self._say(str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await self._wake.wait()
            self._wake.clear()

    async def _step(self) -> None:
        if self._fallen is not None:
            await self._fall_back()
        if isinstance(store := self._store, PostgresStore) and self._deciding is not None:
            try:
                await store.run(store.ping)
            except JournalAway as error:
                self._fall(error)
                self._wake.set()
        elif self._poll is not None and self._bystander is not None:
            await self._read_on(self._bystander, self._poll)
        elif (holder := await self._take_over()) is not None:
            found = await self._aside(lambda: read_anew(self.url, self._parts, holder), close_read)
            self._reader.close()
            self._become_follower(*found)

    async def _read_on(self, bystander: Bystander, poll: Reader) -> None:
        """Follow what others decided; decide where nobody does."""
        while True:
            try:
                news = await self._aside(lambda: bystander.look(poll))
            except JournalAway as error:
                bystander.why = str(error)
                self._read_no_more(bystander)
                raise
            bystander.holder, bystander.why = news.holder, self._why_nobody(news)
            if news.stretch is None:
                break
            bystander.follow(news.stretch)
            self._tell(news.stretch)
        if news.free:
            await self._take_over()

    def _why_nobody(self, news: News) -> str:
        """Return why no other daemon decides; "" when one does."""
        if news.free:
            return "nobody holds the decider's lease"
        # A server that waits for its replica does not notice that whoever asked has gone.
        return f"an earlier session of {self._holder} has not ended on the server" if news.holder == self._holder else ""

    async def _take_over(self) -> str | None:
        """Decide from now on, and return None; or the name of the daemon that does."""
        try:
            journal = await self._aside(lambda: self._again(self._lost), _discard)
        except JournalBusy as busy:
            if "holder" not in busy.details:
                raise
            return str(busy.details["holder"])
        self._stop_reading()
        self._become_decider(journal)
        return None

    def _read_no_more(self, bystander: Any) -> None:
        """Close what reads from the server: each use of it would try to reach one, and hold up the event loop."""
        self._stop_reading()
        no_reader: Any = NoReader(bystander)
        self._reader = no_reader

    def _stop_reading(self) -> None:
        if self._poll is not None:
            poll, self._poll = self._poll, None
            poll.close()
        self._reader.close()

    # -- losing it ---------------------------------------------------------------------------------------------------------

    def _lost(self, lost: JournalLost) -> None:
        """A batch could not be written; its callers have been told."""
        if not isinstance(lost.__cause__, _SURVIVED):
            self._fatal(lost)
            return
        self._fall(lost.__cause__)
        self._wake.set()

    def _fall(self, error: EnjinError) -> None:
        if self._deciding is not None:
            self._fallen, self._deciding = self._deciding, None
            self._say(str(error))

    async def _fall_back(self) -> None:
        """Drop the World that ran ahead, and take the one that the local projection holds."""
        fallen, self._fallen = self._fallen, None
        if fallen is None:
            return
        await fallen._sequencer.close()
        time, why = fallen.now(), self.reason
        self._look_on(await self._aside(lambda: Bystander.from_projection(fallen._store, self._parts, time, why)))
        self._read_no_more(self._sequencer)
        await self._aside(fallen._store.close)

    def _say(self, reason: str) -> None:
        if self._bystander is not None:
            self._bystander.why = reason
        if reason != self.reason:
            self.reason = reason
            _log.warning("journal.away", reason=reason)

    async def _aside(self, work: Callable[[], T], discard: Callable[[T], None] | None = None) -> T:
        """Run *work*, which blocks, in the keeper's thread; what nobody waits for any more goes to *discard*."""
        future = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if discard is not None:
                future.add_done_callback(lambda done: discard(done.result()) if not done.cancelled() and done.exception() is None else None)
            raise

    async def close(self) -> None:
        """Answer what waits, then let another daemon decide; to be called after ``attend`` has ended."""
        self._threads.shutdown()
        if self._fallen is not None:
            await self._fallen.close()
        await self._sequencer.close()
        self._stop_reading()
        if self._deciding is not None:
            self._deciding._store.close()


def _discard(journal: Journal) -> None:
    journal._reader.close()
    journal._store.close()


"""The one decider: wishes in, one commit per sync out.

Owns the queue, the order of decisions and who is answered when. On the event loop it decides one wish after the other
on the speculative World; in the writer's thread the batch is signed and written; then, and only then, callers are
answered and followers told. Whatever queues during a write is the next batch (no timer).

INV-SEQ-1: nobody is answered before the transaction with the entry is on disk.
INV-SEQ-2: a batch that cannot be written ends the process and is never tried again: World is ahead of the disk, and
what reached the disk is unknown until the file is read again.
INV-SEQ-3: one request id has one effect: repeated, it gets the stored reply; for another wish it is a conflict; outside
the window that the journal remembers it is refused.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Final

from bus.journal.deciding import REMEMBERED_US, Decider, Outcome, Wish, first_request
from bus.journal.entry import Stretch, sign_commit
from bus.journal.errors import DiskFull, JournalClosed, JournalLost, Overloaded
from bus.journal.reader import Reader
from bus.journal.remembered import Remembered
from bus.journal.reserve import Reserve
from bus.journal.store import Batch, Projection, Store
from bus.messages import Role
from enjin.errors import EnjinError
from enjin.failpoints import failpoint
from enjin.log import get

QUEUE_MAX: Final = 1_024
BATCH_MAX: Final = 128
BATCH_BYTES_MAX: Final = 262_144
PRUNE_EVERY_US: Final = 10 * 1_000_000

_log: Final = get("journal.sequencer")

Fatal = Callable[[JournalLost], None]
OnCommit = Callable[[Stretch], None]


class _Waiting:
    """A wish and whoever waits for its outcome."""

    __slots__ = ("future", "wish")

    def __init__(self, wish: Wish, future: asyncio.Future[Outcome]) -> None:
        self.wish, self.future = wish, future


class Sequencer:
    """Puts wishes in one order, decides them and commits them; made and used in one event loop's thread."""

    def __init__(
        self,
        decider: Decider,
        store: Store,
        reader: Reader,
        projection: Projection | None,
        fatal: Fatal,
        queue_max: int = QUEUE_MAX,
        reserve: Reserve | None = None,
    ) -> None:
        self.head = decider.head
        self._decider, self._store, self._projection = decider, store, projection
        self._remembered = Remembered(reader)
        self._fatal, self._queue_max, self._reserve = fatal, queue_max, reserve
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._pump: asyncio.Task[None] | None = None
        self._pruned = 0
        self._end: EnjinError | None = None
        self._lost: EnjinError | None = None
        self._in_flight = False
        self._settling: list[asyncio.Future[None]] = []
        self._listeners: list[OnCommit] = []

    def on_commit(self, callback: OnCommit) -> None:
        """Call *callback* with every commit's stretch, in order, on the event loop; it must not block."""
        self._listeners.append(callback)

    async def decide(self, wish: Wish) -> Outcome:
        """Decide *wish* in its turn and return after its entry is on disk.

        Raises:
            DiskFull, Overloaded, JournalClosed, JournalLost, RequestReused, RequestTooOld, RequestFromFuture, EntryTooLarge, and
            whatever the decision refuses with.
        """
        if self._end is not None:
            raise self._end
        urgent = wish.rule.urgent or wish.rule.allow is Role.SUPERVISOR
        if self._reserve is not None and self._reserve.full() and not urgent:
            raise DiskFull(f"the disk is full, and {wish.cause.kind} is not urgent")
        if len(self._queue) >= self._queue_max:
            raise Overloaded(f"{len(self._queue)} wishes are waiting")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(wish, loop.create_future())
        self._queue.append(waiting)
        if self._pump is None or self._pump.done():
            self._pump = loop.create_task(self._work(), name="journal")
        return await waiting.future

    async def settled(self) -> None:
        """Return when everything in World is on disk: to be awaited before acting on what World says.

        Whoever awaits it directly goes on before the next wish is decided, however many wait.

        Raises:
            JournalLost: It will never be.
        """
        if self._lost is not None:
            raise self._lost
        if not self._in_flight:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._settling.append(waiter)
        await waiter

    async def close(self) -> None:
        """Take no more wishes; return when those that wait are answered."""
        if self._end is None:
            self._end = JournalClosed("the journal is closed")
        while (pump := self._pump) is not None and not pump.done():
            await asyncio.wait([pump])

    async def _work(self) -> None:
        while self._queue:
            taken = self._take()
            batch = Batch(self._decider.head)
            try:
                answers = self._decide(taken, batch)
                if batch.rows or batch.requests:
                    self._in_flight = True
                    await self._store.run(lambda batch=batch: self._write(batch))  # type: ignore[misc]
            except asyncio.CancelledError:
                self._lose(JournalClosed("the journal was ended in the middle of a commit"), taken)
                raise
            except Exception as error:
                lost = JournalLost(f"the commit after entry {self.head.number} failed: {error}", number=self.head.number)
                lost.__cause__ = error
                self._lose(lost, taken)
                self._fatal(lost)
                return
            failpoint("journal.answer")
            self._in_flight = False
            self.head = batch.head
            for waiting, outcome in answers:
                if not waiting.future.done():
                    waiting.future.set_result(outcome)
            self._tell(batch)
            if self._settling:
                self._settle()
                await asyncio.sleep(0)  # they run before the next decision makes World run ahead again

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        while self._queue and len(taken) < BATCH_MAX:
            waiting = self._queue.popleft()
            if not waiting.future.done():  # else its caller has gone, and nothing is decided for it
                taken.append(waiting)
        return taken

    def _decide(self, taken: list[_Waiting], batch: Batch) -> list[tuple[_Waiting, Outcome]]:
        known = self._remembered.rows(waiting.wish.cause.request for waiting in taken)
        answers: list[tuple[_Waiting, Outcome]] = []
        size = 0
        for at, waiting in enumerate(taken):
            if size > BATCH_BYTES_MAX:
                self._queue.extendleft(reversed(taken[at:]))
                break
            rows = len(batch.rows)
            try:
                outcome = self._decider.decide(waiting.wish, known, batch)
            except EnjinError as error:
                waiting.future.set_exception(error)
                continue
            answers.append((waiting, outcome))
            size += len(outcome.reply) + sum(len(row.entry.data) for row in batch.rows[rows:])
        if batch.rows:
            batch.changes = self._decider.world.take_changes()
        time = self._decider.time
        if batch.requests and time - self._pruned > PRUNE_EVERY_US:
            # By the last entry's time, not the clock's: whatever the clock does, what is forgotten is refused from then on.
            self._pruned = time
            batch.forget_before = first_request(time - REMEMBERED_US)
            self._remembered.forget(batch.forget_before)
        self._remembered.add(batch.requests)
        return answers

    def _write(self, batch: Batch) -> None:
        if batch.rows:
            batch.commit = sign_commit(self._decider.identity, batch.head)
        if self._projection is None:
            self._store.write(batch)
        else:
            self._store.write_with(self._projection, batch)

    def _lose(self, error: EnjinError, taken: list[_Waiting]) -> None:
        self._end = self._lost = error
        for waiting in (*taken, *self._queue):
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._queue.clear()
        self._settle(error)

    def _settle(self, error: EnjinError | None = None) -> None:
        waiters, self._settling = self._settling, []
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def _tell(self, batch: Batch) -> None:
        if batch.commit is None:
            return
        stretch = Stretch(entries=[row.entry.data for row in batch.rows], commit=batch.commit)
        for listener in self._listeners:
            try:
                listener(stretch)
            except Exception as error:  # a listener's fault is not the journal's
                _log.error("listener.failed", error=error, number=batch.commit.number)

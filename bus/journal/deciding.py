"""One decision: from a wish and the speculative World to an entry, its effect on World and the reply.

Owns the checks of the request id, the making of entries and replies. Does no I/O: what it decides is only true after
the sequencer has it on disk. Imports the ground, keys and the rest of the journal.

INV-DEC-1: a wish that is refused, or whose decision fails, leaves World and head as they were.
INV-DEC-2: what is applied to World are the facts as they stand in the entry's bytes, so a replay gives the same World.
INV-DEC-3: an entry's time is max(previous + 1 microsecond, cloud time).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from bus.journal.entry import ENTRY_MAX_BYTES, FACTS_MAX, Cause, Entry, Head, JournalIdentity, StoredEntry, entry_hash
from bus.journal.errors import EntryTooLarge, RequestFromFuture, RequestReused, RequestTooOld
from bus.journal.reader import KnownRequest
from bus.journal.replay import Facts
from bus.journal.snapshot import SNAPSHOT_EVERY, seal_snapshot
from bus.journal.store import Batch, Row
from bus.messages import Command, Fact, Moment, Reply, Rule, canonical
from enjin.errors import EnjinError, InvariantError
from enjin.log import get
from enjin.names import RequestId

REPLY_MAX_BYTES: Final = 61_440
REMEMBERED_US: Final = 24 * 3600 * 1_000_000
FUTURE_US: Final = 300 * 1_000_000

_log: Final = get("journal.deciding")

MomentOf = Callable[[int], Moment]


class Outcome(NamedTuple):
    """What became of a wish: the entry that holds it (or the head, when nothing had to change) and the reply's bytes."""

    number: int
    hash: str
    reply: bytes
    repeated: bool


class Wish(NamedTuple):
    """A command with its cause and its row of the closed table; ``moment_of`` makes its moment from the entry's time."""

    cause: Cause
    rule: Rule
    command: Command
    moment_of: MomentOf


class WorldBroken(Exception):
    """Facts were partly applied: World cannot be trusted any more and the process has to end."""


def first_request(time: int) -> str:
    """Return the lowest request id that can have been made at *time* (microseconds) or later."""
    text = f"{max(0, time) // 1000:012x}"
    return f"{text[:8]}-{text[8:]}"


class Decider:
    """The speculative end of one journal: World, head and time as they will be when everything decided is on disk."""

    def __init__(
        self,
        identity: JournalIdentity,
        world: Any,
        facts: Facts,
        head: Head,
        time: int,
        now_us: Callable[[], int],
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self.identity, self.world, self.head, self.time = identity, world, head, time
        self._facts, self._now_us, self._snapshot_every = facts, now_us, snapshot_every

    def now(self) -> int:
        """Return cloud time in microseconds; never before the last entry."""
        return max(self.time, self._now_us())

    def decide(self, wish: Wish, known: Mapping[str, KnownRequest], batch: Batch) -> Outcome:
        """Decide *wish*, apply its facts to World and add its entry to *batch*.

        Args:
            wish: The wish.
            known: Request ids that are on disk.
            batch: What is written next; its own requests count as known.

        Raises:
            EnjinError: The wish is refused and nothing has changed.
            WorldBroken: A fact could not be applied.
        """
        now = self.now()
        if (earlier := self._repeat(wish.cause, known, batch, now)) is not None:
            return earlier
        # The moment first: it may refuse, and then nothing has been asked of the rule.
        moment = wish.moment_of(max(self.time + 1, now))
        raws, facts = self._facts_of(wish, moment)
        if raws:
            self._append(wish.cause, moment.time, raws, facts, batch)
        reply = self._reply(wish, moment)
        outcome = Outcome(self.head.number, self.head.hash, reply, False)
        cause = wish.cause
        batch.requests[cause.request] = KnownRequest(
            cause.request, cause.asker, cause.kind, cause.body, outcome.number, outcome.hash, reply
        )
        return outcome

    def _repeat(self, cause: Cause, known: Mapping[str, KnownRequest], batch: Batch, now: int) -> Outcome | None:
        made = RequestId.parse(cause.request).time_ms * 1000
        if made < now - REMEMBERED_US:
            raise RequestTooOld("the request id is older than 24 hours", request=cause.request)
        if made > now + FUTURE_US:
            raise RequestFromFuture("the request id was made in the future of cloud time", request=cause.request)
        earlier = known.get(cause.request) or batch.requests.get(cause.request)
        if earlier is None:
            return None
        if (earlier.asker, earlier.kind, earlier.body) != (cause.asker, cause.kind, cause.body):
            raise RequestReused("this request id was used for another wish", request=cause.request)
        return Outcome(earlier.number, earlier.hash, earlier.reply, True)

    def _facts_of(self, wish: Wish, moment: Moment) -> tuple[list[msgspec.Raw], list[Fact]]:
        try:
            decided = list(itertools.islice(wish.rule.decide(wish.command, self.world, moment), FACTS_MAX + 1))
            if len(decided) > FACTS_MAX:
                raise EntryTooLarge(f"the wish would make more than {FACTS_MAX} facts")
            raws = [self._facts.encode(fact) for fact in decided]
            return raws, [self._facts.decode(raw, self.head.number + 1) for raw in raws]
        except EnjinError:
            raise
        except Exception as error:  # a defect of one rule answers one caller; World is as it was
            _log.error("decision.failed", kind=wish.cause.kind, request=wish.cause.request, error=error)
            raise InvariantError(f"the rule of {wish.cause.kind} failed: {type(error).__name__}") from error

    def _append(self, cause: Cause, time: int, raws: list[msgspec.Raw], facts: list[Fact], batch: Batch) -> None:
        number = self.head.number + 1
        entry = Entry(number=number, previous=self.head.hash, epoch=self.identity.epoch, time=time, cause=cause, facts=raws)
        data = canonical(entry)
        if len(data) > ENTRY_MAX_BYTES:
            raise EntryTooLarge(f"the entry would have {len(data)} bytes, {ENTRY_MAX_BYTES} are allowed")
        if time <= self.time:
            raise InvariantError(f"entry {number} would not be later than entry {number - 1}")
        stored = StoredEntry(number, entry_hash(data), data)
        head = Head(number, stored.hash)
        try:
            for fact in facts:
                fact.apply(self.world)
            if number % self._snapshot_every == 0:
                batch.snapshots.append(seal_snapshot(self.identity, head, self.world.digest(), self.world.snapshot()))
        except Exception as error:
            raise WorldBroken(f"entry {number} could not be applied: {type(error).__name__}: {error}") from error
        self.head, self.time = head, time
        batch.rows.append(Row(stored, time, cause.asker, cause.kind))

    def _reply(self, wish: Wish, moment: Moment) -> bytes:
        result, message = msgspec.Raw(b"null"), ""
        if wish.rule.result is not None:
            # The facts stand whatever becomes of the result: a reply that cannot be told is told without it.
            try:
                told = canonical(wish.rule.result(wish.command, self.world, moment))
                if len(told) <= REPLY_MAX_BYTES:
                    result = msgspec.Raw(told)
                else:
                    message = "done; the result is too long for a reply, ask for it"
            except Exception as error:
                _log.error("result.failed", kind=wish.cause.kind, request=wish.cause.request, error=error)
                message = "done; the result could not be told, ask for it"
        return canonical(Reply(ok=True, result=result, message=message, number=self.head.number))

"""The asking half: seal a wish or a question, publish it, wait for the answer that verifies.

Owns the waiting and the repeating: the same request id with a fresh seal, with backoff, until the deadline; whoever
decides answers a repeated command with its stored reply. Learns the offset to cloud time from a verified answer.

INV-CAL-1: an answer is believed only when its signer is the responder we asked (or one to whom the root gave the same domain to
decide in, which it may have forwarded to), its audience is us, and its ``re`` is the hash of a frame that we sent for this request.
INV-CAL-2: what we repeat has the same request id and the same body, so it takes effect once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from bus.batches import SUBJECT as BATCH
from bus.batches import one_by_one
from bus.envelope import Behalf, open_frame
from bus.messages import Command, Query, Reply
from bus.opening import Opened, Opening
from bus.replay import ReplayGuard
from bus.speaker import Speaker, reply_subject
from bus.stages import NotFresh, NotStrict, StageRefused, WrongAudience, WrongSubject
from bus.transport import Transport, TransportFull, matches
from enjin.canonical import Malformed, NotCanonical, parse
from enjin.errors import Unreachable
from enjin.failpoints import failpoint
from enjin.host import monotonic_s, random_bytes, request_id
from enjin.log import get
from keys.term import OUTSIDE
from keys.trust import TrustSet

COMMAND_DEADLINE_S: Final = 30.0
QUERY_DEADLINE_S: Final = 10.0
FIRST_WAIT_S: Final = 1.0
WAIT_MAX_S: Final = 8.0
WORDS: Final = frozenset({"reply", "seen"})

Follower = Callable[[Opened], Awaitable[None] | None]


class _Request:
    """One request under way: the hashes of what was sent for it, of which *latest* is the last, and the answer when it came."""

    def __init__(self, rid: str, heard: Callable[[Reply], None] | None = None) -> None:
        self.rid = rid
        self.heard = heard
        self.subject = reply_subject(rid)
        self.digests: set[str] = set()
        self.latest = ""
        self.answer: asyncio.Future[tuple[Reply, int]] = asyncio.get_running_loop().create_future()


class Caller:
    """Asks one responder over one transport.

    Args:
        transport: Where to publish and to hear the answers.
        speaker: Who we are.
        trust: What we believe.
        responder: The subject id that must have signed the answers.
        audience: Whom the requests are for: the responder, or its domain; the responder when empty.
        ring: The ring of the channel, for the log.
        home: The domain that we stand in or beneath, or ask as its client (``keys.term``); ``OUTSIDE``: we are the ring above it.
    """

    def __init__(
        self,
        transport: Transport,
        speaker: Speaker,
        trust: TrustSet,
        *,
        responder: str,
        audience: str = "",
        ring: int = 0,
        home: str = OUTSIDE,
    ) -> None:
        self.transport = transport
        self.speaker = speaker
        self.trust = trust
        self.responder = responder
        self.audience = audience or responder
        self.home = home
        self.counters: collections.Counter[str] = collections.Counter()
        self._waiting: dict[str, list[_Request]] = {}
        self._hearing: dict[str, Callable[[Opened], None]] = {}
        self._started = False
        self._log = get("bus.caller").bind(ring=ring)
        self._opening = Opening(
            trust=trust,
            channel=speaker.channel,
            # Answers are for us, observations for the domain whose channel it is: ``ring1.<domain>``, or ``ring0``.
            audiences=frozenset({speaker.issuer, speaker.channel.rpartition(".")[2]}),
            words=WORDS,
            clock=speaker.now,
            guard=ReplayGuard(0),
            home=home,
        )

    async def start(self) -> None:
        """Begin to hear answers; ``command`` and ``query`` do it by themselves."""
        if not self._started:
            self._started = True
            await self.transport.subscribe("reply", self._hear)

    async def command(
        self,
        wish: Command,
        *,
        reason: str = "",
        rid: str = "",
        deadline_s: float = COMMAND_DEADLINE_S,
        behalf: Behalf | None = None,
        heard: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Ask for *wish* and return the verified answer, refusals included.

        Args:
            reason: Why, for the journal.
            rid: The request's id and idempotency key; a fresh one when empty.
            deadline_s: How long to go on asking.
            behalf: For whom we, being a door, ask.
            heard: Called with the verified answer the moment it is heard, before anything is handled that came after it on a
                transport that keeps the order; our caller wakes up later than that.

        Raises:
            Unreachable: No verified answer until the deadline; whether it took effect is open: ask again with *rid*.
        """
        return await self._ask("command." + wish.KIND, wish, reason, rid, deadline_s, behalf, heard)

    async def query(self, query: Query, *, deadline_s: float = QUERY_DEADLINE_S, behalf: Behalf | None = None) -> Reply:
        """Ask *query* and return the verified answer. Raises: Unreachable."""
        return await self._ask("query." + query.KIND, query, "", "", deadline_s, behalf)

    async def follow(self, prefix: str, follower: Follower) -> None:
        """Call *follower* with every verified observation under *prefix* (``seen.instance``), alone or out of a batch, each once."""

        def take(subject: str, frame: bytes) -> Awaitable[None] | None:
            try:
                opened = self._opening.verify(frame, channel=self.speaker.channel, subject=subject)
                self._opening.reserve(opened)
                said = _each(opened)
            except StageRefused as error:
                self._refused(error, subject)
                return None
            waiting = [result for one in said if matches(prefix, one.statement.kind) and (result := follower(one)) is not None]
            return _in_turn(waiting) if waiting else None

        await self.transport.subscribe(prefix, take)
        if not matches(prefix, BATCH):  # what is followed may come in a batch
            await self.transport.subscribe(BATCH, take)

    @contextlib.contextmanager
    def hearing(self, subject: str, take: Callable[[Opened], None]) -> Iterator[None]:
        """Give *take* every verified answer for us under *subject*, whoever signed it; what it refuses is counted as refused."""
        self._hearing[subject] = take
        try:
            yield
        finally:
            del self._hearing[subject]

    async def _ask(
        self,
        subject: str,
        body: Command | Query,
        reason: str,
        rid: str,
        deadline_s: float,
        behalf: Behalf | None,
        heard: Callable[[Reply], None] | None = None,
    ) -> Reply:
        await self.start()
        request = _Request(rid or str(request_id(self.speaker.now())), heard)
        self._waiting.setdefault(request.subject, []).append(request)
        deadline = monotonic_s() + deadline_s
        wait_s = FIRST_WAIT_S
        shifted = False
        try:
            while (left := deadline - monotonic_s()) > 0:
                sent_at = self.speaker.now()
                frame = self.speaker.seal(subject, body, audience=self.audience, rid=request.rid, reason=reason, behalf=behalf)
                request.latest = open_frame(frame).digest
                request.digests.add(request.latest)
                try:
                    failpoint("request.send")
                    await self.transport.publish(subject, frame)
                    async with asyncio.timeout(min(left, wait_s * _jitter())):
                        reply, time = await asyncio.shield(request.answer)
                except (TimeoutError, TransportFull):
                    self.counters["repeated"] += 1
                    wait_s = min(wait_s * 2, WAIT_MAX_S)
                    continue
                if reply.code != NotFresh.code or shifted:
                    return reply
                shifted = True
                if not self.speaker.boot:
                    # A person's clock and cloud time differ: the verified refusal tells by how much. A daemon's is cloud time as the
                    # ring above has it, whatever one that was just started again says of what was signed before.
                    self.speaker.offset_us += time - sent_at
                request.answer = asyncio.get_running_loop().create_future()
            raise Unreachable(f"no answer to {subject} within {deadline_s:g} s", request=request.rid)
        finally:
            self._forget(request)

    def _forget(self, request: _Request) -> None:
        waiting = self._waiting[request.subject]
        waiting.remove(request)
        if not waiting:
            del self._waiting[request.subject]
        request.answer.cancel()

    def _hear(self, subject: str, frame: bytes) -> None:
        """Take an answer, if one of our requests waits under *subject*."""
        take = self._hearing.get(subject, self._match if subject in self._waiting else None)
        if take is None:
            return
        try:
            opened = self._opening.verify(frame, channel=self.speaker.channel, subject=subject)
            take(opened)
        except StageRefused as error:
            self._refused(error, subject)
        except (Malformed, NotCanonical) as error:
            self.counters["canonical"] += 1
            self._log.warning("reply.refused", stage="canonical", code=error.code, subject=subject)

    def _match(self, opened: Opened) -> None:
        """Give the answer to the request that it names. It is fresh because our request was."""
        statement = opened.statement
        if statement.iss != self.responder and statement.iss not in self.trust.beside(self.responder):
            raise WrongAudience("the answer comes from somebody we did not ask")
        for request in self._waiting[statement.kind]:
            if request.rid == statement.rid and statement.re in request.digests:
                reply = parse(statement.body, Reply)
                # What waited while the receiver was away is too old for it; the frame that was sent last is answered by itself.
                if not request.answer.done() and (reply.code != NotFresh.code or statement.re == request.latest):
                    request.answer.set_result((reply, statement.time))
                    if request.heard is not None:
                        request.heard(reply)
                return
        raise WrongSubject("the answer names a request that we did not send")

    def _refused(self, error: StageRefused, subject: str) -> None:
        self.counters[error.stage] += 1
        self._log.warning("reply.refused", stage=error.stage, code=error.code, subject=subject)


def _each(opened: Opened) -> list[Opened]:
    """Return what *opened* says, record by record. Raises: NotStrict."""
    try:
        return list(one_by_one(opened))
    except (Malformed, NotCanonical) as error:
        raise NotStrict(error.message) from error


async def _in_turn(waiting: list[Awaitable[None]]) -> None:
    for result in waiting:
        await result


def _jitter() -> float:
    """Return a factor from 0.75 to 1.25, so that callers do not repeat in step."""
    return 0.75 + random_bytes(1)[0] / 510

"""Between daemons that share a journal: a command goes, as it was signed, to the one that decides, and its signed answer back.

Owns the way there and the waiting. Adds no authority: the decider takes the very frame through every stage itself, and whoever
asked verifies the very frame that the decider signed. Knows no journal.

INV-FWD-1: neither the request nor the answer is changed, parsed anew or signed by whoever passes it on.
INV-FWD-2: what was forwarded is not forwarded again.
INV-FWD-3: only an answer that the decider signed, to the very frame that was forwarded, is passed back.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Final, NamedTuple

from bus.handling import Answered
from bus.messages import Reply
from bus.opening import Opened, Opening
from bus.replay import ReplayGuard
from bus.speaker import reply_subject
from bus.stages import StageRefused, WrongAudience
from bus.transport import Transport
from enjin.canonical import Malformed, NotCanonical, parse
from enjin.errors import EnjinError, StepFailed
from enjin.failpoints import failpoint
from enjin.log import get
from keys.trust import TrustSet

WORD: Final = "forward"  # first word of the subject under which a command goes on: forward.<the decider's id>
WAIT_S: Final = 5.0

_log: Final = get("bus.forwarding")


class DeciderSilent(StepFailed):
    """Another daemon decides, and it did not answer what was forwarded to it."""

    code = "E-FWD-001"
    http_status = 504
    remedy = "send the same request again: it takes effect once; when that daemon has gone, this one decides within seconds"


class _Request(NamedTuple):
    """A request that was forwarded: to whom, its digest, and its answer when that came."""

    decider: str
    digest: str
    answer: asyncio.Future[Answered]


class Forwarding:
    """One daemon's way to whoever decides.

    Args:
        trust: What it believes.
        channel: The channel of the domain that they share.
        clock: Cloud time in microseconds.
    """

    def __init__(self, trust: TrustSet, channel: str, clock: Callable[[], int]) -> None:
        self.counters: collections.Counter[str] = collections.Counter()
        self._clock = clock
        self._waiting: dict[str, list[_Request]] = {}
        self._askers: dict[str, int] = {}
        self._opening = Opening(
            trust=trust, channel=channel, audiences=self._askers.keys(), words=frozenset({"reply"}), clock=clock, guard=ReplayGuard(0)
        )

    async def serve(self, transport: Transport) -> None:
        """Hear the answers on *transport*."""
        await transport.subscribe("reply", self._hear)

    async def forward(self, transport: Transport | None, opened: Opened, decider: str) -> Answered:
        """Send *opened* on to *decider* and return its answer.

        Args:
            transport: Where *decider* hears us; None: nowhere yet.
            opened: A command, for us and verified.
            decider: Subject id of the daemon that decides.

        Raises:
            DeciderSilent: No answer within ``WAIT_S``, or while the request lives; whether it took effect is open.
        """
        statement = opened.statement
        lives_s = (statement.time + statement.ttl_ms * 1_000 - self._clock()) / 1_000_000
        request = _Request(decider, opened.frame.digest, asyncio.get_running_loop().create_future())
        subject = reply_subject(statement.rid)
        self._waiting.setdefault(subject, []).append(request)
        self._askers[statement.iss] = self._askers.get(statement.iss, 0) + 1
        self.counters["forwarded"] += 1
        try:
            if transport is None:
                raise DeciderSilent(f"{decider} decides, and this daemon is not on the bus yet")
            async with asyncio.timeout(max(0.0, min(WAIT_S, lives_s))):
                failpoint("forward.send")
                await transport.publish(f"{WORD}.{decider}", opened.data)
                return await request.answer
        except TimeoutError as error:
            self.counters["silent"] += 1
            raise DeciderSilent(f"{decider} decides, and has not answered", holder=decider, request=statement.rid) from error
        except EnjinError as error:
            if isinstance(error, DeciderSilent):
                raise
            raise DeciderSilent(f"{decider} decides, and cannot be reached: {error.message}", holder=decider) from error
        finally:
            self._forget(subject, request, statement.iss)

    def _forget(self, subject: str, request: _Request, asker: str) -> None:
        self._waiting[subject].remove(request)
        if not self._waiting[subject]:
            del self._waiting[subject]
        self._askers[asker] -= 1
        if not self._askers[asker]:
            del self._askers[asker]
        request.answer.cancel()

    def _hear(self, subject: str, frame: bytes) -> None:
        """Take an answer, if one of our requests waits under *subject*."""
        if subject not in self._waiting:
            return
        try:
            opened = self._opening.verify(frame, channel=self._opening.channel, subject=subject)
            statement = opened.statement
            for request in self._waiting[subject]:
                if request.digest == statement.re and not request.answer.done():
                    if statement.iss != request.decider:
                        raise WrongAudience("the answer comes from somebody who does not decide")
                    request.answer.set_result(Answered(subject, frame, parse(statement.body, Reply), statement.rid))
        except (StageRefused, Malformed, NotCanonical) as error:
            self.counters["refused"] += 1
            _log.warning("reply.refused", stage="forward", code=error.code, subject=subject)

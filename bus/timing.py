"""Cloud time by nonce: a node asks the ring above what time it is, and believes the signed answer that carries its nonce.

Owns the two observations ``trust.asked`` and ``trust.told`` and both ends of the exchange. It is the one exchange that freshness
cannot guard, since the clocks are what is in question: the nonce does. What is believed of the answer is ``bus.clock``'s matter.

INV-TIM-1: an answer counts once, for the question whose nonce and digest it names, and from the ring above alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bus.clock import CloudClock
from bus.envelope import open_frame
from bus.messages import Observation
from bus.opening import Opening
from bus.replay import ReplayGuard
from bus.speaker import Speaker
from bus.stages import WrongAudience, WrongSubject
from bus.transport import Transport
from enjin.canonical import parse
from enjin.errors import EnjinError, Refused
from enjin.failpoints import failpoint
from enjin.host import random_bytes
from enjin.log import get
from keys.trust import TrustSet

EVERY_S: Final = 10.0
ANSWER_S: Final = 2.0
_WORDS: Final = frozenset({"seen"})


class TimeAsked(Observation, kind="trust.asked"):
    """What time is it? *nonce* is fresh: 32 hex digits."""

    nonce: str


class TimeTold(Observation, kind="trust.told"):
    """It is *time* (microseconds of cloud time), in answer to the question with *nonce*."""

    nonce: str
    time: int


class TimeTeller:
    """The ring above's end: answers whoever asks on a node's channel.

    Args:
        transport, speaker, trust: Ours on that channel.
        node: The node that may ask.
        now: Our cloud time.
    """

    def __init__(self, transport: Transport, speaker: Speaker, trust: TrustSet, node: str, now: Callable[[], int]) -> None:
        self.transport = transport  # another one after a move to another bus, whoever moves has us hear it there too
        self._speaker, self._node, self._now = speaker, node, now
        self._opening = _opening(trust, speaker, now)
        self._log = get("timing")

    async def start(self) -> None:
        """Answer from now on."""
        await self.transport.subscribe(f"seen.{TimeAsked.KIND}", self._answer)

    async def _answer(self, subject: str, frame: bytes) -> None:
        try:
            opened = self._opening.verify(frame, channel=self._speaker.channel, subject=subject)
            if opened.statement.iss != self._node:
                raise WrongAudience("somebody else's question about the time")
            asked = parse(opened.statement.body, TimeAsked)
        except Refused as error:
            self._log.warning("time.not_told", error=error)
            return
        told = TimeTold(nonce=asked.nonce[:32], time=self._now())
        name = f"seen.{TimeTold.KIND}"
        sealed = self._speaker.seal(name, told, audience=self._node, re=opened.frame.digest)
        failpoint("time.send")
        await self.transport.publish(name, sealed)


class TimeAsker:
    """A node's end.

    Args:
        transport, speaker, trust: Ours on our own channel.
        parent: The node above us.
        clock: What is set by the answers.
    """

    def __init__(self, transport: Transport, speaker: Speaker, trust: TrustSet, parent: str, clock: CloudClock) -> None:
        self._transport, self._speaker, self._parent, self._clock = transport, speaker, parent, clock
        # Ours may be the clock that is wrong: the chain is looked at as of when it began, and then as of the time that was told.
        self._trust = trust
        self._opening = _opening(trust, speaker, self._begun)
        self._asked: dict[str, tuple[str, int, asyncio.Future[int]]] = {}
        self._started = False
        self._log = get("timing")

    async def ask(self, timeout_s: float = ANSWER_S) -> bool:
        """Ask once, and return whether an answer was believed within *timeout_s*."""
        if not self._started:
            self._started = True
            await self._transport.subscribe(f"seen.{TimeTold.KIND}", self._hear)
        nonce, name = random_bytes(16).hex(), f"seen.{TimeAsked.KIND}"
        # For the domain, as all that is seen: its own dispatcher hears it too, and would count it as refused otherwise.
        frame = self._speaker.seal(name, TimeAsked(nonce=nonce), audience=self._speaker.channel.rpartition(".")[2])
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked[nonce] = open_frame(frame).digest, self._clock.reading(), future
        try:
            failpoint("time.ask")
            await self._transport.publish(name, frame)
            async with asyncio.timeout(timeout_s):
                moved = await future
        except (TimeoutError, EnjinError):
            return False
        finally:
            self._asked.pop(nonce, None)
        if abs(moved) > 1_000_000:
            self._log.warning("time.moved", seconds=moved / 1e6)
        return True

    async def use(self, transport: Transport) -> None:
        """Ask over *transport* from now on, and hear the answers there too."""
        await transport.subscribe(f"seen.{TimeTold.KIND}", self._hear)
        self._transport = transport

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(EVERY_S)

    def _hear(self, subject: str, frame: bytes) -> None:
        """Take an answer to a question of ours, once."""
        try:
            opened = self._opening.verify(frame, channel=self._speaker.channel, subject=subject)
            if opened.statement.iss != self._parent:
                raise WrongAudience("only the ring that runs us says what time it is")
            told = parse(opened.statement.body, TimeTold)
            digest, asked_us, future = self._asked.get(told.nonce, ("", 0, None))
            if future is None or future.done() or opened.statement.re != digest:
                raise WrongSubject("the answer about the time names no question of ours")
            self._trust.authority(opened.statement.grant, told.time)
            future.set_result(self._clock.learn(told.time, asked_us))
        except Refused as error:
            self._log.warning("time.refused", error=error)

    def _begun(self) -> int:
        """Return when the grants of the ring above began, microseconds."""
        return max(grant.not_before for grant in self._trust.lineage(self._trust.grant_of(self._parent) or ""))


def _opening(trust: TrustSet, speaker: Speaker, now: Callable[[], int]) -> Opening:
    """Return the stages up to the grant; nothing is reserved, because a nonce guards what is said."""
    audiences = frozenset({speaker.issuer, speaker.channel.rpartition(".")[2]})
    return Opening(trust=trust, channel=speaker.channel, audiences=audiences, words=_WORDS, clock=now, guard=ReplayGuard(0))

"""Asking a group over the channels in which its members listen: one signed question per channel, and everybody's signed answer.

Owns the sending and the waiting; who answered is ``bus.asking``'s state. A broadcast may be lost, so the same request is
sealed anew and sent again, to those alone who are silent when they are few.

INV-FAN-1: an answer counts only when it is signed by whom its grant names, is for us, and its ``re`` is the hash of a
frame that we sent for this request (INV-CAL-1, for many).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from bus.asking import Collection, Taken
from bus.caller import Caller
from bus.groups import group
from bus.messages import Command, Query, Reply
from bus.opening import Opened
from bus.speaker import reply_subject
from bus.stages import NotFresh, WrongSubject
from bus.transport import TransportFull
from enjin.canonical import parse
from enjin.errors import Unreachable
from enjin.failpoints import failpoint
from enjin.host import monotonic_s, request_id
from keys.frame import open_frame

TIMEOUT_S: Final = 10.0
AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 8.0
CROWD: Final = 2000  # more than these are given more time: a question that all of them answer twice delays what it waits for
FEW: Final = 32

Progressed = Callable[[Collection], None]


class FanOut:
    """One question to a group.

    Args:
        callers: Our voice on each channel in which members listen; who they are is *expected*'s matter.
        audience: The group.
        expected: Who should answer: subject id -> what people call it.
        progressed: Called after each answer that counts.
        again_max_s: After how long a silence it asks again, at most; ``AGAIN_MAX_S`` when None.
    """

    def __init__(
        self,
        callers: Sequence[Caller],
        audience: str,
        expected: Mapping[str, str],
        progressed: Progressed = lambda _collection: None,
        *,
        again_max_s: float | None = None,
    ) -> None:
        self._callers = callers
        self._audience = audience
        self._expected = expected
        self._progressed = progressed
        self._again_max_s = AGAIN_MAX_S if again_max_s is None else again_max_s
        self._digests: dict[Caller, set[str]] = {caller: set() for caller in callers}
        self._done = asyncio.Event()
        self._heard_s = 0.0  # when the newest answer came
        self._stale: set[str] = set()  # what we sent before we knew cloud time

    async def ask(self, message: Command | Query, *, reason: str = "", timeout_s: float = TIMEOUT_S) -> Collection:
        """Ask for *message* and return the answers that came within *timeout_s*; silence is no error."""
        word = "command" if isinstance(message, Command) else "query"
        subject, rid = f"{word}.{message.KIND}", str(request_id(self._callers[0].speaker.now() if self._callers else 0))
        with contextlib.ExitStack() as hearing:
            for caller in self._callers:
                with contextlib.suppress(Unreachable):  # a channel without a hub is a silent one
                    await caller.start()
            collection = Collection(self._expected, monotonic_s())
            for caller in self._callers:
                hearing.enter_context(caller.hearing(reply_subject(rid), self._taker(caller, rid, collection)))
            if not self._expected:
                return collection
            deadline, wait_s = monotonic_s() + timeout_s, min(self._again_max_s, AGAIN_S * max(1, len(self._expected) / CROWD))
            while not collection.complete and (left := deadline - monotonic_s()) > 0:
                self._done.clear()
                for audience in self._audiences(collection):
                    for caller in self._callers:
                        await self._send(caller, subject, message, audience, rid, reason)
                await self._quiet(left, wait_s)
                wait_s = min(2 * wait_s, self._again_max_s)
        return collection

    async def _quiet(self, left_s: float, wait_s: float) -> None:
        """Return after *left_s*, when nobody has answered for *wait_s*, or when there is nothing to wait for.

        While answers come in, asking again would only make those repeat themselves whose answers are on their way.
        """
        began = monotonic_s()
        while not self._done.is_set() and (left := min(began + left_s, max(began, self._heard_s) + wait_s) - monotonic_s()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._done.wait()

    def _audiences(self, collection: Collection) -> list[str]:
        """Return whom to ask now: the group, or those few of it who have not answered."""
        silent = collection.silent()
        if not collection.answers or len(silent) > FEW:
            return [self._audience]
        return [group("node", one) for one in silent]

    async def _send(self, caller: Caller, subject: str, message: Command | Query, audience: str, rid: str, reason: str) -> None:
        frame = caller.speaker.seal(subject, message, audience=audience, rid=rid, reason=reason)
        self._digests[caller].add(open_frame(frame).digest)
        with contextlib.suppress(TransportFull):
            failpoint("question.send")
            await caller.transport.publish(subject, frame)

    def _taker(self, caller: Caller, rid: str, collection: Collection) -> Callable[[Opened], None]:
        def take(opened: Opened) -> None:
            statement = opened.statement
            if statement.re in self._stale:
                return
            if statement.rid != rid or statement.re not in self._digests[caller]:
                raise WrongSubject("the answer names a request that we did not send")
            reply = parse(statement.body, Reply)
            if reply.code == NotFresh.code and not self._stale:
                # Our clock and cloud time differ: the verified refusal tells by how much.
                caller.speaker.offset_us += statement.time - caller.speaker.now()
                self._stale, self._digests[caller] = self._digests[caller], set()
                self._done.set()
            elif collection.take(statement.iss, reply, now_s := monotonic_s()) is Taken.NEW:
                self._heard_s = now_s
                self._progressed(collection)
                if collection.complete:
                    self._done.set()

        return take


def described(reply: msgspec.Raw) -> str:
    """Return a result as a line for people: ``key=value`` of an object, JSON of anything else."""
    value = msgspec.json.decode(reply)
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return bytes(reply).decode()

"""Going over from one bus to another while both are there, so that nothing said meanwhile is lost.

Owns speaking on two transports at once and taking what was subscribed on one over to another. When to go, and when the old
bus may end, its users decide. What reaches somebody twice is what replay guards and idempotency are for.

INV-MOV-1: ``take_over`` returns when the new transport hears all that the old one hears, and nothing was subscribed in between.
"""

from __future__ import annotations

import contextlib
from typing import Final, Protocol, TypeVar, runtime_checkable

from bus.caller import Caller
from bus.roll_call import Ping
from bus.transport import Handler, Transport
from enjin.errors import EnjinError
from enjin.failpoints import failpoint

ANSWER_S: Final = 2.0
LINGER_S: Final = 2.0  # how long who has gone over still hears the answers that were on their way
New = TypeVar("New", bound=Transport)


@runtime_checkable
class Hearing(Protocol):
    """A transport that knows what was subscribed on it."""

    @property
    def subscriptions(self) -> list[tuple[str, Handler]]:
        """What was subscribed so far: (prefix, handler), in order."""


async def take_over(old: Transport, new: Transport) -> None:
    """Subscribe on *new* all that is subscribed on *old*. Raises: what ``subscribe`` does."""
    done, heard = 0, old.subscriptions if isinstance(old, Hearing) else []
    while done < len(heard):
        prefix, handler = heard[done]
        await new.subscribe(prefix, handler)
        done += 1


async def go_over(caller: Caller, new: New) -> New:
    """Have *caller* speak and hear on *new*, where its responder answers, and return that; the old one is the asker's to close.

    Raises:
        Unreachable: Nobody answers there; *new* is closed and *caller* stays where it is.
    """
    try:
        trial = Caller(new, caller.speaker, caller.trust, responder=caller.responder, audience=caller.audience, home=caller.home)
        await trial.query(Ping(), deadline_s=ANSWER_S)
        await take_over(caller.transport, new)
    except BaseException:
        with contextlib.suppress(EnjinError, OSError):
            await new.close()
        raise
    caller.transport = new
    return new


class Both:
    """Speaks on two transports, hears on the newer one; for a decider between two buses.

    What it hears on the older one was subscribed there before.
    """

    def __init__(self, old: Transport, new: Transport) -> None:
        self.old, self.new = old, new
        self.frame_max_bytes = min(old.frame_max_bytes, new.frame_max_bytes)

    async def publish(self, subject: str, frame: bytes) -> None:
        """See ``Transport.publish``; fails only where neither takes it."""
        try:
            failpoint("move.new.send")
            await self.new.publish(subject, frame)
        except EnjinError:
            failpoint("move.only.send")
            await self.old.publish(subject, frame)
            return
        with contextlib.suppress(EnjinError):  # who still listens there goes over soon, and asks again what it missed
            failpoint("move.old.send")
            await self.old.publish(subject, frame)

    async def subscribe(self, prefix: str, handler: Handler) -> None:
        """See ``Transport.subscribe``."""
        await self.new.subscribe(prefix, handler)

    async def close(self) -> None:
        """Close both."""
        await self.old.close()
        await self.new.close()

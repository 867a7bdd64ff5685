"""Passing what is asked of a group to the agents, and their answers back to the bus: both as they were signed.

Owns which answers are on their way. Believes nothing in them: whoever asked verifies them. An agent has no network to the
bus, so it is reached over its pipe alone, and hears only what has passed every stage here.

INV-REL-1: an agent puts one answer on the bus per request that was passed on to it, signed with its own key, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bus.envelope import FRAME_MAX, BadFrame, open_frame
from bus.opening import Opened
from bus.speaker import reply_subject
from bus.transport import Transport
from enjin import log
from enjin.errors import EnjinError
from enjin.failpoints import failpoint
from enjin.host import monotonic_s
from keys.trust import TrustSet, UnknownKey

PASSING_MAX: Final = 1024
PASSING_S: Final = 60.0


class _Passing(NamedTuple):
    until_s: float
    waited_for: set[str]


class Relay:
    """What is on its way between one domain's bus and its agents.

    Args:
        trust: Whose keys are whose.
        bus: Returns the domain's transport; None while it has none.
    """

    def __init__(self, trust: TrustSet, bus: Callable[[], Transport | None]) -> None:
        self._trust, self._bus = trust, bus
        self._passing: OrderedDict[str, _Passing] = OrderedDict()
        self._log = log.get("relay")

    async def down(self, opened: Opened, pipes: Mapping[str, Transport]) -> None:
        """Pass *opened* on to every agent; each knows itself whether it is meant."""
        now_s = monotonic_s()
        while self._passing and (len(self._passing) >= PASSING_MAX or next(iter(self._passing.values())).until_s < now_s):
            self._passing.popitem(last=False)
        passing = _Passing(now_s + PASSING_S, set())
        self._passing[reply_subject(opened.statement.rid)] = passing
        for node, pipe in pipes.items():
            try:
                failpoint("group.down.send")
                await pipe.publish(opened.statement.kind, opened.data)
                passing.waited_for.add(node)
            except EnjinError as error:
                self._log.warning("question.lost", node=node, error=error)

    async def up(self, node: str, grant: str, subject: str, frame: bytes) -> None:
        """Put an answer of *node*, whose grant is *grant*, on the bus if one is waited for."""
        passing, bus = self._passing.get(subject), self._bus()
        if passing is None or node not in passing.waited_for or bus is None:
            return
        try:
            key = self._trust.grant(grant).keys.message
            if self._trust.key(open_frame(frame, FRAME_MAX).key_id).public.hex() != key:
                return
        except (BadFrame, UnknownKey):
            return
        passing.waited_for.discard(node)
        try:
            failpoint("group.up.send")
            await bus.publish(subject, frame)
        except EnjinError as error:
            self._log.warning("answer.lost", node=node, error=error)

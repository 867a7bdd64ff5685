"""Log lines on their way from an instance's init to ring 1.

Owns their shape and pace: a message at most each 100 ms and of bounded size. Lines are pulled by number, so nothing piles
up here; what flows over meanwhile is counted by init and said in the next message.
May import: enjin, supervision, ring2.command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from ring2.command import SERVICE
from supervision.init_link import InitLink
from supervision.instances import TEXT_MAX_CHARACTERS, Lines

PAUSE_S: Final = 0.1
BATCH_BYTES: Final = 50_000
LAST_WORDS_LINES: Final = 30
_END: Final = 1 << 52


class Tap:
    """The log of one instance: which lines of which init ring 1 has had."""

    def __init__(self, offset_us: Callable[[], int]) -> None:
        self._offset_us = offset_us
        self._source = self._sent = 0

    def attach(self, source: int) -> None:
        """Begin with an init that started at *source*; the numbers of another one mean nothing any more."""
        if source != self._source:
            self._source, self._sent = source, 0

    def lines(self, answer: dict[str, Any]) -> Lines:
        """Return init's *answer* with times of the cloud, cut to what a message holds."""
        offset, size = self._offset_us(), 0
        kept: list[tuple[int, int, str]] = []
        for number, at, text in answer["lines"]:
            size += len(msgspec.json.encode(text)) + 40
            if size > BATCH_BYTES and kept:
                break
            kept.append((number, at + offset, text))
        return Lines(source=self._source, lines=tuple(kept), lost=answer["lost"], dropped=answer["dropped"], last=answer["last"])

    async def read(self, link: InitLink, after: int) -> Lines:
        """Return the lines after number *after*. Raises: InitGone, InitUnknown."""
        return self.lines(await link.logs(SERVICE, after))

    async def ship(self, link: InitLink, send: Callable[[Lines], Awaitable[bool]]) -> None:
        """Send every new line, for ever; what *send* could not send is tried again. Raises: InitGone, InitUnknown."""
        while True:
            lines = self.lines(await link.logs(SERVICE, self._sent, follow=True))
            if lines.lines and await send(lines):
                self._sent = lines.lines[-1][0]
            await asyncio.sleep(PAUSE_S)


async def last_words(link: InitLink) -> str:
    """Return the end of what the process wrote. Raises: InitGone, InitUnknown."""
    last = (await link.logs(SERVICE, _END))["last"]
    lines = (await link.logs(SERVICE, max(0, last - LAST_WORDS_LINES)))["lines"]
    return "\n".join(text for _, _, text in lines)[-TEXT_MAX_CHARACTERS:]

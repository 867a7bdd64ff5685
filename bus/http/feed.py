"""What happens now, for whoever follows: observations and log lines, in order, to many bounded readers.

Owns the last events (so that a reader who lost its connection goes on where it was) and one bounded queue per reader.
A reader that lags loses the oldest and is told how many; nobody waits for it.

INV-FEED-1: a reader gets only what lies within its own compartment.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from bus.http.problems import TooManyFollowers
from bus.transport import matches
from keys.grants import within_path

KEPT: Final = 1000
WAITING_MAX: Final = 1000
FOLLOWERS_MAX: Final = 128


class Event(NamedTuple):
    """One thing that happened: a number that rises, its subject, the path of the compartment it belongs to, its JSON."""

    number: int
    subject: str
    path: str
    data: bytes


class _Reader:
    def __init__(self, prefix: str, bound: str) -> None:
        self.prefix, self.bound = prefix, bound
        self.waiting: collections.deque[Event] = collections.deque()
        self.lost = 0
        self.bell = asyncio.Event()

    def wants(self, event: Event) -> bool:
        return matches(self.prefix, event.subject) and within_path(event.path, self.bound)

    def give(self, event: Event) -> None:
        if len(self.waiting) >= WAITING_MAX:
            self.waiting.popleft()
            self.lost += 1
        self.waiting.append(event)
        self.bell.set()


class Feed:
    """The events of one daemon."""

    def __init__(self) -> None:
        self._kept: collections.deque[Event] = collections.deque(maxlen=KEPT)
        self._readers: set[_Reader] = set()
        self._number = 0
        self._closed = False

    def tell(self, subject: str, path: str, data: bytes) -> None:
        """Tell the readers that *data* (JSON on one line) happened in compartment *path*."""
        self._number += 1
        event = Event(self._number, subject, path, data)
        self._kept.append(event)
        for reader in self._readers:
            if reader.wants(event):
                reader.give(event)

    def close(self) -> None:
        """End every reader."""
        self._closed = True
        for reader in self._readers:
            reader.bell.set()

    def check_room(self) -> None:
        """Raise TooManyFollowers when there is no room for one more reader."""
        if len(self._readers) >= FOLLOWERS_MAX:
            raise TooManyFollowers(f"{FOLLOWERS_MAX} streams are open")

    async def follow(self, prefix: str, bound: str, after: int = -1, pause_s: float = 1.0) -> AsyncIterator[list[Event] | int]:
        """Yield what happens under *prefix* within compartment path *bound*: lists of events, or how many were lost.

        An empty list comes when nothing happened for *pause_s*. With *after*, what is still kept and numbered above it
        comes first.
        """
        reader = _Reader(prefix, bound)
        if after >= 0:
            for event in self._kept:
                if event.number > after and reader.wants(event):
                    reader.give(event)
        self._readers.add(reader)
        try:
            while not self._closed:
                if not reader.waiting:
                    try:
                        async with asyncio.timeout(pause_s):
                            await reader.bell.wait()
                    except TimeoutError:
                        yield []
                        continue
                reader.bell.clear()
                if reader.lost:
                    lost, reader.lost = reader.lost, 0
                    yield lost
                events = list(reader.waiting)
                reader.waiting.clear()
                if events:
                    yield events
        finally:
            self._readers.discard(reader)

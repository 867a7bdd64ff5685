"""The last lines that a service wrote, bounded in memory and in rate.

Owns splitting into lines, the token buckets and the ring. A flood is dropped, counted, and said in the log itself; a
reader names the last line number it has and pulls what follows, so a slow one costs nothing.
May import: init's wire.
"""

import time
from _collections import deque  # type: ignore[import-not-found]

from supervision.init.wire import DATAGRAM, quoted_size

LINE_BYTES = 8192
RING_BYTES = 256 * 1024
BYTES_PER_S, BYTES_BURST = 1024 * 1024, 2 * 1024 * 1024
LINES_PER_S, LINES_BURST = 333, 10_000
OVERHEAD_BYTES = 128
BATCH_BYTES = DATAGRAM - 1024


class Log:
    """Lines of one service, numbered from 1 over all its runs."""

    def __init__(self) -> None:
        self.lines: deque = deque()  # (boot time in microseconds, text); the newest has number `last`
        self.last = self.dropped = self._said = self._size = 0
        self._partial = b""
        self._bytes_left, self._lines_left, self._refilled = float(BYTES_BURST), float(LINES_BURST), time.monotonic()

    def feed(self, data: bytes) -> None:
        """Take what the service wrote; b"" when it closed its end."""
        now = time.monotonic()
        passed, self._refilled = now - self._refilled, now
        self._bytes_left = min(BYTES_BURST, self._bytes_left + passed * BYTES_PER_S)
        self._lines_left = min(LINES_BURST, self._lines_left + passed * LINES_PER_S)
        whole = self._partial + (data or (b"\n" if self._partial else b""))
        if self._lines_left < 1:  # the cheap way through a flood
            self.dropped += whole.count(b"\n")
            self._partial = whole.rpartition(b"\n")[2][:LINE_BYTES]
            return
        *lines, self._partial = whole.split(b"\n")
        while len(self._partial) > LINE_BYTES:
            lines.append(self._partial[:LINE_BYTES])
            self._partial = self._partial[LINE_BYTES:]
        for line in lines:
            for start in range(0, len(line) or 1, LINE_BYTES):
                self._add(line[start : start + LINE_BYTES])

    def _add(self, line: bytes) -> None:
        if self._lines_left < 1 or self._bytes_left < len(line):
            self.dropped += 1
            return
        if self.dropped > self._said:
            self._keep(b"[%d lines dropped: over the rate limit]" % (self.dropped - self._said))
            self._said = self.dropped
        self._lines_left -= 1
        self._bytes_left -= len(line)
        self._keep(line)

    def _keep(self, line: bytes) -> None:
        self.lines.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000, line.decode("utf-8", "replace")))
        self.last += 1
        self._size += len(self.lines[-1][1]) + OVERHEAD_BYTES
        while self._size > RING_BYTES:
            self._size -= len(self.lines.popleft()[1]) + OVERHEAD_BYTES

    def after(self, number: int) -> dict:
        """Return the lines after *number*, as many as a datagram holds.

        ``lines``: [number, boot time in microseconds, text]; ``lost``: how many between *number* and the first of them are no longer
        held; ``dropped``: how many were never kept; ``last``: the newest number there is.
        """
        first = self.last - len(self.lines) + 1
        start, size = max(number + 1, first), 0
        batch: list = []
        for index in range(start, self.last + 1):
            at, line = self.lines[index - first]
            size += quoted_size(line) + 48
            if size > BATCH_BYTES:
                break
            batch.append([index, at, line])
        return {"lines": batch, "lost": max(0, start - number - 1), "dropped": self.dropped, "last": self.last}

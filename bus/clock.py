"""Cloud time: the boot-time clock plus an offset that is set once and never runs back.

A jump of the wall clock after the start changes nothing; it is seen by comparing, and alarmed elsewhere. Ring 0's
decider is the source; others learn their offset from the ring above.
"""

from __future__ import annotations

from enjin.host import clock


class CloudClock:
    """One daemon's cloud time."""

    def __init__(self, floor_us: int = 0) -> None:
        now = clock()
        self._offset_us = max(now.wall_us, floor_us + 1) - now.boot_us

    def now(self) -> int:
        """Return microseconds of cloud time."""
        return clock().boot_us + self._offset_us

    def skew_us(self) -> int:
        """Return by how much the wall clock is ahead of cloud time."""
        now = clock()
        return now.wall_us - now.boot_us - self._offset_us

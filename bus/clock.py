"""Cloud time: the boot-time clock plus an offset that never runs back.

A jump of the wall clock after the start changes nothing; it is seen by comparing, and alarmed elsewhere. Ring 0's
decider is the source; others learn their offset from the ring above (``bus.timing``). What was reached is kept in a file
every ten seconds, so that neither a restart nor a reboot with a wrong wall clock goes back behind it.

INV-CLK-1: time never runs back, not even across a reboot behind the last watermark.
INV-CLK-2: once an offset was learnt or kept, the wall clock counts for nothing, until the machine boots again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from enjin.errors import Refused
from enjin.host import FileFailed, boot_id, clock, read_bounded, write_atomic
from enjin.log import get

KEEP_US: Final = 10_000_000
ROUND_TRIP_MAX_US: Final = 2_000_000
SLACK_US: Final = 2_000_000
MARK_MAX_BYTES: Final = 4_096
_log: Final = get("clock")


class TimeRefused(Refused):
    """A time that was told is not believed: it lies behind one that was reached, or its answer took too long."""

    code = "E-CLK-001"
    remedy = "compare the clocks of this node and of the ring above"


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far cloud time was: *cloud_us* when the boot-time clock of boot *boot* showed *boot_us*; *learnt*: from the ring above."""

    cloud_us: int
    boot_us: int
    boot: str
    learnt: bool


class CloudClock:
    """One daemon's cloud time.

    Args:
        path: Where the watermark is kept; None: nowhere.
        told: What the ring above said when it started us.
    """

    def __init__(self, path: Path | None = None, told: Mark | None = None) -> None:
        self._path, self._kept_us = path, 0
        now, kept = clock(), _read(path)
        floor_us = kept.cloud_us if kept is not None else 0
        self._sure_us = floor_us if kept is not None and kept.learnt else 0  # what the wall clock made us keep may be wrong
        learnt = [mark for mark in (kept, told) if mark is not None and mark.learnt and mark.boot == boot_id()]
        self.learnt = bool(learnt)
        # Of the same boot our own mark is better than the wall clock, which may have jumped since, also where nobody is above us.
        ours = [kept] if kept is not None and kept.boot == boot_id() else []
        if marks := learnt or ours:
            newest = max(marks, key=lambda mark: mark.boot_us)
            self._offset_us = newest.cloud_us - newest.boot_us
        else:
            self._offset_us = max(now.wall_us, floor_us + 1) - now.boot_us
        self._latest_us = floor_us

    def now(self) -> int:
        """Return microseconds of cloud time; never less than before."""
        self._latest_us = max(self._latest_us, clock().boot_us + self._offset_us)
        return self._latest_us

    def reading(self) -> int:
        """Return the boot-time clock, microseconds, for when the ring above is asked."""
        return clock().boot_us

    def skew_us(self) -> int:
        """Return by how much the wall clock is ahead of cloud time."""
        now = clock()
        return now.wall_us - now.boot_us - self._offset_us

    def learn(self, told_us: int, asked_boot_us: int) -> int:
        """Take what the ring above said its time is, in answer to what was asked just now; return how far that moved us.

        The error is at most half of the round trip. The first time that is learnt may lie before what the wall clock made us
        believe; after that time stands still rather than going back.

        Args:
            told_us: Its cloud time, microseconds.
            asked_boot_us: The boot-time clock when it was asked.

        Raises:
            TimeRefused: The round trip took more than 2 s, or the time lies more than 2 s before one that is known to be over.
        """
        heard_us = clock().boot_us
        if not 0 <= heard_us - asked_boot_us <= ROUND_TRIP_MAX_US:
            raise TimeRefused("the answer about the time took too long")
        offset_us = told_us - (asked_boot_us + heard_us) // 2
        before = self.now()
        over = before if self.learnt else self._sure_us
        if heard_us + offset_us < over - SLACK_US:
            raise TimeRefused(f"the ring above shows a time that is {(over - heard_us - offset_us) / 1e6:.1f} s over here")
        if not self.learnt:
            self._latest_us = over
        self._offset_us, self.learnt = offset_us, True
        return self.now() - before

    def mark(self, *, learnt: bool) -> Mark:
        """Return how far time is now; *learnt*: for a node that we start, from us."""
        return Mark(cloud_us=self.now(), boot_us=clock().boot_us, boot=boot_id(), learnt=learnt)

    def keep(self) -> None:
        """Keep how far time is, if that was not done within ten seconds; a disk that is full keeps the older mark.

        What the wall clock alone says never replaces what was learnt.
        """
        now = clock()
        if self._path is None or now.boot_us - self._kept_us < KEEP_US or (self._sure_us and not self.learnt):
            return
        self._kept_us = now.boot_us
        try:
            write_atomic(self._path, msgspec.json.encode(self.mark(learnt=self.learnt)), 0o600)
        except FileFailed as error:
            _log.warning("clock.not_kept", error=error)


def _read(path: Path | None) -> Mark | None:
    """Return the mark in the file at *path*; None when there is none that can be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(read_bounded(path, MARK_MAX_BYTES), type=Mark) if path is not None else None
    return None

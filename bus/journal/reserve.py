"""Room that is kept for the worst day: a file that is given back when the disk is full, so that revocations and stops still fit.

Owns the file and the two states of a journal's disk. Does not know what is urgent (the closed table says so) and writes no
entry. Looks at the disk before it is full: a commit that fails half way would end the process.

INV-RSV-1: the reserve is real blocks, or there is none: a sparse file would promise what the disk does not have.
INV-RSV-2: between giving it back and taking it again lies more room than the reserve itself, so the state does not flap.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from enjin.log import get

RESERVE_BYTES: Final = 64 << 20
LOW_BYTES: Final = 8 << 20
_log: Final = get("journal.reserve")


def free_bytes(path: Path) -> int:
    """Return how many bytes an unprivileged process can still write below *path*."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


class Reserve:
    """The reserve of one journal.

    Args:
        path: Where its file lies, on the journal's own disk.
        size: Its size in bytes.
        low: With less than this left the disk counts as full, in bytes.
        free: Returns the bytes left on the disk of a directory.
    """

    def __init__(
        self,
        path: Path,
        size: int = RESERVE_BYTES,
        low: int = LOW_BYTES,
        *,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._path, self._size, self._low, self._free = path, size, low, free
        self._full = False
        self._keep()
        self.full()  # a journal on a full disk is opened with the reserve's room

    @property
    def held(self) -> bool:
        """Whether the reserve lies on the disk."""
        return self._path.exists()

    def full(self) -> bool:
        """Look at the disk (2 µs) and return whether only what is urgent may be written."""
        free = self._free(self._path.parent)
        if not self._full and free < self._low:
            self._full = True
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            _log.error("disk.filled", free_bytes=free, hint="make room: only revocations, stops and removals are decided until then")
        elif self._full and free >= self._size + 2 * self._low:
            self._full = False
            self._keep()
            _log.warning("disk.freed", free_bytes=free)
        return self._full

    def _keep(self) -> None:
        """Take the reserve, where the disk has that much to spare."""
        if self.held or self._free(self._path.parent) < self._size + 2 * self._low:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError as error:
            _log.warning("reserve.missing", error=error)
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        finally:
            os.close(descriptor)

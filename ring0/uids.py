"""Blocks of host uids: 65,536 for each ring 1 jail and one for ring 0 itself, reserved in one file of the host.

Every cloud on a machine reserves in the same file, so no two ever share a uid. Nothing is written into /etc/passwd:
the numbers have no names and no log-in. Blocks that /etc/subuid gives to somebody are passed over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from enjin.errors import Refused
from enjin.host import write_atomic

FILE: Final = Path("/var/lib/enjin-uids.json")
FIRST: Final = 524_288
BLOCK: Final = 65_536
BLOCKS: Final = 8
LAST: Final = 2_000_000_000


class NoUids(Refused):
    """The host has no free block of uids left."""

    code = "E-UID-001"


@contextmanager
def _locked() -> Iterator[dict[str, int]]:
    lock = _lock()
    try:
        table: dict[str, int] = json.loads(FILE.read_text()) if FILE.exists() else {}
        before = dict(table)
        yield table
        if table and table != before:
            write_atomic(FILE, json.dumps(table, sort_keys=True).encode(), 0o644)
        elif not table:
            FILE.unlink(missing_ok=True)
            FILE.with_suffix(".lock").unlink(missing_ok=True)
    finally:
        os.close(lock)


def _lock() -> int:
    """Return a descriptor that holds the lock; the file may have been removed by its last holder while we waited."""
    path = FILE.with_suffix(".lock")
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        os.close(lock)


def reserve(owner: str) -> int:
    """Return the first of ``BLOCKS * BLOCK`` uids that belong to *owner* (a state directory) from now on.

    Raises:
        NoUids: Every block is taken.
    """
    with _locked() as table:
        if owner not in table:
            taken = [(first, first + BLOCK * BLOCKS) for first in table.values()] + _subordinate()
            first = FIRST
            while any(first < end and begin < first + BLOCK * BLOCKS for begin, end in taken):
                first += BLOCK
                if first > LAST:
                    raise NoUids("every block of uids on this machine is reserved")
            table[owner] = first
        return table[owner]


def release(owner: str) -> None:
    """Give the blocks of *owner* back; the file goes with the last owner."""
    if FILE.exists():
        with _locked() as table:
            table.pop(owner, None)


def _subordinate() -> list[tuple[int, int]]:
    ranges = []
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            fields = line.split(":")
            if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                ranges.append((int(fields[1]), int(fields[1]) + int(fields[2])))
    return ranges

"""How much a node may write to disk: looked at again and again while it runs, and ended when it is too much.

Owns the measuring, in a child of hands since a tree can be large, and the end of a node that passes its ``Limits.disk_bytes``. One file is
bounded by a resource limit besides; a sealed tree is counted once more.
May import: enjin, supervision.{carrying,records,steps,workshop}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import msgspec

from enjin import log
from enjin.errors import EnjinError
from supervision import carrying
from supervision.records import NodeRecord, send, verify
from supervision.workshop import Workshop

PAUSE_S: Final = 1.0
ENTRIES: Final = 1_000_000


class Used(msgspec.Struct):
    """What a directory takes."""

    bytes: int


def measure(directory: Path, enough: int) -> Used:
    """Return the bytes on disk below *directory*, counting no further than *enough*; links are not followed."""
    total = entries = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            entries += 1
            if total > enough or entries > ENTRIES:
                return Used(total if total > enough else enough + 1)
    return Used(total)


async def keep(shop: Workshop, record: NodeRecord) -> None:
    """Watch one node until it ends; end it when it has written more than it may."""
    limit, directory = record.spec.limits.disk_bytes, shop.node_directory(record.spec.node)
    while verify(record.identity, shop.groups) != "gone":
        with contextlib.suppress(EnjinError):
            used = await carrying.errand(shop, lambda: measure(directory, limit), Used, 30.0)
            if used.bytes > limit:
                log.get("quota").warning("node.over_quota", node=record.spec.node, limit_bytes=limit)
                send(record.identity, shop.groups, signal.SIGKILL)
                return
        await asyncio.sleep(PAUSE_S)

"""A process that decides the same few wishes each time, one after the other and then together, says which were acknowledged, and closes.

Usage: writer.py FOLDER. What it asks for has request ids of its own, so that a second run asks for the same.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from pathlib import Path

from bus.journal import Journal
from enjin import log
from tests.bus.journal.small_world import FACTS, Add, Asking, SmallTables, SmallWorld, identity

ALONE, TOGETHER = 4, 3
START_MS = 1_800_000_000_000


def request(count: int) -> str:
    """Return the request id of wish *count*: a UUIDv7 that depends on nothing else."""
    return str(uuid.UUID(int=(START_MS + count) << 80 | 7 << 76 | 2 << 62 | count))


async def ask(journal: Journal, count: int) -> None:
    asking = Asking(Add(name="counter", by=1), rid=request(count))
    outcome = await asking.of(journal)
    os.write(1, f"{asking.rid} {outcome.number} {outcome.hash}\n".encode())


async def main(folder: Path) -> None:
    journal = Journal.open(
        f"sqlite:///{folder}/journal.db", identity=identity(), world_factory=SmallWorld, facts=FACTS, projection=SmallTables(),
        now_us=lambda: START_MS * 1000, snapshot_every=3,
    )  # fmt: skip
    for count in range(ALONE):
        await ask(journal, count)
    await asyncio.gather(*(ask(journal, count) for count in range(ALONE, ALONE + TOGETHER)))
    await journal.close()


if __name__ == "__main__":
    log.configure(component="writer")
    asyncio.run(main(Path(sys.argv[1])))

"""A process that decides wishes as fast as it can and says on standard output which were acknowledged; to be killed.

Usage: crasher.py FOLDER SEED [LIMIT_BYTES]: with a limit, the kernel refuses to let any file grow beyond it (a full disk).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import sys
from pathlib import Path

from bus.journal import Journal
from enjin import log
from tests.bus.journal.small_world import FACTS, Add, Asking, SmallTables, SmallWorld, identity

WORKERS = 40


async def ask(journal: Journal, worker: int, seed: int) -> None:
    chance = random.Random(seed * 1000 + worker)
    for count in itertools.count():
        asking = Asking(Add(name=f"w{worker}", by=chance.randint(1, 3), pad="x" * chance.randint(0, 2000)))
        outcome = await asking.of(journal)
        os.write(1, f"{asking.rid} {outcome.number} {outcome.hash}\n".encode())
        if count % 5 == 0:
            again = await asking.of(journal)
            if (again.number, again.reply, again.repeated) != (outcome.number, outcome.reply, True):
                os.write(1, b"a repeat was not the stored reply\n")


async def main(folder: Path, seed: int) -> None:
    url = f"sqlite:///{folder}/journal.db"
    journal = Journal.open(
        url, identity=identity(), world_factory=SmallWorld, facts=FACTS, projection=SmallTables(), snapshot_every=100
    )
    async with asyncio.TaskGroup() as group:
        for worker in range(WORKERS):
            group.create_task(ask(journal, worker, seed))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    log.configure(component="crasher")
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

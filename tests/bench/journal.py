"""journal_single_per_s, journal_group_per_s, replay_per_s, verify_million_s, restart_million_s: one journal on SQLite, real entries.

Beside many commits the same journal in PostgreSQL; beside single ones a bare sqlite3 connection that commits as durably, one row at a
time; beside verification what one core does with Ed25519 signatures alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bus.journal import verify
from bus.journal.reader import Reader
from bus.journal.replay import Facts, replay
from compartments.facts import FACTS
from compartments.world import World
from keys.signing import verify as verify_signature
from tests.bench import ledger
from tests.bench.figures import Peer, Row, rows
from tests.bus.postgres_servers import find_programs, running
from tests.cloud import Cloud

SINGLES, TOGETHER = 3_000, 30_000
MILLION = 1_000_000
SINCE_SNAPSHOT = 5_000  # half of what a start can have to fold at most
SIGNATURES = 5_000
ROW_BYTES = 1_200
OPEN_AGAIN = """
import asyncio, pathlib, sys
from tests.bench import journal
asyncio.run(journal.open_again(pathlib.Path(sys.argv[1])))
"""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder on disk, not in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="enjbench") as name:
        yield Path(name)


async def written_per_s(path: Path) -> tuple[float, float]:
    """Return commits per second one by one, and entries per second when many wait."""
    journal = ledger.open_ledger(path)
    await ledger.found(journal)
    singles = list(ledger.moves(SINGLES))
    began = time.perf_counter()
    for one in singles:
        await ledger.decide(journal, one)
    single = SINGLES / (time.perf_counter() - began)
    many = list(ledger.moves(TOGETHER))
    began = time.perf_counter()
    await ledger.write_together(journal, many)
    together = TOGETHER / (time.perf_counter() - began)
    await journal.close()
    return single, together


async def shared_together_per_s(url: str, beside: Path) -> float:
    """Return entries per second of the same journal in PostgreSQL when many wait."""
    journal = ledger.open_ledger_at(url, beside=f"sqlite:///{beside}")
    await ledger.found(journal)
    many = list(ledger.moves(TOGETHER))
    began = time.perf_counter()
    await ledger.write_together(journal, many)
    together = TOGETHER / (time.perf_counter() - began)
    await journal.close()
    return together


def on_postgres(place: Path) -> Peer:
    """Measure beside, on a server of its own and on the same disk."""
    if find_programs() is None:
        return Peer("PostgreSQL", why="PostgreSQL is not installed")
    with running() as servers:
        return Peer("PostgreSQL", asyncio.run(shared_together_per_s(servers.url(), place / "projection.db")))


def bare_commits_per_s(path: Path) -> float:
    """Return how often a bare connection commits one row, as durably."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, hash TEXT, data BLOB)")
    began = time.perf_counter()
    for number in range(SINGLES):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, "0" * 64, bytes(ROW_BYTES)))
        connection.execute("COMMIT")
    taken = time.perf_counter() - began
    connection.close()
    return SINGLES / taken


def replayed_per_s(path: Path) -> float:
    """Return entries per second that a replay folds from the first one, checking the chain of hashes."""
    with Reader(f"sqlite:///{path}") as reader:
        number = 9_999  # before the first snapshot: nothing is skipped
        began = time.perf_counter()
        found = replay(reader, world_factory=World, facts=Facts.of(FACTS), publics=(ledger.SIGNER.public,), number=number)
        return found.head.number / (time.perf_counter() - began)


def signatures_per_s() -> float:
    """Return how many signatures of 1,000 bytes one core verifies, and does nothing else."""
    payload = os.urandom(1000)
    signature = ledger.ASKER.sign("text/plain", payload)
    began = time.perf_counter()
    for _ in range(SIGNATURES):
        verify_signature(ledger.ASKER.public, "text/plain", payload, signature)
    return SIGNATURES / (time.perf_counter() - began)


async def open_again(path: Path) -> None:
    """Open the ledger at *path* as a decider does at its start, decide one wish, and print how long both took."""
    began = time.perf_counter()
    journal = ledger.open_ledger(path)
    await ledger.decide(journal, next(ledger.moves(1)))
    print(time.perf_counter() - began)
    await journal.close()


def restarted_s(path: Path) -> float:
    """Return the seconds until a decider in a process of its own has decided its first wish, imports left out."""
    words = [sys.executable, "-c", OPEN_AGAIN, str(path)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout)


def measure(_cloud: Cloud) -> list[Row]:
    """Return the five rows, and the memory that the checking processes needed."""
    cores = len(os.sched_getaffinity(0))
    with folder() as place:
        single, together = asyncio.run(written_per_s(place / "journal.db"))
        bare = bare_commits_per_s(place / "bare.db")
        shared = on_postgres(place)
        replayed = replayed_per_s(place / "journal.db")
        million = place / "million.db"
        asyncio.run(ledger.make(million, MILLION + SINCE_SNAPSHOT))
        restarted = restarted_s(million)
        began = time.perf_counter()
        signers = {str(ledger.ASKER.key_id): ledger.ASKER.public}
        found = verify(f"sqlite:///{million}", lambda _domain: (ledger.SIGNER.public,), signers=signers, processes=cores)
        verified = time.perf_counter() - began
    if not found.ok or found.causes < MILLION:
        raise AssertionError(f"the ledger does not verify: {found}")
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    alone = Peer("Ed25519 alone, all cores", found.entries / signatures_per_s() / cores)
    return [
        *rows("journal_single_per_s", single, [Peer("bare sqlite3", bare)]),
        *rows("journal_group_per_s", together, [shared]),
        *rows("replay_per_s", replayed),
        *rows("restart_million_s", restarted),
        *rows("verify_million_s", verified, [alone]),
        *rows("verify_peak_mb", peak_mb),
    ]

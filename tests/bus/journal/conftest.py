"""Fixtures of the journal's tests: an opener that closes what it opened, and the ways to look at the file from outside."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.journal import Journal, Reader, Verification, verify
from bus.journal.range_check import check_range
from bus.journal.ranges import Found, Work
from tests.bus.journal import small_world as small

verifying = importlib.import_module("bus.journal.verify")  # the package's `verify` is the function


class Lost(Exception):
    """What the tests' `fatal` leaves behind instead of an ended process."""


class Desk:
    """One journal file and everything that a test does with it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.db"
        self.url = f"sqlite:///{self.path}"
        self.fatal: list[Exception] = []
        self.time = 1_700_000_000 * small.SECOND

    def now(self) -> int:
        return self.time

    def open(self, **changed: Any) -> Journal:
        options: dict[str, Any] = {
            "identity": small.identity(),
            "world_factory": small.SmallWorld,
            "facts": small.FACTS,
            "projection": small.SmallTables(),
            "now_us": self.now,
            "fatal": self.fatal.append,
        }
        return Journal.open(self.url, **options | changed)

    def ask(self, wish: Any, **options: Any) -> small.Asking:
        return small.Asking(wish, time=self.time, **options)

    def run(self, work: Callable[[Journal], Coroutine[Any, Any, Any]], **changed: Any) -> Any:
        """Open, do *work*, close."""

        async def whole() -> Any:
            journal = self.open(**changed)
            try:
                return await work(journal)
            finally:
                await journal.close()

        return asyncio.run(whole())

    def fill(self, count: int, **changed: Any) -> None:
        """Write *count* entries, the odd ones alone in their commit, the others in commits of three."""

        async def work(journal: Journal) -> None:
            left = count
            while left:
                size = min(left, 1 if left % 2 else 3)
                await asyncio.gather(*(self.ask(small.Add(name=f"c{(left - at) % 7}", by=left)).of(journal) for at in range(size)))
                left -= size

        self.run(work, **changed)

    def edit(self, statement: str, *values: Any) -> None:
        """Change the closed file by hand, as somebody with access to it would."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            assert connection.execute(statement, values).rowcount != 0
        finally:
            connection.close()

    def look(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def verify(self, **options: Any) -> Verification:
        """Verify alone, and in three ranges: the verdict must be the same."""
        found = verify(self.url, keys_for, **{"signers": SIGNERS} | options)
        assert verify(self.url, keys_for, **{"signers": SIGNERS, "processes": 3} | options) == found
        return found


def keys_for(domain: str) -> tuple[bytes, ...]:
    return (small.JOURNAL_KEY.public,) if domain == small.DOMAIN else ()


SIGNERS = {str(small.ASKER_KEY.key_id): small.ASKER_KEY.public}


elsewhere = verifying._elsewhere


def _here(work: Work) -> Found:
    """Check a range in this process; `test_verify.py` has one test with the real program."""
    with contextlib.closing(Reader(work.url)) as reader:
        return check_range(reader, work)


@pytest.fixture(scope="module", autouse=True)
def short_ranges() -> Iterator[None]:
    """Short journals are cut into ranges too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "SHARED_FROM", 6)
        patch.setattr(verifying, "_elsewhere", _here)
        yield


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """One journal in a folder of its own."""
    return Desk(tmp_path)

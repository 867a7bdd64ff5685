"""Reading: World at a number or a time, listings and their filters, stretches and their bounds."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from bus.journal import Filters, Journal, read_entry
from bus.journal.errors import NoSuchEntry
from enjin.errors import Invalid
from tests.bus.journal.conftest import Desk
from tests.bus.journal.small_world import SECOND, Add, Drop


async def history(desk: Desk, journal: Journal) -> list[dict[str, int]]:
    """Write twelve entries a minute apart and return World after each."""
    worlds: list[dict[str, int]] = [{}]
    for at in range(12):
        desk.time += 60 * SECOND
        wish = Drop(name="c0") if at == 8 else Add(name=f"c{at % 3}", by=at + 1)
        await desk.ask(wish, who=f"person-{at % 2}", reason=f"reason {at}", door="http" if at % 4 == 0 else "bus").of(journal)
        worlds.append(dict(journal.world.rows))
    return worlds


def test_world_at_a_number_and_at_a_time(desk: Desk) -> None:
    """Every past World comes back exactly, from whichever snapshot, in any thread, while the present goes on."""

    async def work(journal: Journal) -> None:
        start = desk.time
        worlds = await history(desk, journal)
        for number, rows in enumerate(worlds):
            found = journal.replay(number=number)
            assert (found.world.rows, found.head.number) == (rows, number)
            for late in (0, 59 * SECOND):
                assert journal.replay(time=start + 60 * SECOND * number + late).world.rows == rows
        assert journal.replay(time=start - 1).world.rows == {}
        assert journal.replay().world.digest() == journal.world.digest()
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(journal.replay(number=5).world.rows))
        thread.start()
        thread.join(10)
        assert seen == [worlds[5]]
        for number in (-1, 13):
            with pytest.raises(NoSuchEntry):
                journal.replay(number=number)

    desk.run(work, snapshot_every=5)
    assert desk.look("select number from journal_snapshots order by number") == [(5,), (10,)]


def test_listings_say_who_did_what_when_and_why(desk: Desk) -> None:
    """Lines in order, by page, by who, kind and time, and the newest first when asked."""

    async def work(journal: Journal) -> None:
        start = desk.time
        await history(desk, journal)
        lines = journal.listing()
        assert [line.number for line in lines] == list(range(1, 13))
        first = lines[0]
        assert (first.who, first.kind, first.door, first.token, first.reason) == ("person-0", "counter.add", "http", "t-1", "reason 0")
        assert (first.time, first.epoch, first.hash) == (start + 60 * SECOND, 1, journal.entries(0, 1)[0].hash)
        assert [msgspec.json.decode(fact) for fact in first.facts] == [{"kind": "counter.set", "name": "c0", "value": 1}]
        assert [line.number for line in journal.listing(after=10)] == [11, 12]
        assert [line.number for line in journal.listing(limit=2)] == [1, 2]
        assert [line.number for line in journal.listing(limit=2, newest=True)] == [11, 12]
        for filters, expected in (
            (Filters(who="person-1"), [2, 4, 6, 8, 10, 12]),
            (Filters(kind="counter.drop"), [9]),
            (Filters(kind="counter"), []),
            (Filters(since=start + 11 * 60 * SECOND), [11, 12]),
            (Filters(until=start + 2 * 60 * SECOND), [1, 2]),
            (Filters(until=start), []),
            (Filters(who="person-0", kind="counter.add", since=start + 180 * SECOND, until=start + 420 * SECOND), [3, 5, 7]),
        ):
            assert [line.number for line in journal.listing(filters=filters)] == expected
        for limit in (0, -1, 1001):
            with pytest.raises(Invalid):
                journal.listing(limit=limit)

    desk.run(work)


def test_a_stretch_is_bounded_and_ends_at_a_commit(desk: Desk) -> None:
    """By entries and by bytes; at least one whole commit; nothing after the head."""
    desk.fill(40)

    async def work(journal: Journal) -> None:
        ends = {row[0] for row in desk.look("select number from journal_commits")}
        after = 0
        while (stretch := journal._reader.stretch(after, entries_max=7)) is not None:
            assert stretch.commit.number in ends
            assert len(stretch.entries) <= 7
            after += len(stretch.entries)
            assert after == stretch.commit.number
        assert after == 40
        small = journal._reader.stretch(0, bytes_max=1)
        assert small is not None
        assert small.commit.number == min(ends)
        assert journal.stretch(40) is None
        assert journal.stretch(10_000) is None

    desk.run(work)


def test_no_reader_holds_the_log(desk: Desk) -> None:
    """Reading leaves no transaction open: the write-ahead log stays bounded while the decider writes on."""

    async def work(journal: Journal) -> None:
        for at in range(400):
            await desk.ask(Add(name="a", pad="x" * 10_000)).of(journal)
            if at % 100 == 0:
                journal.stretch(0)
                journal.listing(limit=5)
                journal.replay(number=1)
                read_entry(journal.entries(at, 1)[0])
        assert desk.path.with_name("journal.db-wal").stat().st_size < 16 << 20
        assert desk.path.stat().st_size > 4 << 20

    desk.run(work)

"""What every database under the journal has to do: SQLite, and a real PostgreSQL that the tests start.

Further URLs in ENJIN_TEST_JOURNALS, separated by spaces, with `{name}` where a fresh name goes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.journal import Follower, Journal, verify
from enjin import host
from enjin.errors import EnjinError, code_of
from tests.bus.journal.small_world import CLOUD, DOMAIN, FACTS, JOURNAL_KEY, Add, Asking, SmallTables, SmallWorld, identity
from tests.bus.postgres_servers import DATABASE, Servers, running

TEMPLATES = ["sqlite:///{folder}/{name}.db", "postgresql", *os.environ.get("ENJIN_TEST_JOURNALS", "").split()]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One PostgreSQL server for all tests here."""
    with running() as found:
        yield found


@pytest.fixture(params=TEMPLATES, ids=lambda template: template.partition(":")[0])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that holds nothing yet."""
    name = f"enj{secrets.token_hex(3)}"
    if request.param != "postgresql":
        return str(request.param.format(folder=tmp_path, name=name))
    servers: Servers = request.getfixturevalue("servers")
    servers.url(DATABASE.replace("enj", "enjf", 1))  # for the follower
    return servers.url()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection of a journal on a server lies in the test's folder, where SQLite's own lies too."""
    monkeypatch.chdir(tmp_path)


def run(url: str, work: Any, **changed: Any) -> Any:
    """Open the journal, do *work*, close it."""

    async def whole() -> Any:
        beside = "" if url.startswith("sqlite:") else f"sqlite:///{Path.cwd()}/projection.db"
        options = {"identity": identity(), "world_factory": SmallWorld, "facts": FACTS, "projection": SmallTables(), "beside": beside}
        journal = Journal.open(url, **options | changed)
        try:
            return await work(journal)
        finally:
            await journal.close()

    return asyncio.run(whole())


async def write(journal: Journal, count: int = 30) -> None:
    """Decide *count* wishes at once."""
    await asyncio.gather(*(Asking(Add(name=f"c{at % 4}")).of(journal) for at in range(count)))


def test_what_was_answered_is_there_after_opening_again(url: str) -> None:
    """Entries, head, World and projection come back as they were; a second opening repairs nothing."""

    async def first(journal: Journal) -> tuple[Any, str]:
        await write(journal)
        return journal.head, journal.world.digest()

    head, digest = run(url, first)

    async def second(journal: Journal) -> tuple[Any, str, str]:
        return journal.head, journal.world.digest(), journal.repaired

    assert run(url, second) == (head, digest, "")
    found = verify(url, lambda domain: [JOURNAL_KEY.public])
    assert (found.ok, found.entries, found.head) == (True, 30, head.hash)


def test_a_refused_transaction_leaves_nothing(url: str) -> None:
    """When one statement of a commit fails, none of it is there."""

    class Failing(SmallTables):
        def write(self, connection: Any, changes: Any) -> None:
            super().write(connection, changes)
            if any(name == "poison" for name, _value in changes):
                raise OSError("the projection could not be written")

    lost: list[Exception] = []

    async def work(journal: Journal) -> None:
        await write(journal, 5)
        with pytest.raises(EnjinError) as caught:
            await Asking(Add(name="poison")).of(journal)
        assert code_of(caught.value) == "E-JNL-001"

    run(url, work, projection=Failing(), fatal=lost.append)
    assert len(lost) == 1

    async def after(journal: Journal) -> tuple[int, bool, str]:
        return journal.head.number, "poison" in journal.world.rows, journal.repaired

    assert run(url, after) == (5, False, "")


def test_readers_see_commits_whole_and_at_once(url: str) -> None:
    """After the answer another connection reads the entry, its commit, its request and its rows."""

    async def work(journal: Journal) -> None:
        for number in range(1, 6):
            asking = Asking(Add(name="a"))
            await asking.of(journal)
            assert journal.entries(number - 1, 10)[0].number == number
            stretch = journal.stretch(number - 1)
            assert stretch is not None
            assert stretch.commit.number == number
            assert (await asking.of(journal)).repeated
            assert journal.replay(number=number).world.rows == {"a": number}
            assert journal.listing(after=number - 1)[0].request == asking.rid

    run(url, work)


def test_one_writer_at_a_time(url: str) -> None:
    """A second writer is refused while the first is open, and taken after it."""

    async def work(journal: Journal) -> None:
        with pytest.raises(EnjinError) as caught:
            Journal.open(url, identity=identity(), world_factory=SmallWorld, facts=FACTS)
        assert code_of(caught.value) == "E-JNL-002"
        await write(journal, 3)

    run(url, work)
    run(url, lambda journal: write(journal, 3))


def test_a_follower_keeps_its_copy_in_the_same_kind_of_database(url: str, tmp_path: Path) -> None:
    """A copy in a database of its own is entry by entry the journal."""

    async def work(journal: Journal) -> None:
        await write(journal)
        follower = Follower.open(url.replace("enj", "enjf", 1), cloud=CLOUD, domain=DOMAIN, keys_for=lambda domain: [JOURNAL_KEY.public])
        try:
            while (stretch := journal.stretch(follower.head.number)) is not None:
                follower.append(stretch)
            assert follower.head == journal.head
        finally:
            follower.close()

    run(url, work)


def test_large_entries_and_replies_come_back_whole(url: str) -> None:
    """Bytes are bytes: nothing is cut, converted or re-encoded on the way through the database."""

    async def work(journal: Journal) -> None:
        asking = Asking(Add(name="many", by=1500, pad="\x00é€😀" * 300), time=host.clock().wall_us)
        outcome = await asking.of(journal)
        (entry,) = journal.entries(0, 1)
        assert len(entry.data) > 60_000
        assert (await asking.of(journal)).reply == outcome.reply

    run(url, work)
    assert verify(url, lambda domain: [JOURNAL_KEY.public]).ok

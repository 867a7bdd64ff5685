"""Moving a journal into PostgreSQL: whole and verified, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.journal import Journal, Reader, Verification, verify
from bus.journal import migrate as migrating
from bus.journal.migrate import Migrated, migrate
from enjin.errors import EnjinError, code_of
from tests.bus.journal.conftest import Desk
from tests.bus.journal.small_world import FACTS, JOURNAL_KEY, Add, Asking, SmallTables, SmallWorld, identity
from tests.bus.postgres_servers import DATABASE, Servers, running, until

HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One server for all tests here."""
    with running() as found:
        yield found


@pytest.fixture
def url(servers: Servers) -> str:
    """A database that holds nothing yet."""
    return servers.url()


def check(url: str) -> Verification:
    return verify(url, lambda domain: [JOURNAL_KEY.public])


def moved(desk: Desk, url: str) -> Migrated:
    return migrate(desk.url, url, check)


def refused(desk: Desk, url: str) -> str:
    with pytest.raises(EnjinError) as caught:
        moved(desk, url)
    return code_of(caught.value)


def run(url: str, folder: Path, work: Any, **changed: Any) -> Any:
    """Open the journal that was moved, do *work*, close it."""

    async def whole() -> Any:
        options = {"identity": identity(), "world_factory": SmallWorld, "facts": FACTS, "projection": SmallTables()}
        journal = Journal.open(url, **options | {"beside": f"sqlite:///{folder}/p.db"} | changed)
        try:
            return await work(journal)
        finally:
            await journal.close()

    return asyncio.run(whole())


def everything(url: str) -> dict[str, Any]:
    """Return every row of the journal at *url*."""
    found: dict[str, Any] = {}
    with Reader(url) as reader:
        for table in (migrating.ENTRIES, migrating.COMMITS, migrating.REQUESTS, migrating.SNAPSHOTS, migrating.WITNESSES):
            found[table.name] = sorted(tuple(row) for row in reader.rows(migrating.select(table)))
        meta = reader.meta()
        found["head"] = meta
    return found


def test_everything_is_moved_and_decided_on(desk: Desk, url: str, tmp_path: Path) -> None:
    """Entries, commits, requests, snapshots and witnesses are the same rows; a repeat is known, and it goes on."""
    asking: list[Asking] = []

    async def one_more(journal: Journal) -> None:
        asking.append(desk.ask(Add(name="again")))
        await asking[0].of(journal)

    desk.fill(57, snapshot_every=10)
    desk.run(one_more)
    before = hashlib.sha256(desk.path.read_bytes()).hexdigest()
    assert moved(desk, url)[:2] == (58, 58)
    assert everything(url) == everything(desk.url)
    assert len(everything(url)["journal_snapshots"]) == 5
    assert hashlib.sha256(desk.path.read_bytes()).hexdigest() == before

    async def go_on(journal: Journal) -> tuple[Any, int, str]:
        assert (await asking[0].of(journal)).repeated
        await desk.ask(Add(name="new")).of(journal)
        return journal.world.rows, journal.head.number, journal.repaired

    rows, number, wrong = run(url, tmp_path, go_on, now_us=desk.now)
    assert (number, wrong) == (59, "absent")
    assert rows == desk.run(lambda journal: asyncio.sleep(0, journal.world.rows)) | {"new": 1}
    # Once more: the database has gone on by itself, and nothing of it is touched.
    assert moved(desk, url)[:2] == (59, 0)
    assert run(url, tmp_path, lambda journal: asyncio.sleep(0, journal.world.rows)) == rows


def test_an_interrupted_move_goes_on(servers: Servers, desk: Desk, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it ends, no daemon opens what is there, and the next run makes it whole."""
    desk.fill(30, snapshot_every=10)
    monkeypatch.setattr(migrating, "COMMITS_AT_ONCE", 3)
    monkeypatch.setattr(migrating, "ROWS_AT_ONCE", 10)
    real = migrating.PostgresStore.transact
    fails_at, copied = 1, 0

    def failing(store: Any, function: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            store._cut()  # the connection is gone in the middle
        return real(store, function)

    while True:
        left = fails_at + 1  # the first one takes the lease
        monkeypatch.setattr(migrating.PostgresStore, "transact", failing)
        try:
            done = moved(desk, url)
        except EnjinError as error:
            assert code_of(error) == "E-JNL-021"  # noqa: PT017
        else:
            break
        finally:
            monkeypatch.setattr(migrating.PostgresStore, "transact", real)
        until(lambda: servers.primary.sql(HELD) == [(0,)], "the server sees that the session has ended")
        if fails_at > 1:
            with pytest.raises(EnjinError) as caught:
                run(url, tmp_path, None)
            assert code_of(caught.value) == "E-JNL-003"
        fails_at, copied = fails_at + 1, fails_at
    assert copied > 10
    assert done.entries == 30
    assert everything(url) == everything(desk.url)
    assert moved(desk, url)[:2] == (30, 0)


def test_a_file_that_went_on_is_moved_up_to_its_end(desk: Desk, url: str) -> None:
    """A second run copies what was decided since, as long as the database has not decided anything itself."""
    desk.fill(5)
    assert moved(desk, url)[:2] == (5, 5)
    desk.fill(4)
    assert moved(desk, url)[:2] == (9, 4)
    assert everything(url) == everything(desk.url)


def test_a_damaged_journal_is_not_moved(desk: Desk, url: str) -> None:
    """What does not verify is repaired first: nothing is copied."""
    desk.fill(9)
    desk.edit("update journal_entries set data = replace(data, 'c1', 'c2') where number = 4")
    assert refused(desk, url) == "E-JNL-004"
    with pytest.raises(EnjinError) as caught:
        Reader(url)
    assert code_of(caught.value) == "E-JNL-017"


def test_what_does_not_verify_afterwards_is_not_used(servers: Servers, desk: Desk, url: str, tmp_path: Path) -> None:
    """A row that the database holds otherwise is found before any daemon believes it."""
    desk.fill(9)
    moved(desk, url)
    servers.primary.sql("UPDATE journal_entries SET data = overlay(data placing 'x' from 40) WHERE number = 4", DATABASE)
    assert refused(desk, url) == "E-JNL-004"
    with pytest.raises(EnjinError) as caught:
        run(url, tmp_path, None)
    assert code_of(caught.value) == "E-JNL-003"


def test_another_history_is_never_replaced(desk: Desk, url: str, tmp_path: Path) -> None:
    """A database in which this domain has decided something else, or another one has, is refused as it is."""
    desk.fill(5)
    run(url, tmp_path, lambda journal: Asking(Add(name="other")).of(journal))
    kept = everything(url)
    assert refused(desk, url) == "E-JNL-013"
    assert everything(url) == kept
    other = Desk(tmp_path / "other")
    (tmp_path / "other").mkdir()
    other.fill(3, identity=identity(domain="ring1.other"))
    assert refused(other, url) == "E-JNL-003"
    assert everything(url) == kept


def test_an_open_journal_is_not_moved(desk: Desk, url: str, tmp_path: Path) -> None:
    """Neither a file that a daemon writes, nor into a database in which one decides."""
    desk.fill(3)

    async def try_it(_journal: Journal) -> None:
        assert refused(desk, url) == "E-JNL-002"

    desk.run(try_it)
    moved(desk, url)
    run(url, tmp_path, try_it)
    assert moved(desk, url)[:2] == (3, 0)


def test_there_has_to_be_a_file_and_a_database(desk: Desk, url: str, tmp_path: Path) -> None:
    """No empty journal is made on the way."""
    assert refused(desk, url) == "E-JNL-017"
    assert not desk.path.exists()
    desk.fill(1)
    with pytest.raises(EnjinError) as caught:
        migrate(desk.url, f"sqlite:///{tmp_path}/x.db", check)
    assert code_of(caught.value) == "E-JNL-019"
    with sqlite3.connect(desk.path) as connection:
        assert connection.execute("select count(*) from journal_entries").fetchone() == (1,)

"""A journal in PostgreSQL: what only a server can get wrong, on a real one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bus.journal import Journal, Reader, verify
from bus.journal.lease import LOCK
from bus.journal.postgres import away, connect, cut, place
from bus.journal.shared_store import PostgresStore
from enjin.errors import EnjinError, code_of
from tests.bus.journal.small_world import CLOUD, DOMAIN, FACTS, JOURNAL_KEY, Add, Asking, SmallTables, SmallWorld, identity
from tests.bus.postgres_servers import DATABASE, Servers, running


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One server for all tests here."""
    with running() as found:
        yield found


@pytest.fixture
def url(servers: Servers) -> str:
    """A database that holds nothing yet."""
    return servers.url()


def opened(url: str, beside: Path, **changed: Any) -> Journal:
    """Open the journal at *url* with its projection in the file *beside*."""
    options = {"identity": identity(), "world_factory": SmallWorld, "facts": FACTS, "projection": SmallTables()}
    return Journal.open(url, **options | {"beside": f"sqlite:///{beside}"} | changed)


def run(url: str, beside: Path, work: Any, **changed: Any) -> Any:
    """Open, do *work*, close."""

    async def whole() -> Any:
        journal = opened(url, beside, **changed)
        try:
            return await work(journal)
        finally:
            await journal.close()

    return asyncio.run(whole())


async def write(journal: Journal, count: int = 3) -> None:
    """Decide *count* wishes, one by one."""
    for at in range(count):
        await Asking(Add(name=f"c{at}")).of(journal)


def test_of_two_that_decide_at_once_one_wins(servers: Servers, url: str, tmp_path: Path) -> None:
    """Two writers that both believe they hold the lease: the number is the fence, the loser's whole batch is dropped."""

    async def race() -> None:
        lost: list[tuple[str, Exception]] = []
        first = opened(url, tmp_path / "first.db", fatal=lambda error: lost.append(("first", error)))
        await write(first, 2)
        # Somebody takes the lock away from the session that holds it: the lease alone does not fence.
        first._store.transact(lambda connection: connection.execute(text(f"SELECT pg_advisory_unlock({LOCK})")))
        second = opened(url, tmp_path / "second.db", fatal=lambda error: lost.append(("second", error)))
        try:
            wishes = [Asking(Add(name=f"n{at}")) for at in range(40)]
            answers = await asyncio.gather(
                *(asking.of(first if at % 2 else second) for at, asking in enumerate(wishes)), return_exceptions=True
            )
        finally:
            await first.close()
            await second.close()
        (loser, error), *more = lost
        assert more == []
        assert code_of(error.__cause__) == "E-JNL-002"
        won = [asking for asking, answer in zip(wishes, answers, strict=True) if not isinstance(answer, Exception)]
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert {at % 2 for at, answer in enumerate(answers) if not isinstance(answer, Exception)} == {0 if loser == "first" else 1}
        assert {code_of(answer) for answer in refused} == {"E-JNL-001"}  # type: ignore[arg-type]
        with Reader(url) as reader:
            kept = reader.requests([asking.rid for asking in wishes])
            assert sorted(kept) == sorted(asking.rid for asking in won)
            assert reader.last_entry().number == 2 + len(won)  # type: ignore[union-attr]

    asyncio.run(race())
    found = verify(url, lambda domain: [JOURNAL_KEY.public])
    assert (found.ok, found.entries) == (True, 22)
    # Both projections are right again, and the loser's wishes are decided where they are asked again.
    for name in ("first.db", "second.db"):
        assert run(url, tmp_path / name, lambda journal: asyncio.sleep(0, journal.world.digest())) == run(
            url, tmp_path / "third.db", lambda journal: asyncio.sleep(0, journal.world.digest())
        )


def test_the_lease_names_its_holder_and_its_term_rises(url: str, tmp_path: Path) -> None:
    """Who comes second is told who decides; who comes next has a higher term."""

    async def work(journal: Journal) -> int:
        with pytest.raises(EnjinError, match="meta-1 holds") as caught:
            PostgresStore(url, holder="meta-2")
        assert (code_of(caught.value), caught.value.details) == ("E-JNL-002", {"holder": "meta-1"})
        store = journal._store
        assert isinstance(store, PostgresStore)
        return store.lease.term

    assert [run(url, tmp_path / "p.db", work, holder="meta-1") for _ in range(2)] == [1, 2]


def test_settings_of_the_database_cannot_weaken_a_commit(servers: Servers, url: str) -> None:
    """Whatever the role or the database sets, a session of the writer waits for the disk, and hears warnings."""
    for setting in ("synchronous_commit = off", "client_min_messages = error", "statement_timeout = 60000"):
        servers.primary.sql(f'ALTER DATABASE "{DATABASE}" SET {setting}')
    store = PostgresStore(url)
    try:
        show = "SELECT current_setting('synchronous_commit'), current_setting('client_min_messages'), current_setting('statement_timeout')"
        assert tuple(store.transact(lambda connection: connection.execute(text(show)).one())) == ("on", "warning", "0")
    finally:
        store.close()
    servers.primary.sql(f'ALTER DATABASE "{DATABASE}" SET synchronous_commit = remote_apply')
    store = PostgresStore(url)
    try:
        assert store.transact(lambda connection: connection.execute(text("SHOW synchronous_commit")).scalar()) == "remote_apply"
    finally:
        store.close()


def test_a_projection_that_was_left_behind_is_made_anew(url: str, tmp_path: Path) -> None:
    """A crash between the two transactions: the journal has the entry, the local file does not."""
    run(url, tmp_path / "p.db", write)
    shutil.copy(tmp_path / "p.db", tmp_path / "old.db")
    run(url, tmp_path / "p.db", lambda journal: write(journal, 5))

    async def look(journal: Journal) -> tuple[str, int, dict[str, int]]:
        return journal.repaired, journal.head.number, journal.world.rows

    rows = {"c0": 2, "c1": 2, "c2": 2, "c3": 1, "c4": 1}
    assert run(url, tmp_path / "old.db", look) == ("behind", 8, rows)
    assert run(url, tmp_path / "old.db", look) == ("", 8, rows)
    assert run(url, tmp_path / "new.db", look) == ("absent", 8, rows)


def test_a_server_that_was_put_back_is_seen(servers: Servers, url: str, tmp_path: Path) -> None:
    """The local projection remembers what was acknowledged: a journal that shows less is not written."""
    old = "enjold"
    run(url, tmp_path / "p.db", write)
    servers.primary.sql(f'CREATE DATABASE "{old}" TEMPLATE "{DATABASE}"')
    run(url, tmp_path / "p.db", write)
    with pytest.raises(EnjinError) as caught:
        opened(servers.address(old), tmp_path / "p.db")
    assert code_of(caught.value) == "E-JNL-005"
    run(url, tmp_path / "p.db", write)


def test_a_failed_write_of_the_projection_leaves_no_entry(url: str, tmp_path: Path) -> None:
    """What can fail on the local disk fails before the server has anything."""
    lost: list[Exception] = []

    async def work(journal: Journal) -> None:
        await write(journal)
        local: Any = journal._store._local  # type: ignore[attr-defined]
        journal._store._beyond(lambda: local.connection.driver_connection.execute("PRAGMA query_only=ON"))  # type: ignore[attr-defined]
        with pytest.raises(EnjinError) as caught:
            await Asking(Add(name="no room")).of(journal)
        assert code_of(caught.value) == "E-JNL-001"

    run(url, tmp_path / "p.db", work, fatal=lost.append)
    assert len(lost) == 1
    with Reader(url) as reader:
        assert reader.last_entry().number == 3  # type: ignore[union-attr]


def test_a_number_that_is_taken_is_never_written_over(servers: Servers, url: str, tmp_path: Path) -> None:
    """Should somebody have written the next entry behind the head's back, the commit is lost as a race is."""
    lost: list[Exception] = []

    async def work(journal: Journal) -> None:
        await write(journal)
        servers.primary.sql("INSERT INTO journal_entries SELECT 4, hash, time, asker, kind, data FROM journal_entries LIMIT 1", DATABASE)
        with pytest.raises(EnjinError) as caught:
            await Asking(Add(name="x")).of(journal)
        assert (code_of(caught.value), code_of(caught.value.__cause__)) == ("E-JNL-001", "E-JNL-002")  # type: ignore[arg-type]

    run(url, tmp_path / "p.db", work, fatal=lost.append)
    assert len(lost) == 1
    assert servers.primary.sql("SELECT number FROM journal_head", DATABASE) == [(3,)]


def test_one_local_file_serves_one_daemon(servers: Servers, url: str, tmp_path: Path) -> None:
    """Two journals never share a projection's file."""

    async def work(journal: Journal) -> None:
        with pytest.raises(EnjinError) as caught:
            opened(servers.url("enjother"), tmp_path / "p.db")
        assert code_of(caught.value) == "E-JNL-002"

    run(url, tmp_path / "p.db", work)


def test_addresses_that_cannot_be_right_are_refused(servers: Servers, url: str, tmp_path: Path) -> None:
    """One clear line with a stable code, and never a password in it."""
    nobody = f"postgresql://me:hunter2@/absent?host={tmp_path}"
    for wrong, code in ((nobody, "E-JNL-021"), (f"{url}&nonsense=1", "E-JNL-019"), (servers.address("enjabsent"), "E-JNL-021")):
        for opening in (PostgresStore, Reader):
            with pytest.raises(EnjinError) as caught:
                opening(wrong)
            assert code_of(caught.value) == code
            assert "hunter2" not in f"{caught.value} {caught.value.hint}"
            assert "\n" not in str(caught.value)
    with pytest.raises(EnjinError) as caught:
        Reader(url)
    assert code_of(caught.value) == "E-JNL-017"
    assert place("postgresql://me:hunter2@db1:5432,db2/enjin?sslmode=verify-full") == "the database 'enjin' on db1:5432,db2"


def test_another_domain_is_refused(url: str, tmp_path: Path) -> None:
    """A database holds one journal."""
    run(url, tmp_path / "p.db", write)
    with pytest.raises(EnjinError) as caught:
        opened(url, tmp_path / "q.db", identity=identity(domain="ring1.other"))
    assert code_of(caught.value) == "E-JNL-003"
    with Reader(url) as reader:
        meta = reader.meta()
        assert meta is not None
        assert (meta.cloud, meta.domain, meta.head.number) == (CLOUD, DOMAIN, 3)


def test_a_server_that_does_not_sync_is_refused(servers: Servers, url: str) -> None:
    """fsync = off would acknowledge what is on no disk."""
    servers.primary.stop()
    servers.primary.start(fsync="off")
    try:
        with pytest.raises(EnjinError, match="may lose what it acknowledged") as caught:
            PostgresStore(url)
        assert code_of(caught.value) == "E-JNL-019"
    finally:
        servers.primary.stop()
        servers.primary.start()
    PostgresStore(url).close()


def test_a_connection_that_breaks_while_rows_are_sent_is_a_server_that_went_away(url: str) -> None:
    """The driver has no code of the server's then, only its own words; a mistake of ours has a code and is none."""
    import psycopg

    connection = connect(url, read_only=False)
    with pytest.raises(psycopg.Error) as mistaken:
        connection.execute("SELECT nothing_such")
    assert not away(mistaken.value)
    connection.rollback()
    cut(connection)
    with pytest.raises(psycopg.Error) as broken:
        connection.cursor().executemany("SELECT %s", [(number,) for number in range(3)])
    assert away(broken.value)
    connection.close()

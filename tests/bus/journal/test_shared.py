"""Several daemons on one journal in PostgreSQL: one decides, and its loss, or the server's, loses nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.journal import Reader, SharedJournal, Stretch, verify
from bus.journal import postgres as postgres_module
from bus.journal.errors import JournalAway, JournalLost
from enjin.errors import EnjinError, code_of
from keys.signing import Signer
from tests.bus.journal.small_world import FACTS, JOURNAL_KEY, Add, Asking, SmallTables, SmallWorld, identity
from tests.bus.postgres_servers import DATABASE, Servers, running
from tests.bus.waiting import asynchronous, until, until_async

SECOND_KEY = Signer.from_seed(b"the second daemon".ljust(32, b"."))
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One server for the tests that leave it alive."""
    with running() as found:
        yield found


@pytest.fixture
def pair() -> Iterator[Servers]:
    """A primary and its replica, which the test may kill."""
    with running() as found:
        yield found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is given up sooner."""
    monkeypatch.setattr(postgres_module, "CONNECT_S", 2)


class Daemon:
    """One daemon's shared journal with what its listeners heard."""

    def __init__(self, url: str, folder: Path, name: str, **changed: Any) -> None:
        self.name, self.heard, self.fatal = name, [], []  # type: ignore[var-annotated]
        first = name == "meta-1"
        own, other = (JOURNAL_KEY, SECOND_KEY) if first else (SECOND_KEY, JOURNAL_KEY)
        options: dict[str, Any] = {
            "identity": identity(signer=own, earlier=(other.public,)),
            "world_factory": SmallWorld,
            "facts": FACTS,
            "projection": SmallTables(),
            "beside": f"sqlite:///{folder}/{name}.db",
            "holder": name,
            "fatal": self.fatal.append,
            "beat_s": 0.02,
        }
        self.journal = SharedJournal.open(url, **options | changed)
        self.journal.on_commit(self._hear)
        self._task = asyncio.get_running_loop().create_task(self.journal.attend())

    def _hear(self, stretch: Stretch) -> None:
        self.heard.append((stretch.commit.number, len(stretch.entries)))

    async def ask(self, name: str, asking: Asking | None = None) -> Asking:
        """Ask for one more of *name*, or again, and return what was asked."""
        asking = asking or Asking(Add(name=name))
        await asking.of(self.journal)
        return asking

    async def ask_until_taken(self, asking: Asking) -> Any:
        """Ask again and again, as a client does, until there is an answer."""
        answers: list[Any] = []

        async def once() -> bool:
            try:
                answers.append(await asking.of(self.journal))
            except EnjinError as error:
                if not error.retry:
                    raise
            return bool(answers)

        await until_async(once, "an answer", DEADLINE_S)
        return answers[0]

    async def until(self, condition: Callable[[SharedJournal], bool]) -> None:
        """Wait until *condition* holds of the journal."""

        def holds() -> bool:
            if self._task.done():
                self._task.result()
            return condition(self.journal)

        await until(holds, f"{self.name}: it is {self.journal.state}, {self.journal.reason!r}", DEADLINE_S)

    async def until_away(self) -> None:
        """Wait until there is no server, and World is what was acknowledged."""

        async def settled() -> bool:
            with contextlib.suppress(JournalLost, JournalAway):
                await self.journal.settled()
                return self.journal.state == "away"
            return False

        await until_async(settled, f"{self.name} is away", DEADLINE_S)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.journal.close()


@contextlib.asynccontextmanager
async def daemon(url: str, folder: Path, name: str = "meta-1", **changed: Any) -> AsyncIterator[Daemon]:
    found = Daemon(url, folder, name, **changed)
    try:
        yield found
    finally:
        await found.close()


def checked(url: str, rids: list[str]) -> int:
    """Check the whole journal and that every one of *rids* has exactly one entry; return how many entries there are."""
    found = verify(url, lambda domain: [JOURNAL_KEY.public, SECOND_KEY.public])
    assert found.ok, found
    with Reader(url) as reader:
        numbers = [row.number for row in reader.requests(rids).values()]
    assert len(set(numbers)) == len(numbers) == len(rids)
    return found.entries


async def code_of_asking(one: Daemon, name: str) -> str:
    with pytest.raises(EnjinError) as caught:
        await one.ask(name)
    assert caught.value.retry
    return code_of(caught.value)


async def stream(one: Daemon, count: int, answered: list[Asking], lost: list[Asking]) -> None:
    """Ask *count* times, one after the other."""
    for at in range(count):
        asking = Asking(Add(name=f"s{at % 5}"))
        try:
            await asking.of(one.journal)
            answered.append(asking)
        except (JournalLost, JournalAway):
            lost.append(asking)
            await asyncio.sleep(0.002)


@asynchronous
async def test_c14_the_primary_is_killed_and_the_replica_promoted(pair: Servers, tmp_path: Path) -> None:
    """New decisions stop with a clear error, nothing acknowledged is lost, and it goes on by itself after the promotion."""
    url = pair.url()
    pair.replicate()
    answered: list[Asking] = []
    lost: list[Asking] = []
    async with daemon(url, tmp_path) as one:
        streams = [asyncio.create_task(stream(one, 30, answered, lost)) for _ in range(4)]
        await until(lambda: len(answered) >= 30, "thirty answers")
        await asyncio.to_thread(pair.primary.kill)
        await asyncio.gather(*streams)
        assert lost
        await one.until_away()
        # New decisions are refused with a stable code; what was acknowledged can still be read.
        assert await code_of_asking(one, "x") == "E-JNL-021"
        acknowledged = len(answered)
        assert sum(one.journal.world.rows.values()) == one.journal.head.number == acknowledged
        await asyncio.to_thread(pair.replica.promote)
        for asking in lost:
            await one.ask_until_taken(asking)
        assert one.journal.state == "deciding"
        assert checked(url, [asking.rid for asking in answered + lost]) == acknowledged + len(lost)
        assert sum(one.journal.world.rows.values()) == acknowledged + len(lost)
        assert sum(count for _number, count in one.heard) == one.heard[-1][0] == acknowledged + len(lost)
        assert one.fatal == []

        # The former primary comes back as if nothing had happened: nobody writes to it again.
        await asyncio.to_thread(pair.primary.start)
        assert pair.primary.sql("SELECT pg_is_in_recovery()") == [(False,)]
        await one.close()
        one.__init__(url, tmp_path, "meta-1")  # type: ignore[misc]
        assert (await one.ask_until_taken(answered[0])).repeated
        await one.ask("after")
        assert checked(url, [asking.rid for asking in answered + lost]) == acknowledged + len(lost) + 1
        await asyncio.to_thread(pair.replica.kill)
        await one.until(lambda journal: "timeline" in journal.reason)
        assert await code_of_asking(one, "x") == "E-JNL-021"
        assert one.fatal == []


@asynchronous
async def test_a_commit_that_no_replica_confirmed_is_not_acknowledged(
    pair: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that gives up waiting for its replica says so in a warning only: the commit stands there, and is not acknowledged."""
    url = pair.url()
    pair.replicate()
    monkeypatch.setattr(postgres_module, "PATIENCE_S", 2.0)
    async with daemon(url, tmp_path) as one:
        await one.ask("a")
        await asyncio.to_thread(pair.replica.kill)
        asking = Asking(Add(name="b"))
        waiting = asyncio.create_task(asking.of(one.journal))
        waits = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await until(lambda: pair.primary.sql(waits), "a commit waits for the replica")
        with pytest.raises(EnjinError) as caught:
            await waiting
        assert code_of(caught.value) == "E-JNL-001"
        assert code_of(caught.value.__cause__) == "E-JNL-021"
        await one.until_away()
        assert one.journal.world.rows == {"a": 1}
        # With the replica back, what was left unconfirmed is confirmed before it is read, and the same request has one effect.
        await asyncio.to_thread(pair.replica.start)
        assert (await one.ask_until_taken(asking)).repeated
        assert one.journal.world.rows == {"a": 1, "b": 1}
        assert pair.replica.sql("SELECT number FROM journal_head", DATABASE) == [(2,)]
        assert one.heard == [(1, 1), (2, 1)]


@asynchronous
async def test_a_primary_that_stops_without_a_word_is_left(pair: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server holds nobody for longer than the store's patience; the one that was promoted is used, the frozen one never again."""
    url = pair.url()
    pair.replicate()
    monkeypatch.setattr(postgres_module, "PATIENCE_S", 2.0)
    async with daemon(url, tmp_path) as one:
        await one.ask("a")
        pair.primary.pause()
        try:
            asking = Asking(Add(name="b"))
            with pytest.raises(EnjinError) as caught:
                await asking.of(one.journal)
            assert code_of(caught.value) in ("E-JNL-001", "E-JNL-021")
            await one.until_away()
            assert one.journal.world.rows == {"a": 1}
            await asyncio.to_thread(pair.replica.promote)
            await one.ask_until_taken(asking)
        finally:
            pair.primary.resume()
        await one.ask("c")
        assert one.journal.world.rows == {"a": 1, "b": 1, "c": 1}
        assert pair.primary.sql("SELECT number FROM journal_head", DATABASE) == [(1,)]
        assert pair.replica.sql("SELECT number FROM journal_head", DATABASE) == [(3,)]


@asynchronous
async def test_one_decides_and_the_others_follow(servers: Servers, tmp_path: Path) -> None:
    """The follower refuses and names the holder, sees what the holder decides, and decides when the holder is gone."""
    url = servers.url()
    async with daemon(url, tmp_path, "meta-1") as one, daemon(url, tmp_path, "meta-2") as two:
        assert (one.journal.state, two.journal.state, two.journal.decider) == ("deciding", "following", "meta-1")
        asked = [await one.ask("a") for _ in range(5)]
        with pytest.raises(EnjinError, match="meta-1 decides") as caught:
            await two.ask("b")
        assert (code_of(caught.value), caught.value.details["holder"]) == ("E-JNL-022", "meta-1")
        await two.until(lambda journal: journal.head.number == 5)
        assert (two.journal.world.rows, two.journal.replay(number=3).world.rows) == ({"a": 5}, {"a": 3})
        assert [line.number for line in two.journal.listing()] == [1, 2, 3, 4, 5]
        await one.close()
        await two.until(lambda journal: journal.state == "deciding")
        assert (await two.ask_until_taken(asked[0])).repeated
        await two.ask("b")
        one.__init__(url, tmp_path, "meta-1")  # type: ignore[misc]
        assert (one.journal.state, one.journal.decider, one.journal.world.rows) == ("following", "meta-2", {"a": 5, "b": 1})
        assert two.heard[-1] == (6, 1)
        assert sum(count for _number, count in two.heard) == 6
    assert checked(url, [asking.rid for asking in asked]) == 6


@asynchronous
async def test_two_that_race_for_the_lease_never_both_win(servers: Servers, tmp_path: Path) -> None:
    """However often sessions are ended under them, each wish is decided once and what was answered stands."""
    url = servers.url()
    answered: list[Asking] = []

    async def client(two: tuple[Daemon, Daemon], number: int) -> None:
        for at in range(25):
            asking = Asking(Add(name=f"r{number}"))
            turns = itertools.count(at)

            async def once(asking: Asking = asking, turns: Iterator[int] = turns) -> bool:
                try:
                    await asking.of(two[next(turns) % 2].journal)
                except EnjinError:
                    return False
                return True

            await until_async(once, "an answer", DEADLINE_S)
            answered.append(asking)

    async def trouble(clients: asyncio.Future[Any]) -> int:
        ended = 0
        statement = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        while not clients.done():
            seen = len(answered)
            ended += len(await asyncio.to_thread(servers.primary.sql, statement))
            await until(lambda seen=seen: len(answered) >= seen + 5 or clients.done(), "five more answers", DEADLINE_S)  # type: ignore[misc]
        return ended

    async with daemon(url, tmp_path, "meta-1") as one, daemon(url, tmp_path, "meta-2") as two:
        clients = asyncio.gather(*(client((one, two), number) for number in range(4)))
        assert await trouble(clients) >= 5
        await clients
        assert len(answered) == 100
        assert checked(url, [asking.rid for asking in answered]) == 100
        both = (one, two)
        await until(lambda: {each.journal.state for each in both} == {"deciding", "following"}, "one decides and one follows", DEADLINE_S)
        for each in both:
            await each.until(lambda journal: journal.head.number == 100)
            assert each.journal.world.rows == {f"r{number}": 25 for number in range(4)}
            assert sum(count for _number, count in each.heard) == 100
            assert each.fatal == []


@asynchronous
async def test_another_failure_of_a_commit_ends_the_process(servers: Servers, tmp_path: Path) -> None:
    """What is neither a lost server nor a lost race is not survived: nobody knows what it left behind."""
    url = servers.url()
    async with daemon(url, tmp_path) as one:
        await one.ask("a")
        servers.primary.sql("ALTER TABLE journal_entries DROP COLUMN asker", DATABASE)
        assert await code_of_asking(one, "b") == "E-JNL-001"
        assert [code_of(error) for error in one.fatal] == ["E-JNL-001"]


@asynchronous
async def test_a_daemon_without_a_world_does_not_start_without_a_server(servers: Servers, tmp_path: Path) -> None:
    """There is nothing that it could answer with."""
    with pytest.raises(EnjinError) as caught:
        Daemon(f"postgresql:///x?host={servers.primary.folder}&port=5999", tmp_path, "meta-1")
    assert code_of(caught.value) == "E-JNL-021"

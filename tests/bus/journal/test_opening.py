"""Opening: what is folded, repaired or refused, and that the projection is the replay."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.journal import Checkpoint, Facts, Journal, Reader, replay
from bus.journal.errors import UnknownFact
from bus.messages import canonical
from enjin.errors import EnjinError, code_of
from tests.bus.journal.conftest import Desk
from tests.bus.journal.small_world import CLOUD, DOMAIN, FACTS, JOURNAL_KEY, OTHER_CLOUD, OTHER_KEY, Add, Drop, SmallWorld, identity

ROOT = Path(__file__).resolve().parents[3]


def table(desk: Desk) -> list[tuple[Any, ...]]:
    """Return the projection's rows."""
    return desk.look("select name, value from counters order by name")


def opened(desk: Desk, **changed: Any) -> tuple[str, SmallWorld, Any]:
    """Open and close; return what was repaired, World and head."""

    async def work(journal: Journal) -> tuple[str, SmallWorld, Any]:
        return journal.repaired, journal.world, journal.head

    return desk.run(work, **changed)


def refusal(desk: Desk, **changed: Any) -> str:
    """Return the code with which opening is refused, after checking that the file stayed as it was."""
    before = desk.look("select * from journal_head") + desk.look("select * from journal_projection") + table(desk)
    with pytest.raises(EnjinError) as caught:
        desk.open(**changed)
    assert desk.look("select * from journal_head") + desk.look("select * from journal_projection") + table(desk) == before
    return code_of(caught.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(-1, 5), st.booleans()), max_size=40
    ),
    every=st.sampled_from([1, 3, 7, 1000]),
)
def test_projection_world_and_replay_agree(tmp_path_factory: pytest.TempPathFactory, steps: list[Any], every: int) -> None:
    """After any wishes: World, the tables, a replay from genesis and one from the nearest snapshot have one digest."""
    desk = Desk(tmp_path_factory.mktemp("agree"))

    async def work(journal: Journal) -> str:
        wishes = [desk.ask(Drop(name=name) if dropped else Add(name=name, by=by)).of(journal) for name, by, dropped in steps]
        await asyncio.gather(*wishes, return_exceptions=True)
        with Reader(desk.url) as reader:
            options: dict[str, Any] = {"world_factory": SmallWorld, "facts": Facts(FACTS), "publics": [JOURNAL_KEY.public]}
            for number in {journal.head.number, journal.head.number // 2}:
                near, whole = replay(reader, number=number, **options), replay(reader, number=number, from_genesis=True, **options)
                assert near.world.digest() == whole.world.digest()
                assert near.head == whole.head
            assert whole is not None
            assert replay(reader, **options).world.digest() == journal.world.digest()
        assert dict(table(desk)) == journal.world.rows
        return journal.world.digest()

    digest = desk.run(work, snapshot_every=every)
    repaired, world, _head = opened(desk)
    assert (repaired, world.digest()) == ("", digest)


def test_dropped_tables_come_back_the_same(desk: Desk) -> None:
    """Drop the projection's rows, its tables or its mark, and start again: the same rows."""
    desk.fill(30)
    rows = table(desk)
    for statement, reason in (
        ("delete from counters", "edited"),
        ("drop table counters", "edited"),
        ("delete from journal_projection", "absent"),
    ):
        desk.edit(statement)
        assert opened(desk)[0] == reason
        assert table(desk) == rows
        assert opened(desk)[0] == ""


@pytest.mark.parametrize(
    "statement",
    [
        "update counters set value = value + 1 where name = 'c3'",
        "delete from counters where name = 'c3'",
        "insert into counters values ('planted', 7)",
        "update counters set name = 'c9' where name = 'c3'",
        "update counters set value = 'rubbish' where name = 'c3'",
    ],
)
def test_n37_a_projection_row_edited_by_hand_decides_nothing(desk: Desk, statement: str) -> None:
    """World comes from the entries; an edited row is noticed at the next start and made right."""
    desk.fill(10)
    rows = table(desk)
    desk.edit(statement)
    repaired, world, _head = opened(desk)
    assert (repaired, world.rows) == ("edited", dict(rows))
    assert table(desk) == rows
    assert desk.verify().ok


def test_a_projection_that_is_behind_is_brought_up(desk: Desk) -> None:
    """Entries that were written without the tables are in them after the next start."""
    desk.fill(4)
    desk.fill(6, projection=None)
    assert desk.look("select number from journal_projection") == [(4,)]
    repaired, world, head = opened(desk)
    assert (repaired, dict(table(desk)), head.number) == ("behind", world.rows, 10)


def test_n38_a_projection_ahead_of_the_journal_is_refused(desk: Desk, tmp_path: Path) -> None:
    """An old journal put back under a newer projection is not built over."""
    desk.fill(6)
    old = tmp_path / "old.db"
    shutil.copy(desk.path, old)
    desk.fill(4)
    projection = desk.look("select cloud, domain, number, hash from journal_projection")[0]
    shutil.copy(old, desk.path)
    desk.edit("update journal_projection set cloud = ?, domain = ?, number = ?, hash = ?", *projection)
    assert refusal(desk) == "E-JNL-005"


@pytest.mark.parametrize(
    ("column", "value"), [("cloud", OTHER_CLOUD), ("domain", "ring1.other"), ("hash", "0" * 64)]
)
def test_n38_a_projection_of_another_journal_is_refused(desk: Desk, column: str, value: str) -> None:
    """Tables of another cloud, domain or history are not built over; their twin is taken."""
    desk.fill(3)
    old = desk.look(f"select {column} from journal_projection")[0][0]
    desk.edit(f"update journal_projection set {column} = ?", value)
    assert refusal(desk) == "E-JNL-003"
    desk.edit(f"update journal_projection set {column} = ?", old)
    assert opened(desk)[0] == ""


@pytest.mark.parametrize("changed", [{"cloud": OTHER_CLOUD}, {"domain": "ring1.other"}])
def test_a_journal_of_another_cloud_or_domain_is_refused(desk: Desk, changed: dict[str, str]) -> None:
    """A file belongs to one domain of one cloud."""
    desk.fill(2)
    assert refusal(desk, identity=identity(**changed)) == "E-JNL-003"


def test_a_journal_signed_by_another_key_is_refused(desk: Desk) -> None:
    """A key that was rotated out still vouches for its commits, when it is named; an unknown one never."""
    desk.fill(2)
    assert refusal(desk, identity=identity(signer=OTHER_KEY)) == "E-JNL-004"
    opened(desk, identity=identity(signer=OTHER_KEY, earlier=(JOURNAL_KEY.public,)))


def test_an_older_epoch_does_not_write_after_a_newer_one(desk: Desk) -> None:
    """A decider that was superseded cannot open the journal any more."""
    desk.fill(2, identity=identity(epoch=3))
    assert refusal(desk, identity=identity(epoch=2)) == "E-JNL-007"
    desk.fill(1, identity=identity(epoch=4))
    assert desk.verify().ok


def test_n35_less_than_a_witness_has_seen_is_refused(desk: Desk, tmp_path: Path) -> None:
    """A backup put back over a journal that a witness saw further, or otherwise, is not written to."""
    desk.fill(5)
    old = tmp_path / "backup.db"
    shutil.copy(desk.path, old)
    desk.fill(3)
    (number, entry_hash) = desk.look("select number, hash from journal_head")[0]
    floor = Checkpoint(cloud=CLOUD, domain=DOMAIN, epoch=1, number=number, hash=entry_hash)
    opened(desk, floor=floor)
    shutil.copy(old, desk.path)
    assert refusal(desk, floor=floor) == "E-JNL-014"
    desk.fill(3)
    assert refusal(desk, floor=floor) == "E-JNL-013"


def test_a_damaged_tail_is_not_written_to(desk: Desk) -> None:
    """An entry of the tail that was changed stops the decider, which cuts nothing."""
    desk.fill(9)
    desk.edit("update journal_entries set data = replace(data, 'counter.set', 'counter.sot') where number = 7")
    desk.edit("update journal_entries set data = cast(data as blob) where number = 7")
    assert refusal(desk) == "E-JNL-004"
    assert desk.look("select count(*) from journal_entries") == [(9,)]


def test_an_unknown_fact_stops_the_decider_with_its_number(desk: Desk) -> None:
    """A decider that does not know every fact cannot decide, and says which entry holds it."""
    desk.fill(3)
    with pytest.raises(UnknownFact) as caught:
        desk.open(facts={})
    assert caught.value.details == {"number": 1, "kind": "counter.set"}


def test_only_one_process_writes(desk: Desk) -> None:
    """A second opener is refused while the first lives, and taken when it was killed."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.bus.journal.conftest import Desk
        journal = Desk(Path(sys.argv[1])).open()
        print("open", flush=True)
        sys.stdin.read()
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(desk.path.parent)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        assert refusal(desk) == "E-JNL-002"
    finally:
        child.kill()
        child.communicate()
    desk.fill(1)


def test_rebuild_makes_the_same_tables_while_others_read(desk: Desk) -> None:
    """A rebuild swaps in one transaction: a reader sees the old rows or the new ones, never none."""

    async def work(journal: Journal) -> None:
        await asyncio.gather(*(desk.ask(Add(name=f"c{at % 5}")).of(journal) for at in range(50)))
        rows = table(desk)
        reader = sqlite3.connect(desk.path)
        try:
            reader.execute("begin")
            assert reader.execute("select name, value from counters order by name").fetchall() == rows
            await journal.rebuild()
            assert reader.execute("select name, value from counters order by name").fetchall() == rows
        finally:
            reader.close()
        assert table(desk) == rows
        await desk.ask(Add(name="after")).of(journal)

    desk.run(work)
    assert opened(desk)[0] == ""


def test_a_snapshot_that_does_not_hold_is_not_used(desk: Desk) -> None:
    """A planted or damaged snapshot is skipped: an earlier one, or the beginning, gives the true World."""
    desk.fill(25, snapshot_every=10)
    truth = opened(desk)[1].rows
    planted = zlib.compress(canonical({"c1": 1_000_000}))
    good = desk.look("select body from journal_snapshots where number = 20")[0][0]
    for body in (planted, good[: len(good) // 2], b"", b"rubbish", good + b"x" * 9):
        desk.edit("update journal_snapshots set body = ? where number = 20", body)
        assert opened(desk)[1].rows == truth
    desk.edit("update journal_snapshots set body = ?, digest = ?", planted, "0" * 64)
    assert opened(desk)[1].rows == truth


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "rubbish", "mysql://127.0.0.1/x", "sqlite:////tmp/x.db?mode=memory"])
def test_a_database_that_is_no_file_is_refused(url: str) -> None:
    """A journal that is not on disk is none."""
    with pytest.raises(EnjinError) as caught:
        Journal.open(url, identity=identity(), world_factory=SmallWorld, facts=FACTS)
    assert code_of(caught.value) == "E-JNL-019"


def test_a_journal_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The folder is the caller's to make; the error names it."""
    with pytest.raises(EnjinError, match="absent") as caught:
        Journal.open(f"sqlite:///{tmp_path}/absent/j.db", identity=identity(), world_factory=SmallWorld, facts=FACTS)
    assert code_of(caught.value) == "E-JNL-019"


def test_a_file_of_an_earlier_version_goes_on(desk: Desk) -> None:
    """Its index over times is dropped, its table of requests stays as it is, and entries, replies and past worlds are the same."""
    desk.fill(9)
    for statement in (
        "CREATE INDEX journal_entries_time ON journal_entries (time)",
        "ALTER TABLE journal_requests RENAME TO made_now",
        "CREATE TABLE journal_requests (request VARCHAR NOT NULL, asker VARCHAR NOT NULL, kind VARCHAR NOT NULL, body VARCHAR NOT NULL,"
        " number INTEGER NOT NULL, hash VARCHAR NOT NULL, reply BLOB NOT NULL, PRIMARY KEY (request))",
        "INSERT INTO journal_requests SELECT * FROM made_now",
        "DROP TABLE made_now",
    ):
        desk.edit(statement)
    entries, requests = desk.look("select * from journal_entries"), desk.look("select * from journal_requests order by request")
    repeated = desk.ask(Add(name="again"))

    async def work(journal: Journal) -> None:
        first = await repeated.of(journal)
        again = await repeated.of(journal)
        assert (again.number, again.reply, again.repeated) == (first.number, first.reply, True)
        assert journal.replay(time=desk.look("select time from journal_entries where number = 4")[0][0]).head.number == 4

    desk.run(work)
    assert desk.look("select name from sqlite_master where name = 'journal_entries_time'") == []
    assert desk.look("select * from journal_entries where number <= 9") == entries
    assert set(requests) < set(desk.look("select * from journal_requests"))
    assert desk.verify().ok

"""Ring 0's decisions in a real journal: projection and replay agree, and a dropped or edited projection is made anew."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import create_engine, text

from bus.envelope import Statement, seal_statement
from bus.journal import Cause, Journal, JournalIdentity
from bus.messages import Asker, Command, Moment, Reply, Role, Table, canonical
from compartments import tables
from compartments.audit import ListEntries, ShowHead, merge, questions
from compartments.facts import FACTS
from compartments.rows import Compartment, NetworkInterface
from compartments.world import World
from enjin import host
from enjin.errors import Invalid
from keys.signing import Signer
from ring0.accounts import CreateAccount
from ring0.addresses import AssignAddress, ReleaseAddress
from ring0.compartments import CreateCompartment
from ring0.nodes import PlaceNode, RemoveNode, ReportNode
from ring0.services import SERVICES
from tests.ring0.book import CLOUD, OPERATOR, genesis

TABLE = Table.of(*SERVICES)
IDENTITY = JournalIdentity(CLOUD, "ring0", 1, Signer.from_seed(b"journal".ljust(32, b".")))
PERSON = Signer.from_seed(b"person".ljust(32, b"."))
ASKER = Asker(id=OPERATOR, role=Role.SUPERVISOR, compartment="cloud", reason="a test")


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        asyncio.run(test(*arguments, **options))

    return run


def open_journal(path: Path, **options: Any) -> Journal:
    """Open the journal at *path* with World and its projection."""
    return Journal.open(
        f"sqlite:///{path}", identity=IDENTITY, world_factory=World, facts=dict(FACTS), projection=tables.WorldTables(), **options
    )


async def ask(journal: Journal, wish: Command) -> Any:
    """Decide *wish* and return the reply's result."""
    rid, body = host.request_id(), msgspec.Raw(canonical(wish))
    statement = Statement(
        cloud=CLOUD,
        channel="ring0",
        kind=f"command.{wish.KIND}",
        iss=OPERATOR,
        aud="ring0",
        time=0,
        ttl_ms=60_000,
        grant="0" * 64,
        rid=rid,
        body=body,
    )
    cause = Cause.of(seal_statement(statement, PERSON), kind=wish.KIND, request=rid, body=body, asker=ASKER)
    outcome = await journal.decide(cause, TABLE.rule(wish.KIND), wish, lambda time: Moment(time=time, request=rid, asker=ASKER))
    return msgspec.json.decode(msgspec.json.decode(outcome.reply, type=Reply).result)


async def fill(path: Path) -> tuple[str, int]:
    """Make a cloud with a few changes in the journal at *path*; return World's digest and the head's number."""
    journal = open_journal(path, snapshot_every=5)
    await ask(journal, genesis(grants=()))
    node = (await ask(journal, PlaceNode(label="ring1", strategy="jail")))["id"]
    await ask(journal, ReportNode(node=node, generation=1, state="running", isolation={"pid": "1"}))
    await asyncio.gather(*(ask(journal, CreateCompartment(name=f"team-{number}")) for number in range(8)))
    given = (await ask(journal, AssignAddress(network="fabric", node="ring1")))["ipv4"]
    await ask(journal, ReleaseAddress(address=given))
    await ask(journal, CreateAccount(name="someone"))
    await ask(journal, RemoveNode(node=node))
    await ask(journal, ReportNode(node=node, generation=1, state="gone"))
    await journal.settled()
    found = journal.world.digest(), journal.head.number
    await journal.close()
    return found


def projected(path: Path) -> str:
    """Return the digest of the world in the SQL tables of the database at *path*."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = tables.digest(connection)
    engine.dispose()
    return found


@in_a_loop
async def test_projection_and_replay_agree(tmp_path: Path) -> None:
    """After every kind of change: tables, World, replay from a snapshot and replay from the first entry have one digest."""
    path = tmp_path / "journal.db"
    digest, number = await fill(path)
    assert projected(path) == digest
    journal = open_journal(path)
    try:
        assert ("", digest, number) == (journal.repaired, journal.world.digest(), journal.head.number)
        assert journal.replay(number=number).world.digest() == digest
        early = journal.replay(number=1).world
        assert (early.count(Compartment), early.count(NetworkInterface)) == (4, 1)
        with pytest.raises(AttributeError):
            early.all(Compartment)[0].name = "changed"
    finally:
        await journal.close()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DROP TABLE compartment", "edited"),
        ("DROP TABLE projection_shape", "edited"),
        ("DELETE FROM compartment", "edited"),
        ("UPDATE account SET name = 'evil'", "edited"),
        ("UPDATE network SET used = 'many'", "edited"),
        ("INSERT INTO containment VALUES ('a', 'b')", "edited"),
        ("UPDATE node_observation SET isolation = 'no json'", "edited"),
        ("DELETE FROM journal_projection", "absent"),
    ],
)
@in_a_loop
async def test_a_projection_that_was_touched_is_made_anew(tmp_path: Path, damage: str, what: str) -> None:
    """Whatever is done to the tables by hand decides nothing and does not survive a start."""
    path = tmp_path / "journal.db"
    digest, _ = await fill(path)
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    journal = open_journal(path)
    assert (what, digest) == (journal.repaired, journal.world.digest())
    await journal.close()
    assert projected(path) == digest


@in_a_loop
async def test_rows_of_another_shape_are_replayed(tmp_path: Path) -> None:
    """A projection and snapshots that another version wrote are not read: everything is folded from the entries."""
    path = tmp_path / "journal.db"
    digest, number = await fill(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE projection_shape SET fingerprint = 'older'"))
        connection.execute(text("DELETE FROM journal_snapshots"))
    engine.dispose()
    journal = open_journal(path)
    assert (digest, number) == (journal.world.digest(), journal.head.number)
    await journal.close()
    assert projected(path) == digest


@in_a_loop
async def test_the_log_tells_who_did_what_when_and_why(tmp_path: Path) -> None:
    """Each line says ring, number, time, who, what, why and what became true; filters and bounds hold; logs merge by time."""
    path = tmp_path / "journal.db"
    await fill(path)
    journal = open_journal(path)
    rows = {question.query.KIND: question.answer for question in questions(journal, "ring0", 0)}
    lines = rows["audit.log"](ListEntries(oldest=True), None, ASKER)
    assert (lines[0]["what"], lines[0]["who"], lines[0]["why"], lines[0]["ring"]) == ("cloud.found", OPERATOR, "a test", 0)
    assert "cloud.founded" in lines[0]["facts"]
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    newest = rows["audit.log"](ListEntries(limit=2), None, ASKER)
    assert lines[-2:] == newest
    created = rows["audit.log"](ListEntries(command="compartment.create", oldest=True), None, ASKER)
    assert len(created) == 8
    assert lines[-1]["number"] == rows["audit.head"](ShowHead(), None, ASKER)["number"]
    other = [line | {"ring": 1, "domain": "n-1"} for line in created]
    assert len(lines) + 8 == len(merge(lines, other))
    assert sorted(merge(other, lines), key=lambda line: line["time"]) == merge(lines, other)
    for bad in (ListEntries(limit=0), ListEntries(limit=1_001), ListEntries(after=-1)):
        with pytest.raises(Invalid):
            rows["audit.log"](bad, None, ASKER)
    await journal.close()

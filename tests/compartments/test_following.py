"""Following a domain through its questions: entries in order, then snapshots that must give the same world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from bus.journal import Follower, Journal
from bus.messages import Asker, Query, Reply, Role, Table, canonical
from compartments.facts import FACTS
from compartments.following import copy_entries, take_snapshot
from compartments.history import questions
from compartments.world import World
from enjin.errors import EnjinError
from tests.bench import ledger

EVERY = 50


def asking(journal: Journal) -> tuple[Callable[[Query], Awaitable[Reply]], list[str]]:
    """Return how *journal*'s domain answers, and the list of what it was asked."""
    table, asked = Table.of(questions(journal, dict, dict)), []

    async def ask(query: Query) -> Reply:
        asked.append(query.KIND)
        asker = Asker(id="parent", role=Role.SUPERVISOR, compartment="cloud")
        answer = table.question(query.KIND).answer(query, journal.world, asker)
        return Reply(ok=True, result=msgspec.Raw(canonical(answer)))

    return ask, asked


def follower_at(path: Path) -> Follower:
    """Return the follower of the ledger's domain whose file is *path*, with a World."""
    found = Follower.open(
        f"sqlite:///{path}", cloud=ledger.CLOUD, domain=ledger.DOMAIN, keys_for=lambda _domain: (ledger.SIGNER.public,)
    )
    found.project(World, FACTS)
    return found


def test_a_follower_that_was_away_has_todays_world_first_and_then_every_entry(tmp_path: Path) -> None:
    """The snapshot is fetched once, the entries in stretches; at the end both worlds have one digest, also after a restart."""

    async def work() -> None:
        journal = ledger.open_ledger(tmp_path / "journal.db", snapshot_every=EVERY)
        await ledger.found(journal)
        await ledger.write_together(journal, ledger.moves(3 * EVERY + 10))
        ask, asked = asking(journal)
        follower = follower_at(tmp_path / "copy.db")
        try:
            await take_snapshot(follower, ask)
            assert (follower.head.number, follower.projected.number) == (0, 3 * EVERY)
            await copy_entries(follower, ask)
            assert follower.projected == follower.head == journal.head
            assert follower.world.digest() == journal.world.digest()
            asked.clear()
            await take_snapshot(follower, ask)
            assert asked == ["journal.snapshot"]
        finally:
            follower.close()
        again = follower_at(tmp_path / "copy.db")
        try:
            assert again.world.digest() == journal.world.digest()
        finally:
            again.close()
            await journal.close()

    asyncio.run(work())


def test_what_the_domain_refuses_is_raised(tmp_path: Path) -> None:
    """An answer that is a refusal changes nothing."""

    async def refuse(_query: Query) -> Reply:
        return Reply(ok=False, code="E-JNL-018", message="the journal is closed")

    follower = follower_at(tmp_path / "copy.db")
    try:
        for work in (copy_entries, take_snapshot):
            with pytest.raises(EnjinError, match="the journal is closed"):
                asyncio.run(work(follower, refuse))
        assert follower.head.number == 0
    finally:
        follower.close()

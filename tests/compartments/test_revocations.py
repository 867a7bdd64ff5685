"""Signed revocations on their way into a real domain: enforced by the next message, from above alone, for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.journal.entry import Entry
from bus.speaker import Speaker
from compartments.revocations import Revoke
from compartments.rows import RevokedKey
from enjin.canonical import parse
from keys.frame import open_frame
from tests.bus.waiting import asynchronous, until
from tests.compartments.parents import PARENT, Parents, Shift, Touch, nodes

NEIGHBOUR = "n-00000000000000ff"


@pytest.fixture
def shift() -> Iterator[Shift]:
    with pytest.MonkeyPatch.context() as patch:
        yield Shift(patch)


def with_neighbour(parents: Parents) -> None:
    """Let there be another ring 1 node that may do everything on every channel, and has a child of its own."""
    parents.enrol(NEIGHBOUR, 1, 2, 3)
    parents.enrol("its child", 2, 0, 2, daemon=False, by=NEIGHBOUR)


@asynchronous
async def test_n22_a_statement_from_above_bites_at_once_and_takes_descendants(tmp_path: Path, shift: Shift) -> None:
    """Key and child work; told, the very next message of both is refused, without a charter; the operator goes on, no gap is left."""
    async with nodes(tmp_path, shift, prepare=with_neighbour) as (node,):
        parents = node.parents
        neighbour, child = parents.people[NEIGHBOUR], parents.people["its child"]
        assert [await node.dead(one) for one in (neighbour, child)] == [False, False]
        parents.revoke(neighbour)
        await node.tell()
        assert node.gate.view()["standing"] == "behind"
        assert (await node.command(parents.people[PARENT], Revoke(frame=parents.statement(neighbour)))).ok
        assert [await node.dead(one) for one in (neighbour, child)] == [True, True]
        assert (await node.code(parents.operator), node.gate.view()["standing"]) == ("", "fresh")


@asynchronous
async def test_n28_a_neighbours_or_childs_statement_is_refused(tmp_path: Path, shift: Shift) -> None:
    """Sent by itself, or passed on by the ring above: who stands above nothing of it revokes nothing, and no entry is made."""
    async with nodes(tmp_path, shift, prepare=with_neighbour) as (node,):
        parents = node.parents
        neighbour, operator = parents.people[NEIGHBOUR], parents.operator
        before = node.domain.journal.head
        for target in (operator, parents.people[node.node], parents.people[PARENT]):
            wish = Revoke(frame=parents.statement(target, NEIGHBOUR))
            assert [(await node.command(one, wish)).code for one in (neighbour, parents.people[PARENT])] == ["E-TRU-020"] * 2
        upward = Revoke(frame=parents.statement(parents.people[PARENT], node.node))
        assert (await node.command(parents.people[PARENT], upward)).code == "E-TRU-020"
        assert (node.domain.journal.head, await node.code(operator)) == (before, "")
        assert (await node.command(parents.people[PARENT], Revoke(frame=parents.statement(operator)))).ok
        assert await node.dead(operator)


@asynchronous
async def test_a_revocation_is_never_taken_back(tmp_path: Path, shift: Shift) -> None:
    """Told twice it is one row; a new grant for the key, in a newer charter, does not make it live again."""
    async with nodes(tmp_path, shift, prepare=with_neighbour) as (node,):
        parents = node.parents
        operator, ring0 = parents.operator, parents.people[PARENT]
        parents.revoke(operator)
        for _ in range(2):
            assert (await node.command(ring0, Revoke(frame=parents.statement(operator)))).ok
        assert [row.key for row in node.domain.world.all(RevokedKey)] == [str(operator.keyring.message.key_id)]
        parents.began += 1
        again = parents.enrol("operator", 0, 0, 2, daemon=False)
        parents.revoked.clear()
        assert (await node.bring(parents.charter(node.node))).ok
        assert await node.dead(again)


@asynchronous
async def test_the_journal_keeps_the_statement_itself(tmp_path: Path, shift: Shift) -> None:
    """The entry's cause holds the issuer's signed bytes, so that whoever has the root can check who revoked."""
    async with nodes(tmp_path, shift) as (node,):
        parents = node.parents
        text = parents.statement(parents.operator)
        assert (await node.command(parents.people[PARENT], Revoke(frame=text))).ok
        await node.domain.journal.settled()
        entry = parse(node.domain.journal.entries(0, 100)[-1].data, Entry)
        assert text.encode() in open_frame(entry.cause.frame).payload


@asynchronous
async def test_n19_a_grant_outside_the_issuers_journal_is_believed_by_nobody(tmp_path: Path, shift: Shift) -> None:
    """Signed with the true key of the ring above, but in no charter: its holder is a stranger; named by the next one, it is not."""
    async with nodes(tmp_path, shift) as (node,):
        parents = node.parents
        ghost = parents.enrol("ghost", 0, 0, 2, daemon=False)
        counters = node.domain.dispatcher.counters
        before, head = counters["key"], node.domain.journal.head
        speaker = parents.speaker(ghost, node.channel, daemon=False)
        await node.member("voice").publish("command.app.touch", speaker.seal("command.app.touch", Touch(), audience=node.node))
        await until(lambda: counters["key"] == before + 1, "the stranger was refused")
        assert node.domain.journal.head == head
        assert (await node.bring(parents.charter(node.node))).ok
        assert await node.code(ghost) == ""


@asynchronous
async def test_n39_a_copied_seed_is_fenced_by_the_later_start(tmp_path: Path, shift: Shift) -> None:
    """A clone of the neighbour speaks with its true key and grant: from its first word on the original is refused, and says so; whichever
    of the two is revoked, both are."""
    async with nodes(tmp_path, shift, prepare=with_neighbour) as (node,):
        parents = node.parents
        who = parents.people[NEIGHBOUR]
        original, voice = parents.speaker(who, node.channel), node.member("voice")
        counters = node.domain.dispatcher.counters

        async def ends(speaker: Speaker, stage: str) -> None:
            before = counters[stage]
            await voice.publish("command.app.touch", speaker.seal("command.app.touch", Touch(), audience=node.node))
            await until(lambda: counters[stage] == before + 1, f"the wish ends at {stage}")

        await ends(original, "handled")
        clone = parents.speaker(who, node.channel)
        await ends(clone, "handled")
        await ends(original, "boot")
        await ends(clone, "handled")
        assert (await node.command(parents.people[PARENT], Revoke(frame=parents.statement(who)))).ok
        for one in (original, clone):
            await ends(one, "grant")

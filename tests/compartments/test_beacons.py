"""Real domains that hear, or do not hear, the ring above: who commands them then, and that what they run goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.envelope import Behalf
from bus.messages import Asker, Role
from compartments.beacons import ShowStanding, questions
from compartments.world import World
from keys.beacon import HeadFell, head_of
from tests.bus.waiting import asynchronous
from tests.compartments.parents import PARENT, SECOND, Node, Parents, Shift, Touch, nodes, seed

NOT_NOW = "E-TRU-012"
PEER = "n-00000000000000ff"


@pytest.fixture
def shift() -> Iterator[Shift]:
    with pytest.MonkeyPatch.context() as patch:
        yield Shift(patch)


def with_peer(parents: Parents) -> None:
    """Let there be another domain's daemon whom ring 0 made an operator of everything."""
    parents.enrol(PEER, 1, 1, 2)


async def who_may(node: Node) -> dict[str, str]:
    """Return what each is refused with: the ring above, this daemon, a person, another domain's daemon."""
    parents = node.parents
    said = {
        "parent": await node.code(parents.people[PARENT]),
        "self": "",
        "person": await node.code(parents.operator),
        "peer": await node.code(parents.people[PEER]),
    }
    assert (await node.domain.wish(Touch())).ok
    return said


@asynchronous
async def test_n27_peers_wait_while_the_beacon_is_frozen(tmp_path: Path, shift: Shift) -> None:
    """Eleven seconds without one: another domain's commands wait; the ring above, a person and the daemon's own work go on."""
    async with nodes(tmp_path, shift, prepare=with_peer) as (node,):
        all_well = {"parent": "", "self": "", "person": "", "peer": ""}
        assert await who_may(node) == all_well
        held = node.parents.beacon(node.charter)
        shift.us += 11 * SECOND
        assert await who_may(node) == all_well | {"peer": NOT_NOW}
        assert node.gate.view()["standing"] == "stale"
        await node.tell(held)  # what was kept back is as old as it is
        assert await who_may(node) == all_well | {"peer": NOT_NOW}
        await node.tell()
        assert await who_may(node) == all_well


@asynchronous
async def test_beyond_its_autonomy_a_domain_takes_new_authority_from_nobody(tmp_path: Path, shift: Shift) -> None:
    """The grant says how long a domain may go on alone; after that people wait too, and what runs is still looked after."""
    async with nodes(tmp_path, shift, prepare=with_peer) as (node,):
        shift.us += 3590 * SECOND
        assert (await who_may(node))["person"] == ""
        shift.us += 20 * SECOND
        assert await who_may(node) == {"parent": "", "self": "", "person": NOT_NOW, "peer": NOT_NOW}


@asynchronous
async def test_n29_a_hidden_revocation_stops_commands_until_it_was_fetched(tmp_path: Path, shift: Shift) -> None:
    """The broker carries beacons and drops the charter that revokes: nobody but the ring above commands; when it comes, the others do."""
    async with nodes(tmp_path, shift, prepare=with_peer) as (node,):
        parents = node.parents
        parents.revoke(parents.people[PEER])
        node.charter = parents.charter(node.node)
        await node.tell()
        waiting = asyncio.ensure_future(node.command(parents.operator, Touch()))
        refused, peer = await asyncio.gather(node.code(parents.operator), node.code(parents.people[PEER]))
        assert (refused, peer) == (NOT_NOW, NOT_NOW)
        assert (await waiting).code == NOT_NOW
        assert (await node.code(parents.people[PARENT]), (await node.domain.wish(Touch())).ok) == ("", True)
        assert node.gate.view()["why"].startswith("a revocation of the ring above is missing")
        held = asyncio.ensure_future(node.command(parents.operator, Touch()))
        assert (await node.bring(node.charter)).ok
        assert (await held).ok  # it came in the gap, and was decided after it
        assert (await node.code(parents.operator), node.gate.view()["standing"]) == ("", "fresh")
        assert await node.dead(parents.people[PEER])


@asynchronous
async def test_n30_a_revocation_that_one_of_three_missed_is_enforced_there_once_it_heals(tmp_path: Path, shift: Shift) -> None:
    """Two nodes refuse the key at once; the third heard nothing, then a beacon: from then on it takes nothing until it was told."""
    async with nodes(tmp_path, shift, 3, prepare=with_peer) as made:
        parents = made[0].parents
        peer = parents.people[PEER]
        parents.revoke(peer)
        for node in made:
            node.charter = parents.charter(node.node)
        for node in made[:2]:
            assert (await node.bring(node.charter)).ok
            await node.tell()
        assert [await node.dead(peer) for node in made] == [True, True, False]
        assert await made[2].code(peer) == ""  # cut off for less than ten seconds: this is the budget
        await made[2].tell()
        assert await made[2].code(peer) == NOT_NOW
        assert (await made[2].bring(made[2].charter)).ok
        assert [await node.dead(peer) for node in made] == [True] * 3
        assert [node.gate.view()["standing"] for node in made] == ["fresh"] * 3


@asynchronous
async def test_n25_an_older_or_forked_head_is_refused_and_alarmed(tmp_path: Path, shift: Shift) -> None:
    """After charter 2, a beacon that shows charter 1, or charter 2 with another set, is not heard and raises an alarm each."""
    async with nodes(tmp_path, shift) as (node,):
        parents, first = node.parents, node.charter
        node.charter = parents.charter(node.node)
        assert (await node.bring(node.charter)).ok
        await node.tell()
        heard = node.gate.watch.heard
        await node.tell(parents.beacon(first))
        other = msgspec.structs.replace(node.charter, grants=node.charter.grants[:1])
        await node.tell(parents.beacon(other))
        assert (len(node.alarms), node.gate.watch.heard) == (2, heard)
        assert "two contents" in node.gate.view()["why"]
        await node.tell()
        assert node.gate.watch.heard > heard


@asynchronous
async def test_n26_a_charter_that_the_beacon_did_not_name_is_refused(tmp_path: Path, shift: Shift) -> None:
    """The beacon names set 2; a charter 2 with other grants, though signed by the ring above, changes nothing; the named one does."""
    async with nodes(tmp_path, shift) as (node,):
        parents = node.parents
        node.charter = parents.charter(node.node)
        await node.tell()
        mixed = msgspec.structs.replace(node.charter, grants=node.charter.grants[:1])
        before = node.domain.journal.head
        assert (await node.bring(mixed)).code == "E-TRU-011"
        assert (node.domain.journal.head, len(node.alarms)) == (before, 1)
        assert (await node.bring(node.charter)).ok


@asynchronous
async def test_nobody_but_the_ring_above_says_what_it_says(tmp_path: Path, shift: Shift) -> None:
    """A beacon of another domain's daemon, or of this one itself, keeps nothing alive and stops nothing."""
    async with nodes(tmp_path, shift, prepare=with_peer) as (node,):
        before = node.gate.watch.heard
        for subject in (PEER, node.node):
            speaker = node.parents.speaker(node.parents.people[subject], node.channel)
            false = msgspec.structs.replace(node.parents.beacon(node.charter), revocations=9)
            await node.tell(false, speaker)
        assert (node.gate.watch.heard, node.gate.view()["standing"]) == (before, "fresh")
        await node.tell()
        assert node.gate.watch.heard > before


@asynchronous
async def test_n27_what_our_own_door_says_for_an_account_is_a_persons(tmp_path: Path, shift: Shift) -> None:
    """A token's wish goes through while the ring above is known, and waits in a gap as its account would."""
    async with nodes(tmp_path, shift) as (node,):
        behalf = Behalf(account="u-1", token="t-1", door="http")
        node.domain.dispatcher.permission._account = lambda _behalf: Asker(id="u-1", role=Role.OPERATOR, token="t-1")  # type: ignore[assignment]

        async def asked() -> str:
            frame = node.domain.speaker.seal("command.app.touch", Touch(), audience=node.node, behalf=behalf)
            answered = await node.domain.dispatcher.handle(frame, channel=node.channel, door="http")
            assert answered is not None
            return answered.reply.code

        assert await asked() == ""
        await node.tell(msgspec.structs.replace(node.parents.beacon(node.charter), revocations=1))
        assert await asked() == NOT_NOW


@asynchronous
async def test_standing_is_told_to_who_asks(tmp_path: Path, shift: Shift) -> None:
    """`trust.standing` names the parent, both heads and why commands wait; before the daemon knows, it says so."""
    async with nodes(tmp_path, shift) as (node,):
        (row,) = questions(lambda: node.gate)
        said = row.answer(ShowStanding(), World(), Asker(id="u-1", role=Role.OPERATOR))
        assert isinstance(said, dict)
        assert (said["standing"], said["why"], said["parent"], said["head"], said["head_told"]) == ("fresh", "", PARENT, 1, 1)
    (row,) = questions(lambda: None)
    with pytest.raises(Exception, match="starting"):
        row.answer(ShowStanding(), World(), Asker(id="u-1", role=Role.OPERATOR))
    with pytest.raises(HeadFell):
        node.gate.watch.check_holding(head_of(1, 0, (), [seed("x").hex()]))

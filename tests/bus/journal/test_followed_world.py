"""A follower's World: far behind it goes on from a signed snapshot, beside the decider it compares, and neither is taken on trust."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.journal import Follower, Head, Journal, Reader, Stretch
from bus.journal.errors import BadSnapshot, Diverged, Forked
from bus.journal.reader import StoredSnapshot
from bus.journal.snapshot import seal_snapshot
from bus.journal.snapshot_parts import PART_BYTES, Parts, SnapshotPart, part_of
from bus.messages import canonical
from enjin.canonical import parse
from tests.bus.journal.conftest import Desk, keys_for
from tests.bus.journal.small_world import CLOUD, DOMAIN, FACTS, OTHER_KEY, CounterSet, SmallWorld, identity

EVERY = 10


def opened(folder: Path) -> Follower:
    """Return the follower whose file lies in *folder*, with a World."""
    follower = Follower.open(f"sqlite:///{folder / 'copy.db'}", cloud=CLOUD, domain=DOMAIN, keys_for=keys_for)
    follower.project(SmallWorld, FACTS)
    return follower


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    """An open, empty copy with a World."""
    found = opened(tmp_path)
    yield found
    found.close()


def stretches(desk: Desk, after: int = 0) -> list[Stretch]:
    """Return what follows entry *after*, in stretches of one commit."""
    found, at = [], after
    with Reader(desk.url) as reader:
        while (stretch := reader.stretch(at, entries_max=1)) is not None:
            found.append(stretch)
            at = stretch.commit.number
    return found


def newest(desk: Desk) -> StoredSnapshot:
    """Return the decider's newest snapshot, in the parts and bytes in which it travels."""
    with Reader(desk.url) as reader:
        first = part_of(reader, 0, 0, 0)
        assert first is not None
        parts = Parts(parse(canonical(first), SnapshotPart))
        while not parts.whole:
            more = part_of(reader, 0, parts.number, parts.offset)
            assert more is not None
            parts.add(parse(canonical(more), SnapshotPart))
    return parts.snapshot()


def world_of(desk: Desk) -> SmallWorld:
    """Return the decider's World."""

    async def work(journal: Journal) -> Any:
        return journal.replay().world

    return desk.run(work)  # type: ignore[no-any-return]


def test_a_follower_far_behind_has_the_world_of_today_before_the_entries(desk: Desk, follower: Follower, tmp_path: Path) -> None:
    """World comes from the snapshot, stays while the entries before it are copied, and goes on from it; also across a restart."""
    desk.fill(35, snapshot_every=EVERY)
    snapshot = newest(desk)
    assert snapshot.number == 30
    first, *rest = stretches(desk)
    follower.append(first)
    follower.keep(snapshot)
    assert (follower.projected, follower.world.digest(), follower.snapshot) == (Head(30, snapshot.hash), snapshot.digest, 30)
    follower.append(rest[0])
    assert follower.projected.number == 30
    assert follower.head.number < 30
    follower.close()
    again = opened(tmp_path)
    try:
        assert (again.projected.number, again.world.digest()) == (30, snapshot.digest)
        for stretch in stretches(desk, again.head.number):
            assert again.append(stretch) is None
        assert (again.head.number, again.projected) == (35, again.head)
        assert again.world.rows == world_of(desk).rows
    finally:
        again.close()


def test_equal_entries_give_an_equal_digest(desk: Desk, follower: Follower) -> None:
    """A follower that is not behind compares its World with the decider's, byte by byte in a hash, and keeps the snapshot."""
    desk.fill(25, snapshot_every=EVERY)
    for stretch in stretches(desk):
        follower.append(stretch)
    follower.keep(newest(desk))
    assert (follower.snapshot, follower.alarm, follower.projected.number) == (20, None, 25)


def test_another_world_of_the_same_entries_is_an_alarm(desk: Desk, follower: Follower) -> None:
    """A snapshot that the decider signed over another World: the follower keeps its own and says so."""
    desk.fill(25, snapshot_every=EVERY)
    for stretch in stretches(desk):
        follower.append(stretch)
    true, other = newest(desk), SmallWorld()
    other.put("c1", 4711)
    mine = dict(follower.world.rows)
    with pytest.raises(Diverged, match="give another world here"):
        follower.keep(seal_snapshot(identity(), Head(true.number, true.hash), other.digest(), other.snapshot()))
    assert (follower.world.rows, follower.snapshot, type(follower.alarm)) == (mine, 0, Diverged)


def test_a_beacons_digest_is_compared_where_both_stand_at_the_same_entry(desk: Desk, follower: Follower) -> None:
    """Equal: nothing; another entry: nothing to say; unequal: an alarm."""
    desk.fill(5)
    for stretch in stretches(desk):
        follower.append(stretch)
    follower.agree(5, world_of(desk).digest())
    follower.agree(4, "0" * 64)
    assert follower.alarm is None
    with pytest.raises(Diverged):
        follower.agree(5, "0" * 64)
    assert isinstance(follower.alarm, Diverged)


@pytest.mark.parametrize("spoil", ["stranger", "digest", "body", "cut", "number"])
def test_n33_a_spoiled_snapshot_is_not_believed(desk: Desk, follower: Follower, spoil: str) -> None:
    """Signed by a stranger, with another digest, other bytes, cut, or of another entry: refused; the true one is taken."""
    desk.fill(25, snapshot_every=EVERY)
    true, other = newest(desk), SmallWorld()
    head = Head(true.number, true.hash)
    spoiled = {
        "stranger": seal_snapshot(identity(signer=OTHER_KEY), head, other.digest(), other.snapshot()),
        "digest": seal_snapshot(identity(), head, "0" * 64, other.snapshot()),
        "body": true._replace(body=seal_snapshot(identity(), head, other.digest(), other.snapshot()).body),
        "cut": true._replace(body=true.body[:-4]),
        "number": true._replace(number=true.number + 1),
    }[spoil]
    with pytest.raises(BadSnapshot):
        follower.keep(spoiled)
    assert (follower.world.rows, follower.snapshot, follower.projected.number) == ({}, 0, 0)
    follower.keep(true)
    assert follower.projected.number == 20


def test_n34_a_snapshot_of_another_history_is_a_fork(desk: Desk, follower: Follower) -> None:
    """Before the copy reaches it, the entry that differs is not copied; after, the snapshot is not kept."""
    desk.fill(25, snapshot_every=EVERY)
    true = newest(desk)
    other = SmallWorld()
    forged = seal_snapshot(identity(), Head(20, "f" * 64), other.digest(), other.snapshot())
    follower.keep(forged)
    with pytest.raises(Forked, match="a snapshot and an entry 20 that differ"):
        for stretch in stretches(desk):
            follower.append(stretch)
    assert follower.head.number < 20
    assert isinstance(follower.alarm, Forked)
    with pytest.raises(Forked, match="not ours"):
        follower.keep(seal_snapshot(identity(), Head(10, "f" * 64), other.digest(), other.snapshot()))
    assert true.number == 20


def test_a_follower_that_stopped_goes_on_from_a_snapshot_that_it_can_read(desk: Desk, tmp_path: Path) -> None:
    """An unknown fact stops the World; a snapshot beyond it that this version can read lets it go on."""
    desk.fill(12, snapshot_every=EVERY)
    follower = Follower.open(f"sqlite:///{tmp_path / 'copy.db'}", cloud=CLOUD, domain=DOMAIN, keys_for=keys_for)
    try:
        follower.project(SmallWorld, [])
        follower.append(stretches(desk)[0])
        assert follower.stopped is not None
        follower.keep(newest(desk))
        assert (follower.stopped, follower.projected.number) == (None, 10)
    finally:
        follower.close()
    assert CounterSet.KIND in FACTS


def test_parts_fit_a_message_and_belong_together(desk: Desk) -> None:
    """A large snapshot comes in several parts; a part of another one, out of order or too long is refused."""
    desk.fill(10, snapshot_every=EVERY)
    true = newest(desk)
    body = bytes(range(256)) * (PART_BYTES // 100)
    desk.edit("update journal_snapshots set body = ?", body)
    assert newest(desk).body == body
    with Reader(desk.url) as reader:
        first = part_of(reader, 0, 0, 0)
        second = part_of(reader, 0, 10, PART_BYTES)
        assert part_of(reader, 10, 0, 0) is None
        assert part_of(reader, 0, 11, 0) is None
    assert first is not None
    assert second is not None
    assert len(first.data) == PART_BYTES
    for wrong in (first, _with(second, number=11), _with(second, hash="0" * 64), _with(second, offset=1), _with(second, data=b"")):
        with pytest.raises(BadSnapshot):
            Parts(first).add(wrong)
    with pytest.raises(BadSnapshot):
        Parts(second)
    assert true.number == 10


def _with(part: SnapshotPart, **changed: Any) -> SnapshotPart:
    values = {name: getattr(part, name) for name in part.__struct_fields__}
    return SnapshotPart(**values | changed)

"""World: an order-independent digest, indexes that agree with a scan, snapshots, and what changed."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compartments.rows import Containment, Counter, NetworkInterface, Node, NodeObservation, Tier
from compartments.world import BadSnapshot, NoSuchRow, StaleSnapshot, World
from enjin.canonical import canonical

TIERS = st.builds(Tier, id=st.sampled_from("abcdef"), name=st.sampled_from(["web", "db", "job"]), single=st.booleans())
EDGES = st.builds(Containment, parent=st.sampled_from("abc"), child=st.sampled_from("xyz"))
ADDRESSES = st.builds(
    NetworkInterface,
    network=st.sampled_from(["n1", "n2"]),
    offset=st.integers(0, 20),
    node=st.sampled_from("pqr"),
    name=st.just("eth0"),
    ipv4=st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
)
OBSERVATIONS = st.builds(
    NodeObservation,
    node=st.sampled_from("pqr"),
    generation=st.integers(1, 3),
    state=st.just("running"),
    time=st.integers(0, 9),
    isolation=st.dictionaries(st.sampled_from(["pid", "net"]), st.sampled_from(["1", "2"])),
)
ROWS = st.one_of(TIERS, EDGES, ADDRESSES, OBSERVATIONS)


@given(st.lists(ROWS, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_digest_does_not_depend_on_order(rows: list, chance: random.Random) -> None:
    """Equal sets of rows have equal digests, whatever the order in which they came, with detours."""
    kept = World(rows)
    last = [row for shape in (Tier, Containment, NetworkInterface, NodeObservation) for row in kept.all(shape)]
    chance.shuffle(last)
    other = World()
    for row in rows:
        other.put(row)
        other.delete(type(row), *(getattr(row, field) for field in row.KEY))
    for row in last:
        other.put(row)
    assert kept.digest() == other.digest()


@given(st.lists(ROWS, max_size=40), st.lists(ROWS, max_size=10))
@settings(max_examples=80, deadline=None)
def test_find_agrees_with_a_scan(rows: list, removed: list) -> None:
    """An indexed look-up finds what a scan finds, in the order of keys, also after replacing and removing."""
    world = World(rows)
    for row in removed:
        world.delete(type(row), *(getattr(row, field) for field in row.KEY))
    for address in ("10.0.0.1", "10.0.0.2"):
        for node in "pq":
            scan = [row for row in world.all(NetworkInterface) if row.ipv4 == address and row.node == node and row.name == "eth0"]
            assert scan == world.find(NetworkInterface, ipv4=address, node=node, name="eth0")
    assert [row for row in world.all(Tier) if row.single] == world.find(Tier, single=True)
    for shape in (Tier, Containment, NetworkInterface):
        keys = [tuple(getattr(row, field) for field in shape.KEY) for row in world.all(shape)]
        assert sorted(keys) == keys


@given(st.lists(ROWS, max_size=40))
@settings(max_examples=50, deadline=None)
def test_snapshot_restores_the_same_world(rows: list) -> None:
    """A restored world has the digest of the one that was kept, and nothing in it counts as changed."""
    world = World(rows)
    restored = World.restore(world.snapshot())
    assert (world.digest(), []) == (restored.digest(), restored.take_changes())


def test_damaged_snapshot_is_refused() -> None:
    """Every flipped byte of a snapshot is refused, or leaves the same rows."""
    world = World([Tier(id="a", name="web"), Containment(parent="a", child="b")])
    data = world.snapshot()
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises((BadSnapshot, StaleSnapshot)):
            World.restore(bytes(damaged))


def test_snapshot_of_other_shapes_is_stale() -> None:
    """A snapshot that was made with other shapes of rows is refused as stale, not as damaged."""
    kept = msgspec.json.decode(World().snapshot())
    with pytest.raises(StaleSnapshot):
        World.restore(canonical(kept | {"shape": "0" * 64}))


def test_changes_are_told_once_with_their_last_state() -> None:
    """Each changed row is told once, deleted ones as deleted, unchanged ones not at all."""
    world = World([Counter(name="a", value=1), Counter(name="b", value=1), Counter(name="c", value=1)])
    world.take_changes()
    world.put(Counter(name="a", value=2))
    world.put(Counter(name="a", value=3))
    world.delete(Counter, "b")
    world.put(Counter(name="c", value=1))
    world.delete(Counter, "no such")
    told = [(change.op, change.key, change.row) for change in world.take_changes()]
    assert [("put", ("a",), Counter(name="a", value=3)), ("delete", ("b",), None)] == told
    assert world.take_changes() == []


def test_rows_are_frozen_and_found_by_key() -> None:
    """A row cannot be changed in place; a key is its fields in order; a missing row is an error with a code."""
    edge = Containment(parent="a", child="b")
    world = World([edge])
    assert (edge, edge, None) == (world.get(Containment, "a", "b"), world.get(Containment, ("a", "b")), world.get(Containment, "b", "a"))
    with pytest.raises(AttributeError):
        edge.parent = "c"  # type: ignore[misc]
    with pytest.raises(NoSuchRow) as refused:
        world.need(Node, "n-1")
    assert (refused.value.code, str(refused.value)) == ("E-WLD-003", "there is no node n-1")


def test_digest_changes_with_every_field() -> None:
    """Two worlds that differ in one field of one row have different digests."""
    rows = [Tier(id="a", name="web"), Tier(id="a", name="web", single=True), Tier(id="a", name="web", above="b"), Tier(id="b", name="web")]
    assert len(rows) == len({World([row]).digest() for row in rows} - {World().digest()})

"""Whatever is wished for in whatever order, by whoever: the world keeps its invariants and replay makes it again."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine

from bus.messages import Command, Role
from compartments import addressing, graph, tables
from compartments.rows import AddressBlock, Compartment, Containment, Network, NetworkInterface, Node, NodeTier, Tier
from compartments.shapes import ROW_TYPES
from compartments.world import World
from enjin.errors import EnjinError, InvariantError
from ring0.accounts import CloseAccount, CreateAccount, CreateToken, RevokeToken
from ring0.addresses import AssignAddress, CreateNetwork, DelegateBlock, ReleaseAddress
from ring0.compartments import ContainCompartment, CreateCompartment, PartCompartment
from ring0.keys import EnrollKey, RevokeKey
from ring0.nodes import PlaceNode, RemoveNode, ReportNode, RestartNode, StartNode, StopNode
from ring0.tiers import AssignTier, CreateTier, PromoteNode, UnassignTier
from tests.ring0.book import KEYS, OPERATOR, Book, founded

PLACES = st.sampled_from(["cloud", "site", "rack", "place-a", "place-b", "place-c"])
NODES = st.sampled_from(["ring0", "node-a", "node-b", "node-c"])
NETWORKS = st.sampled_from(["fabric", "tiny"])
TIERS = st.sampled_from(["web", "queen", "pawn"])
ADDRESSES = st.sampled_from(["", "10.80.0.1", "10.80.0.2", "10.80.0.7", "10.80.64.1", "10.99.0.2", "10.99.0.6", "nonsense"])
GROUPS = st.sampled_from(["", "db"])
ACCOUNTS = st.sampled_from(["operator", "someone", "other"])

WISHES: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateCompartment, name=PLACES, kind=st.sampled_from(["site", "power", "environment"]), parent=PLACES),
    st.builds(ContainCompartment, compartment=PLACES, child=st.one_of(PLACES, NODES)),
    st.builds(PartCompartment, compartment=PLACES, child=st.one_of(PLACES, NODES)),
    st.builds(CreateTier, name=TIERS, above=st.sampled_from(["", "queen"]), single=st.booleans()),
    st.builds(AssignTier, tier=TIERS, node=NODES, group=GROUPS),
    st.builds(UnassignTier, tier=TIERS, node=NODES),
    st.builds(PromoteNode, node=NODES, tier=TIERS, switch=st.booleans()),
    st.builds(PlaceNode, label=NODES, strategy=st.sampled_from(["jail", "process"]), address=ADDRESSES),
    st.builds(StartNode, node=NODES),
    st.builds(StopNode, node=NODES),
    st.builds(RestartNode, node=NODES),
    st.builds(RemoveNode, node=NODES),
    st.builds(ReportNode, node=NODES, generation=st.integers(1, 3), state=st.sampled_from(["running", "failed", "stopped", "gone"])),
    st.builds(CreateNetwork, name=NETWORKS, ipv4=st.sampled_from(["10.99.0.0/29", "10.80.0.0/24"])),
    st.builds(DelegateBlock, network=NETWORKS, ipv4=st.sampled_from(["10.80.128.0/18", "10.80.192.0/18", "10.99.0.4/30"])),
    st.builds(AssignAddress, network=NETWORKS, node=NODES, address=ADDRESSES),
    st.builds(ReleaseAddress, address=ADDRESSES),
    st.builds(EnrollKey, frame=st.sampled_from([KEYS.grant(OPERATOR, "second"), KEYS.grant(OPERATOR, "third")])),
    st.builds(RevokeKey, key=st.sampled_from([KEYS.key(word) for word in ("operator", "second", "ring0")]), last=st.booleans()),
    st.builds(CreateAccount, name=ACCOUNTS, role=st.sampled_from(["operator", "tenant"]), compartment=PLACES),
    st.builds(CloseAccount, account=ACCOUNTS),
    st.builds(CreateToken, account=ACCOUNTS, name=st.just("laptop"), secret_hash=st.sampled_from(["1" * 64, "2" * 64])),
    st.builds(RevokeToken, token=st.just("laptop")),
)


def addresses_are_unique(world: World) -> None:
    """No two interfaces share an address, none lies in a block, and the networks count right."""
    rows = world.all(NetworkInterface)
    assert len(rows) == len({row.ipv4 for row in rows}) == len({row.ipv6 for row in rows})
    assert len(rows) == len({(row.node, row.name) for row in rows})
    for network in world.all(Network):
        held = [row for row in rows if row.network == network.id]
        delegated = addressing.blocks(world, network)
        assert network.used == sum(row.offset >= network.reserved for row in held)
        assert all(not first <= row.offset < after for row in held for first, after in delegated)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(delegated))


def graph_is_acyclic(world: World) -> None:
    """Nothing lies in itself."""
    for place in world.all(Compartment):
        assert place.id not in graph.ancestors(world, place.id)
        assert place.id not in graph.descendants(world, place.id)


def references_hold(world: World) -> None:
    """Every row that names another names one that is there."""
    places, nodes, tiers = ({row.id for row in world.all(shape)} for shape in (Compartment, Node, Tier))
    assert {row.parent for row in world.all(Compartment)} <= places | {""}
    assert {row.compartment for row in world.all(Node)} <= places
    assert {row.node for row in world.all(NetworkInterface)} <= nodes
    assert {row.domain for row in world.all(AddressBlock)} <= nodes | {""}
    assert all(row.parent in places and row.child in places | nodes for row in world.all(Containment))
    assert all(row.node in nodes and row.tier in tiers for row in world.all(NodeTier))


def names_and_uids_are_unique(world: World) -> None:
    """No two of a kind share a name; no two nodes share a uid; a single tier has one member per group."""
    for shape, field in ((Compartment, "name"), (Node, "label"), (Tier, "name"), (Network, "name")):
        names = [getattr(row, field) for row in world.all(shape)]
        assert len(names) == len(set(names))
    blocks = [row.uid for row in world.all(Node) if row.uid >= 0]
    assert len(blocks) == len(set(blocks))
    for tier in world.all(Tier):
        groups = [row.group for row in world.find(NodeTier, tier=tier.id)]
        assert not tier.single or len(groups) == len(set(groups))


INVARIANTS: tuple[Callable[[World], None], ...] = (addresses_are_unique, graph_is_acyclic, references_hold, names_and_uids_are_unique)


@functools.cache
def _peopled() -> Book:
    """Return a cloud in which most wishes of this file can be granted."""
    book = founded(blocks=("10.80.64.0/18", "10.80.128.0/19"))
    for wish in (
        CreateCompartment(name="place-a", kind="power"),
        CreateCompartment(name="place-b", parent="site"),
        ContainCompartment(compartment="place-a", child="rack"),
        PlaceNode(label="node-a", strategy="jail"),
        PlaceNode(label="node-b", strategy="process"),
        ReportNode(node="node-a", generation=1, state="running"),
        ReportNode(node="node-b", generation=1, state="running"),
        CreateNetwork(name="tiny", ipv4="10.99.0.0/29"),
        AssignAddress(network="tiny", node="node-a"),
        CreateTier(name="queen", single=True),
        CreateTier(name="pawn", above="queen"),
        AssignTier(tier="queen", node="node-a", group="db"),
        AssignTier(tier="pawn", node="node-b", group="db"),
        CreateAccount(name="someone", compartment="place-b"),
        CreateToken(account="someone", name="laptop", secret_hash="1" * 64),
    ):
        book.ask(wish, Role.SUPERVISOR)
    return book


def peopled() -> Book:
    """Return a copy of it of one's own."""
    kept = _peopled()
    book = Book(kept.table)
    book.world, book.entries = World.restore(kept.world.snapshot()), list(kept.entries)
    book.time, book.asked = kept.time, kept.asked
    return book


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    """A database in memory with the tables."""
    engine = create_engine("sqlite://")
    with engine.begin() as opened:
        tables.create(opened)
        yield opened
    engine.dispose()


@given(st.lists(st.tuples(WISHES, st.sampled_from(["cloud", "cloud", "cloud/site"])), min_size=5, max_size=25))
@settings(max_examples=60, deadline=None)
def test_any_order(connection: Connection, steps: list) -> None:
    """Refusals change nothing; what is granted keeps every invariant; ids are never used twice; replay and tables agree."""
    book = peopled()
    ids = {row.id for row in book.world.all(Node)}
    tables.clear(connection)
    tables.write(connection, World(row for shape in ROW_TYPES.values() for row in book.world.all(shape)).take_changes())
    for wish, bound in steps:
        before, known = book.world.digest(), {row.id for row in book.world.all(Node)}
        try:
            book.ask(wish, Role.SUPERVISOR if isinstance(wish, ReportNode) else Role.OPERATOR, compartment=bound)
        except InvariantError:
            raise
        except EnjinError:
            assert before == book.world.digest()
            continue
        fresh = {row.id for row in book.world.all(Node)} - known
        assert not fresh & ids
        ids |= fresh
        for holds in INVARIANTS:
            holds(book.world)
        tables.write(connection, book.world.take_changes())
    assert book.world.digest() == book.replayed().digest() == tables.digest(connection)
    assert book.world.digest() == World.restore(book.world.snapshot()).digest()

"""Who should answer when a group is asked, as ring 0's world has it; and what a charter says of a decider's groups."""

from __future__ import annotations

import pytest

from bus.groups import EVERYBODY, group
from bus.messages import Asker, Role
from compartments import lookup
from compartments.daemons import ListDaemons, Listed, groups_of_node, resolve
from compartments.rows import Node
from enjin.errors import EnjinError
from ring0 import charters
from ring0.daemons import list_daemons
from ring0.nodes import StopNode
from ring0.tiers import AssignTier, CreateTier
from tests.ring0.book import RING0, Book
from tests.ring0.wishes import chartered


@pytest.fixture
def book() -> Book:
    """A cloud with one ring 1 node that has a grant."""
    return chartered()[0]


def listed(book: Book, where: str) -> list[str]:
    """Return the labels of who should answer."""
    found: Listed = list_daemons(ListDaemons(where=where), book.world, Asker(id="o-1", role=Role.OPERATOR))
    return [one.label for one in found.daemons]


def ring1(book: Book) -> Node:
    return next(row for row in book.world.all(Node) if row.ring == 1)


def test_words_are_resolved_to_groups(book: Book) -> None:
    """all, a ring, a compartment, a tier, a node by its id, an agent, a group itself."""
    world, node = book.world, ring1(book)
    site = lookup.compartment(world, "site").id
    expected = {
        "": EVERYBODY,
        "all": EVERYBODY,
        EVERYBODY: EVERYBODY,
        "ring1": "group/ring/1",
        "site": group("compartment", site),
        site: group("compartment", site),
        "meta": group("tier", lookup.tier(world, "meta").id),
        node.id: group("node", node.id),
        "a-00000000000000ff": "group/node/a-00000000000000ff",
    }
    assert {words: resolve(world, words) for words in expected} == expected
    for words in ("nowhere", "ring3", "group/ring/3", "a-ff", "i-00000000000000ff"):
        with pytest.raises(EnjinError) as caught:
            resolve(world, words)
        assert caught.value.code == "E-GRP-002"


def test_members_are_those_that_should_run(book: Book) -> None:
    """Ring 0's own daemon and ring 1's; a node that was stopped on purpose is not missed."""
    label = ring1(book).label
    us = book.world.need(Node, RING0).label
    assert listed(book, "all") == [us, label]
    assert (listed(book, "ring0"), listed(book, "ring1"), listed(book, "meta")) == ([us], [label], [us])
    assert listed(book, "default") == []
    book.ask(StopNode(node=label))
    assert listed(book, "all") == [us]


def test_a_charter_names_its_deciders_groups(book: Book) -> None:
    """Everything it lies in and plays; another tier, and a new charter is due."""
    node = ring1(book)
    before = charters.draft(book.world, node)
    assert set(before.groups) == groups_of_node(book.world, node.id)
    assert {group("compartment", lookup.compartment(book.world, name).id) for name in ("cloud", "site", "rack")} < set(before.groups)
    book.ask(CreateTier(name="loud"))
    book.ask(AssignTier(tier="loud", node=node.label))
    after = charters.draft(book.world, node)
    assert set(after.groups) - set(before.groups) == {group("tier", lookup.tier(book.world, "loud").id)}

"""Nodes, networks and addresses: what is wanted, what is seen, what is given out and taken back."""

from __future__ import annotations

import pytest

from bus.messages import Command, Role
from compartments.rows import AddressBlock, Network, NetworkInterface, Node, NodeObservation, NodeTier
from ring0.addresses import AssignAddress, CreateNetwork, DelegateBlock, ListAddresses, ListNetworks, ReleaseAddress
from ring0.nodes import ListNodes, PlaceNode, RemoveNode, ReportNode, RestartNode, ShowNode, StartNode, StopNode
from tests.ring0.book import RING0, Book, founded
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import running


def ring1(book: Book) -> Node:
    """Return the node `ring1`."""
    return book.world.find(Node, label="ring1")[0]


def report(book: Book, state: str, generation: int = 1, **fields: object) -> None:
    """Let the daemon say what it saw of `ring1`."""
    book.ask(ReportNode(node=ring1(book).id, generation=generation, state=state, **fields), Role.SUPERVISOR)  # type: ignore[arg-type]


def test_placing_gives_everything_at_once() -> None:
    """A placed node has a supervisor, a home, an address pair, a block, uids and its tier."""
    book = founded()
    line = book.ask(PlaceNode(label="ring1", strategy="jail"))
    node = book.world.need(Node, line["id"])
    assert (line["ring"], line["state"], line["wanted"]) == (1, "pending", "running")
    assert (line["supervisor"], line["compartment"]) == (RING0, "rack")
    assert (node.uid, node.uid_range) == (524_288 + 65_536, 65_536)
    assert (line["address"], line["tiers"], line["generation"]) == ("10.80.0.2", ["infrastructure"], 1)
    assert [row.ipv4 for row in book.world.find(AddressBlock, domain=node.id)] == ["10.80.64.0/18"]
    assert {"ring0", "ring1"} == {row["label"] for row in book.answer(ListNodes())}
    assert book.answer(ShowNode(node="ring1"))["blocks"][0]["ipv4"] == "10.80.64.0/18"


def test_a_second_node_needs_a_block_and_gets_other_uids() -> None:
    """No block left: refused whole; with one, it gets the next block of uids, and a removed one's rests longest."""
    book = running()
    refused(book, PlaceNode(label="second", strategy="jail"), "E-NOD-006")
    for text in ("10.80.128.0/18", "10.80.192.0/18"):
        book.ask(DelegateBlock(network="fabric", ipv4=text))
    second = book.ask(PlaceNode(label="second", strategy="jail"))
    assert book.world.need(Node, second["id"]).uid == 524_288 + 2 * 65_536
    refused(book, PlaceNode(label="third", strategy="jail", uid_range=2), "E-NOD-004")
    refused(book, PlaceNode(label="third", strategy="jail", uid_range=8), "E-NOD-004")
    book.ask(RemoveNode(node="second"))
    book.ask(ReportNode(node=second["id"], generation=1, state="gone"), Role.SUPERVISOR)
    third = book.ask(PlaceNode(label="third", strategy="jail"))
    assert book.world.need(Node, third["id"]).uid == 524_288 + 3 * 65_536


def test_blocks_of_uids_run_out() -> None:
    """With eight blocks, ring 0 has one and seven jails the others; the eighth jail is refused."""
    book = founded(blocks=tuple(f"10.80.{number}.0/24" for number in range(16, 32)))
    uids = [book.world.need(Node, book.ask(PlaceNode(label=f"jail-{number}", strategy="jail"))["id"]).uid for number in range(7)]
    assert len(set(uids)) == 7
    refused(book, PlaceNode(label="one-more", strategy="jail"), "E-NOD-004")
    book.ask(PlaceNode(label="without", strategy="process"))


def test_intent_and_generation() -> None:
    """Stopping keeps the generation, starting and restarting raise it, and what is so already changes nothing."""
    book = running()
    assert book.facts(StartNode(node="ring1")) == []
    book.ask(StopNode(node="ring1"))
    assert (ring1(book).wanted, ring1(book).generation) == ("stopped", 1)
    assert book.facts(StopNode(node="ring1")) == []
    report(book, "stopped")
    book.ask(StartNode(node="ring1"))
    assert (ring1(book).wanted, ring1(book).generation, ring1(book).state) == ("running", 2, "stopped")
    book.ask(RestartNode(node="ring1"))
    assert ring1(book).generation == 3


def test_only_news_become_facts() -> None:
    """The same observation twice makes one fact; `since` moves with the state and with it alone."""
    book = running()
    since = ring1(book).since
    again = ReportNode(node=ring1(book).id, generation=1, state="running", isolation={"pid": "pid:[4026]"})
    assert book.facts(again, Role.SUPERVISOR) == []
    report(book, "running", isolation={"pid": "pid:[9]"})
    assert ({"pid": "pid:[9]"}, since) == (book.world.need(NodeObservation, ring1(book).id).isolation, ring1(book).since)
    report(book, "failed", reason="ended with status 1")
    assert (ring1(book).state, ring1(book).reason, ring1(book).since > since) == ("failed", "ended with status 1", True)


def test_what_was_seen_of_an_older_start_changes_nothing() -> None:
    """An older generation may be seen to end, never to run; a newer one than is wanted is refused."""
    book = running()
    book.ask(RestartNode(node="ring1"))
    node = ring1(book).id
    refused(book, ReportNode(node=node, generation=1, state="running"), "E-NOD-003", Role.SUPERVISOR)
    refused(book, ReportNode(node=node, generation=3, state="running"), "E-NOD-003", Role.SUPERVISOR)
    report(book, "stopped", 1)
    report(book, "running", 2)
    refused(book, ReportNode(node=node, generation=1, state="stopped"), "E-NOD-003", Role.SUPERVISOR)
    assert (ring1(book).state, ring1(book).generation) == ("running", 2)


def test_removing_gives_back_what_was_its_own() -> None:
    """A node stays until nothing of it is left; then its rows are gone, and address and block wait for another."""
    book = running()
    node = ring1(book).id
    book.ask(RemoveNode(node="ring1"))
    for wish in (StartNode(node="ring1"), StopNode(node="ring1"), RestartNode(node="ring1"), RemoveNode(node="ring1")):
        refused(book, wish, "E-NOD-005")
    report(book, "stopped")
    assert ring1(book).state == "stopped"
    report(book, "gone")
    world = book.world
    left = [
        world.get(Node, node),
        world.get(NodeObservation, node),
        *world.find(NetworkInterface, node=node),
        *world.find(NodeTier, node=node),
    ]
    assert left == [None, None]
    assert [row.domain for row in world.all(AddressBlock)] == [""]
    assert world.all(Network)[0].used == 0
    assert node != book.ask(PlaceNode(label="ring1", strategy="jail"))["id"]


def test_a_node_that_vanished_is_wanted_again() -> None:
    """`gone` of a node that is wanted means stopped: the row stays, and so does the intent."""
    book = running()
    report(book, "gone")
    assert (ring1(book).state, ring1(book).wanted) == ("stopped", "running")


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (StopNode(node="ring0"), "E-NOD-002"),
        (RemoveNode(node=RING0), "E-NOD-002"),
        (StartNode(node="rong1"), "E-NOD-001"),
        (PlaceNode(label="ring1", strategy="jail"), "E-LKP-002"),
        (PlaceNode(label="Ring", strategy="jail"), "E-NAM-001"),
        (PlaceNode(label="second", strategy="jail", compartment="nowhere"), "E-CMP-001"),
        (PlaceNode(label="second", strategy="jail", supervisor="ring1"), "E-ENJ-001"),
        (PlaceNode(label="second", strategy="jail", network="nothing"), "E-ADR-001"),
        (PlaceNode(label="second", strategy="jail", address="10.80.0.2"), "E-ADR-003"),
        (AssignAddress(network="fabric", node="ring1", address="10.80.0.1"), "E-ADR-005"),
        (AssignAddress(network="fabric", node="ring1", address="10.80.255.255"), "E-ADR-005"),
        (AssignAddress(network="fabric", node="ring1", address="10.80.64.9"), "E-ADR-005"),
        (AssignAddress(network="fabric", node="ring1", address="10.81.0.1"), "E-ADR-004"),
        (AssignAddress(network="fabric", node="ring1", address="10.80.0.2"), "E-ADR-003"),
        (AssignAddress(network="fabric", node="ring1", address="ten"), "E-ADR-006"),
        (AssignAddress(network="fabric", node="ring1", interface="eth0"), "E-ADR-008"),
        (AssignAddress(network="fabric", node="ring1", interface="e th"), "E-ENJ-004"),
        (AssignAddress(network="fabric", node="nobody"), "E-NOD-001"),
        (AssignAddress(network="nothing", node="ring1"), "E-ADR-001"),
        (ReleaseAddress(address="10.80.0.2"), "E-ADR-009"),
        (ReleaseAddress(address="10.80.0.1"), "E-ADR-005"),
        (ReleaseAddress(address="10.80.0.9"), "E-ADR-007"),
        (ReleaseAddress(address="nonsense"), "E-ADR-006"),
        (CreateNetwork(name="fabric", ipv4="10.99.0.0/24"), "E-LKP-002"),
        (CreateNetwork(name="lab", ipv4="10.80.7.0/24"), "E-ADR-003"),
        (CreateNetwork(name="lab", ipv4="10.99.0.0/31"), "E-ADR-006"),
        (CreateNetwork(name="lab", ipv4="10.99.0.0/24", ipv6="fd00::/125"), "E-ADR-006"),
        (CreateNetwork(name="lab", ipv4="10.99.0.0/30", reserved=3), "E-ENJ-004"),
        (CreateNetwork(name="lab", ipv4="10.99.0.0/24", reserved=1), "E-ENJ-004"),
        (DelegateBlock(network="fabric", ipv4="10.80.96.0/19"), "E-ADR-003"),
        (DelegateBlock(network="fabric", ipv4="10.80.0.0/24"), "E-ADR-005"),
        (DelegateBlock(network="fabric", ipv4="10.99.0.0/24"), "E-ADR-004"),
        (DelegateBlock(network="fabric", ipv4="10.80.192.0/18", ipv6="fd99::/64"), "E-ADR-004"),
    ],
)
def test_impossible_wishes_are_refused(wish: Command, code: str) -> None:
    """Each impossible wish has its code and changes nothing, of a placement not even a half."""
    refused(running(), wish, code)


def test_addresses_come_in_pairs_and_go_back() -> None:
    """The next free one, one asked for by its IPv6 half, the list, and the release by either half."""
    book = running()
    first = book.ask(AssignAddress(network="fabric", node="ring1"))
    assert (first["ipv4"], first["interface"]) == ("10.80.0.3", "eth1")
    asked = book.ask(AssignAddress(network="fabric", node="ring1", address=first["ipv6"][:-1] + "77"))
    assert (asked["ipv4"], asked["interface"]) == ("10.80.0.119", "eth2")
    assert [row["ipv4"] for row in book.answer(ListAddresses(node="ring1"))] == ["10.80.0.2", "10.80.0.3", "10.80.0.119"]
    book.ask(ReleaseAddress(address=first["ipv6"]))
    refused(book, ReleaseAddress(address=first["ipv4"]), "E-ADR-007")
    assert len(book.answer(ListAddresses(network="fabric"))) == 3


def test_a_full_network_says_so() -> None:
    """The last address is given, the next wish is refused, and a release makes room."""
    book = running()
    book.ask(CreateNetwork(name="tiny", ipv4="10.99.0.0/29", ipv6="none"))
    given = [book.ask(AssignAddress(network="tiny", node="ring1"))["ipv4"] for _ in range(5)]
    assert [f"10.99.0.{number}" for number in range(2, 7)] == given
    error = refused(book, AssignAddress(network="tiny", node="ring1"), "E-ADR-002")
    assert error.hint
    tiny = next(row for row in book.answer(ListNetworks()) if row["name"] == "tiny")
    assert (tiny["used"], tiny["free"], tiny["ipv6"]) == (5, 0, "")
    book.ask(ReleaseAddress(address="10.99.0.4"))
    assert book.ask(AssignAddress(network="tiny", node="ring1"))["ipv4"] == "10.99.0.4"


def test_networks_get_ranges_of_their_own() -> None:
    """A further network takes the cloud's next IPv6 range, and the figures add up."""
    book = running()
    ranges = [book.ask(CreateNetwork(name=f"lab-{number}", ipv4=f"10.{90 + number}.0.0/24"))["ipv6"] for number in range(3)]
    fabric = book.world.find(Network, name="fabric")[0].ipv6
    assert len({fabric, *ranges}) == 4
    assert [f"{fabric.partition('::')[0]}:{number}::/64" for number in (1, 2, 3)] == ranges
    line = next(row for row in book.answer(ListNetworks()) if row["name"] == "fabric")
    assert (line["free"], line["used"]) == (65_536 - 2 - 1 - 16_384 - 1, 1)

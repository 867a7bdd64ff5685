"""Genesis, compartments, tiers and the graph: what each wish makes true, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bus.messages import Command, Role, canonical
from compartments.rows import Account, Cloud, Compartment, Endpoint, Grant, Network, NetworkInterface, Node, Tier
from enjin.errors import EnjinError
from ring0.compartments import ContainCompartment, CreateCompartment, ListCompartments, PartCompartment, ShowCompartment
from ring0.graph import ExplainPlacement, ShowGraph, ShowImpact
from ring0.keys import read_enrolled
from ring0.nodes import PlaceNode
from ring0.tiers import AssignTier, CreateTier, ListTiers, PromoteNode, ShowTier, UnassignTier
from tests.ring0.book import CLOUD, KEYS, OPERATOR, RING0, Book, founded, genesis
from tests.ring0.wishes import running


def refused(book: Book, wish: Command, code: str, role: Role = Role.OPERATOR, **asker: Any) -> EnjinError:
    """Check that *wish* is refused with *code* and changes nothing; return the refusal."""
    before = book.world.digest()
    with pytest.raises(EnjinError) as caught:
        book.ask(wish, role, **asker)
    assert (code, before) == (caught.value.code, book.world.digest())
    assert caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_genesis_makes_the_first_places() -> None:
    """After genesis: cloud > site > rack and `default`, three tiers, a network, ring 0's node, the operator and two keys."""
    world = founded().world
    assert world.all(Cloud)[0].id == CLOUD
    assert {row.name: row.kind for row in world.all(Compartment)} == {
        "cloud": "cloud",
        "site": "site",
        "rack": "rack",
        "default": "environment",
    }
    assert {"meta", "infrastructure", "web"} == {row.name for row in world.all(Tier)}
    node = world.need(Node, RING0)
    assert (node.state, node.uid, node.uid_range) == ("running", 524_288, 65_536)
    network = world.all(Network)[0]
    assert ("10.80.0.0/16", f"fd{CLOUD[:2]}:{CLOUD[2:6]}:{CLOUD[6:10]}::/64", "10.80.0.1") == (network.ipv4, network.ipv6, network.gateway4)
    assert [(row.node, row.ipv4) for row in world.all(NetworkInterface)] == [(RING0, "10.80.0.1")]
    assert [row.id for row in world.all(Account)] == [OPERATOR]
    assert {RING0, OPERATOR} == {row.subject for row in world.all(Grant)}
    assert {row.name: row.port for row in world.all(Endpoint)} == {"api1": 7081, "router": 8080}


def test_genesis_happens_once_and_is_reproducible() -> None:
    """A second genesis is refused; two clouds founded by the same wish and request have the same bytes."""
    first, second = founded(), founded()
    assert first.entries == second.entries
    refused(first, genesis(), "E-GEN-001", Role.SUPERVISOR)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"ipv4": "10.80.0.0/33"}, "E-ADR-006"),
        ({"ipv4": "10.80.0.1/16"}, "E-ADR-006"),
        ({"ipv6": "fd00::/120"}, "E-ADR-006"),
        ({"blocks": ("10.81.0.0/18",)}, "E-ADR-004"),
        ({"site": "cloud"}, "E-ENJ-004"),
        ({"rack": "default"}, "E-ENJ-004"),
        ({"grants": ("AAAA",)}, "E-FRM-001"),
        ({"grants": (KEYS.grant("n-00000000000000ff", "stranger"),)}, "E-ENJ-004"),
        ({"grants": (KEYS.grant(RING0, "ring0", cloud="f" * 64),)}, "E-KEY-005"),
    ],
)
def test_genesis_refuses(fields: dict, code: str) -> None:
    """Bad ranges, names and grants found no cloud; half a cloud never comes to be."""
    book = Book()
    refused(book, genesis(**fields), code, Role.SUPERVISOR)
    assert not len(book.world)


def test_process_mode_lives_on_loopback() -> None:
    """Without privileges: loopback addresses, one shared IPv6 address, no uids."""
    book = founded(ipv4="127.64.0.0/16", ipv6="::1/128", blocks=("127.64.64.0/18",), first_uid=-1, uid_blocks=0)
    placed = book.ask(PlaceNode(label="ring1", strategy="process"))
    assert (placed["address"], placed["address6"]) == ("127.64.0.2", "::1")
    assert (book.world.need(Node, placed["id"]).uid, book.world.need(Node, placed["id"]).uid_range) == (-1, 0)
    refused(book, PlaceNode(label="jailed", strategy="jail"), "E-NOD-004")


def test_compartments_have_homes_and_paths() -> None:
    """A compartment is made in its home, found by name, id and path, and listed by path."""
    book = founded()
    made = book.ask(CreateCompartment(name="team-a", parent="default", summary="the first team"))
    assert (made["kind"], made["parent"], made["path"]) == ("environment", "default", "cloud/default/team-a")
    paths = [row["path"] for row in book.answer(ListCompartments())]
    assert paths == ["cloud", "cloud/default", "cloud/default/team-a", "cloud/site", "cloud/site/rack"]
    assert [row["path"] for row in book.answer(ListCompartments(compartment="default"))] == ["cloud/default", "cloud/default/team-a"]
    shown = book.answer(ShowCompartment(compartment=made["id"]))
    assert ([row["name"] for row in shown["in"]], shown["holds"]) == (["default"], [])


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (CreateCompartment(name="Team"), "E-NAM-001"),
        (CreateCompartment(name="a"), "E-NAM-001"),
        (CreateCompartment(name="rack"), "E-LKP-002"),
        (CreateCompartment(name="c-0123456789abcdef"), "E-LKP-002"),
        (CreateCompartment(name="team", parent="nowhere"), "E-CMP-001"),
        (CreateCompartment(name="team", summary="x" * 201), "E-ENJ-004"),
        (ContainCompartment(compartment="rack", child="cloud"), "E-CMP-002"),
        (ContainCompartment(compartment="rack", child="rack"), "E-CMP-002"),
        (ContainCompartment(compartment="site", child="rack"), "E-CMP-003"),
        (ContainCompartment(compartment="site", child="nothing"), "E-CMP-001"),
        (PartCompartment(compartment="site", child="rack"), "E-CMP-005"),
        (CreateTier(name="web"), "E-LKP-002"),
        (CreateTier(name="mail", above="nothing"), "E-TIR-001"),
        (AssignTier(tier="web", node="nothing"), "E-NOD-001"),
        (UnassignTier(tier="web", node="ring0"), "E-TIR-003"),
        (PromoteNode(node="ring0", tier="meta"), "E-PRO-001"),
    ],
)
def test_impossible_wishes_are_refused(wish: Command, code: str) -> None:
    """Each impossible wish has its code and changes nothing."""
    refused(founded(), wish, code)


def test_homes_are_not_nested_without_end() -> None:
    """The sixteenth home is the last."""
    book = founded()
    parent = ""
    for number in range(15):
        parent = book.ask(CreateCompartment(name=f"level-{number}", parent=parent))["name"]
    refused(book, CreateCompartment(name="too-deep", parent=parent), "E-CMP-004")


def test_containment_gives_no_authority() -> None:
    """A bound asker sees and touches what has its home in its bound, not what is merely contained there."""
    book = founded()
    for name, kind in (("mine", "environment"), ("other", "environment"), ("feed", "power")):
        book.ask(CreateCompartment(name=name, kind=kind))
    book.ask(CreateCompartment(name="beneath", parent="mine"))
    book.ask(ContainCompartment(compartment="mine", child="other"))
    visible = [row["name"] for row in book.answer(ListCompartments(), Role.TENANT, compartment="cloud/mine")]
    assert visible == ["mine", "beneath"]
    refused(book, ContainCompartment(compartment="mine", child="feed"), "E-ENJ-002", compartment="cloud/mine")
    with pytest.raises(EnjinError):
        book.answer(ShowCompartment(compartment="other"), Role.TENANT, compartment="cloud/mine")
    book.ask(PartCompartment(compartment="mine", child="other"))
    assert [row["name"] for row in book.answer(ShowCompartment(compartment="mine"))["holds"]] == ["beneath"]


def test_a_single_tier_has_one_member_and_promotion_swaps() -> None:
    """Assign, refuse a second, promote with a switch-over: the tiers swapped, the epoch rose."""
    book = running()
    book.ask(CreateTier(name="queen", single=True))
    book.ask(CreateTier(name="pawn", above="queen"))
    book.ask(AssignTier(tier="queen", node="ring0", group="db"))
    assert book.facts(AssignTier(tier="queen", node="ring0", group="db")) == []
    refused(book, AssignTier(tier="queen", node="ring1", group="db"), "E-TIR-002")
    book.ask(AssignTier(tier="pawn", node="ring1", group="db"))
    refused(book, PromoteNode(node="ring1", tier="pawn"), "E-PRO-002")
    book.ask(PromoteNode(node="ring1", tier="pawn", switch=True))
    assert [(row["label"], row["epoch"]) for row in book.answer(ShowTier(tier="queen"))["nodes"]] == [("ring1", 1)]
    assert [row["label"] for row in book.answer(ShowTier(tier="pawn"))["nodes"]] == ["ring0"]
    assert {"members": 1, "above": "queen"}.items() <= next(row for row in book.answer(ListTiers()) if row["name"] == "pawn").items()
    book.ask(UnassignTier(tier="queen", node="ring1"))
    assert book.answer(ShowTier(tier="queen"))["nodes"] == []


def test_the_graph_answers() -> None:
    """Graph as data and as a drawing, impact of a place and of a node, and the reason of a placement."""
    book = running()
    assert len(book.answer(ShowGraph())["nodes"]) == 6
    assert book.answer(ShowGraph(format="dot")).startswith("digraph enjin {")
    assert len(book.answer(ShowGraph(compartment="site"))["nodes"]) == 4
    assert len(book.answer(ShowImpact(of="rack"))["nodes"]) == 2
    assert book.answer(ShowImpact(of="ring1"))["nodes"] == [book.world.find(Node, label="ring1")[0].id]
    explained = book.answer(ExplainPlacement())
    assert (explained["supervisor"], [row["kept"] for row in explained["verdicts"]]) == (RING0, [True, False])


def test_a_grant_is_read_from_the_signed_bytes() -> None:
    """What is enrolled is what the frame says; nothing beside it."""
    frame = KEYS.grant(OPERATOR, "operator")
    fact = read_enrolled(frame, CLOUD, Book().moment())
    assert (KEYS.digest(frame), KEYS.key("operator"), OPERATOR, 2) == (fact.grant, fact.key, fact.subject, fact.role)
    assert frame in canonical(fact).decode()

"""Destroying a compartment, as ring 0 decides it: only an empty one, only with all ring 1 nodes, and nothing of it counts afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.messages import Role
from compartments import graph
from compartments.destroying import DestroyCompartment
from compartments.rows import Compartment, Containment, Grant, Membership, Network, Node
from compartments.rows_endings import Ending
from compartments.rows_joining import JoinToken
from compartments.shapes import ROW_TYPES
from compartments.world import World
from enjin.errors import EnjinError
from ring0.accounts import CloseAccount, CreateAccount, CreateToken, RevokeToken
from ring0.addresses import CreateNetwork
from ring0.compartments import ContainCompartment, CreateCompartment, ListCompartments, PartCompartment, ShowCompartment
from ring0.destroying import KeepCompartment, holdings
from ring0.graph import ShowGraph
from ring0.inviting import Uninvite
from ring0.keys import EnrollKey, RevokeKey
from ring0.nodes import PlaceNode, RemoveNode, ReportNode
from tests.ring0.book import KEYS, OPERATOR, Book
from tests.ring0.test_approvals import Signed
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import asking, ending, inviting, rooted

IN_USE, ENDS, CLOUDS, OTHER, NOT_SO_FAR = "E-CMP-007", "E-CMP-008", "E-CMP-006", "E-CMP-009", "E-CMP-010"
NAME = "leaving"


def as_daemon(book: Book, wish: Any) -> Any:
    """Decide what ring 0's daemon itself wants."""
    return book.ask(wish, Role.SUPERVISOR)


def test_step_by_step_until_its_name_is_free() -> None:
    """Closing and condemned it is listed; then it is gone from list and graph, its name makes another id, and a replay agrees."""
    book, (destroy, condemn, forget) = ending()
    book.ask(CreateCompartment(name="feed", kind="power"))
    book.ask(ContainCompartment(compartment="feed", child=NAME))
    assert book.ask(destroy, reason="the customer left") == {"id": destroy.confirm, "name": NAME, "state": "closing"}
    then = book.replayed()
    for wish in (condemn, forget):
        assert NAME in {row["name"] for row in book.answer(ListCompartments())}
        refused(book, CreateCompartment(name=NAME), "E-LKP-002")
        as_daemon(book, wish)
    assert NAME not in {row["name"] for row in book.answer(ListCompartments())}
    assert NAME not in {point["label"] for point in book.answer(ShowGraph())["nodes"]}
    refused(book, destroy, "E-CMP-001")
    told = book.world.need(Ending, destroy.confirm)
    assert (told.state, told.name, told.asker, told.reason) == ("destroyed", NAME, OPERATOR, "the customer left")
    assert book.world.find(Containment, child=destroy.confirm) == []
    again = book.ask(CreateCompartment(name=NAME))
    assert again["id"] != destroy.confirm
    refused(book, destroy, OTHER)  # the old wish names the old id
    assert book.replayed().digest() == book.world.digest()
    assert graph.path_text(then, destroy.confirm) == f"cloud/{NAME}"  # what stood before is told as it was


def test_each_step_again_is_no_news() -> None:
    """Whoever asks again because it died meanwhile changes nothing; a step that is not due is refused."""
    book, (destroy, condemn, forget) = ending()
    for wish in (condemn, forget, KeepCompartment(compartment=destroy.confirm, why="x")):
        refused(book, wish, NOT_SO_FAR, Role.SUPERVISOR)
    book.ask(destroy)
    refused(book, destroy, ENDS)
    refused(book, forget, NOT_SO_FAR, Role.SUPERVISOR)
    for wish in (condemn, forget):
        as_daemon(book, wish)
        assert book.facts(wish, Role.SUPERVISOR) == []
    refused(book, condemn, NOT_SO_FAR, Role.SUPERVISOR)
    refused(book, KeepCompartment(compartment=destroy.confirm, why="x"), NOT_SO_FAR, Role.SUPERVISOR)


def test_every_ring_1_node_must_have_agreed() -> None:
    """A node that was placed meanwhile counts too, and one that is gone does not."""
    book, (destroy, condemn, forget) = ending()
    book.ask(destroy)
    late = book.ask(PlaceNode(label="late", strategy="process"))["id"]
    error = refused(book, condemn, NOT_SO_FAR, Role.SUPERVISOR)
    assert "late" in error.message
    as_daemon(book, msgspec.structs.replace(condemn, nodes=(*condemn.nodes, late)))
    refused(book, forget, NOT_SO_FAR, Role.SUPERVISOR)
    book.ask(RemoveNode(node="late"))
    as_daemon(book, ReportNode(node=late, generation=1, state="gone"))
    as_daemon(book, forget)
    assert book.world.get(Compartment, destroy.confirm) is None


def test_a_compartment_that_is_kept_is_open_again() -> None:
    """It says why, things are made in it, and it can be destroyed later; from the order until then nothing was."""
    book, (destroy, *_) = ending()
    book.ask(destroy)
    makers = (
        CreateCompartment(name="inner", parent=NAME),
        ContainCompartment(compartment=NAME, child="ring1"),
        CreateNetwork(name="lab", ipv4="10.99.0.0/24", compartment=NAME),
        CreateAccount(name="someone", compartment=NAME),
        CreateToken(account="operator", name="ci", compartment=NAME, secret_hash="0" * 64),  # type: ignore[arg-type]
        PlaceNode(label="inner", strategy="process", compartment=NAME, supervisor="ring0"),
        EnrollKey(frame=KEYS.grant(OPERATOR, "second", compartment=f"cloud/{NAME}")),
        asking("alice", compartment=NAME),
        inviting(compartment=NAME),
    )
    for wish in makers:
        refused(book, wish, ENDS)
    as_daemon(book, KeepCompartment(compartment=destroy.confirm, why="node ring1 has app hello"))
    assert book.world.need(Ending, destroy.confirm).why == "node ring1 has app hello"
    book.ask(makers[0])
    refused(book, destroy, IN_USE)
    assert book.answer(ShowCompartment(compartment=NAME))["holds"][0]["name"] == "inner"


@pytest.mark.parametrize(("name", "code"), [("cloud", CLOUDS), ("default", CLOUDS), ("site", IN_USE), ("rack", IN_USE)])
def test_what_the_cloud_needs_stays(name: str, code: str) -> None:
    """The root and `default` are refused for themselves, site and rack for what they hold."""
    book, _ = ending()
    row = book.world.first(Compartment, name=name)
    assert row is not None
    refused(book, DestroyCompartment(compartment=name, confirm=row.id), code)


def test_a_wrong_id_confirms_nothing() -> None:
    """Neither its name nor another compartment's id, and what is not there is not destroyed."""
    book, (destroy, *_) = ending()
    other = book.ask(CreateCompartment(name="other"))["id"]
    for confirm in (NAME, other, ""):
        refused(book, DestroyCompartment(compartment=NAME, confirm=confirm), OTHER)
    refused(book, DestroyCompartment(compartment="nothing", confirm=destroy.confirm), "E-CMP-001")


# -- whatever is in it --------------------------------------------------------------------------------


def _closed(book: Book) -> None:
    book.ask(CloseAccount(account="someone"))


def _gone(book: Book) -> None:
    node = book.world.first(Node, label="inner")
    assert node is not None
    book.ask(RemoveNode(node=node.id))
    as_daemon(book, ReportNode(node=node.id, generation=1, state="gone"))


# What is made in the compartment, what makes it not count any more (None: nothing does), and a word of the refusal.
THINGS: dict[str, tuple[Callable[[Book], Any], Callable[[Book], Any] | None]] = {
    "compartment beneath": (lambda book: book.ask(CreateCompartment(name="beneath", parent=NAME)), None),
    "node inner": (lambda book: book.ask(PlaceNode(label="inner", strategy="process", compartment=NAME, supervisor="ring0")), _gone),
    "node ring1 (contained)": (
        lambda book: book.ask(ContainCompartment(compartment=NAME, child="ring1")),
        lambda book: book.ask(PartCompartment(compartment=NAME, child="ring1")),
    ),
    "network lab": (lambda book: book.ask(CreateNetwork(name="lab", ipv4="10.99.0.0/24", compartment=NAME)), None),
    "account someone": (lambda book: book.ask(CreateAccount(name="someone", compartment=NAME)), _closed),
    "token ci": (
        lambda book: book.ask(CreateToken(account="operator", name="ci", compartment=NAME, secret_hash="0" * 64)),  # type: ignore[arg-type]
        lambda book: book.ask(RevokeToken(token="ci")),
    ),
    f"key {KEYS.key('second')[:16]}": (
        lambda book: book.ask(EnrollKey(frame=KEYS.grant(OPERATOR, "second", compartment=f"cloud/{NAME}"))),
        lambda book: book.ask(RevokeKey(key=KEYS.key("second"))),
    ),
    "(asked for)": (lambda book: book.ask(asking("operator", word="third", compartment=NAME)), None),
    "join token": (lambda book: book.ask(inviting(compartment=NAME)), lambda book: book.ask(Uninvite(token=_open_token(book)))),
}


def _open_token(book: Book) -> str:
    return book.world.all(JoinToken)[0].id


def names(world: World, identity: str, path: str) -> set[str]:
    """Return the tables whose rows still name a compartment by id or path, but for its own end and what counts no more."""
    found = set()
    for table, shape in ROW_TYPES.items():
        for row in world.all(shape):
            fields = msgspec.structs.asdict(row)
            if shape in (Ending, Compartment) and fields.get("id", fields.get("compartment")) == identity:
                continue
            if {identity, path} & {value for value in fields.values() if isinstance(value, str)}:
                over = fields.get("state") == "closed" or fields.get("revoked") or shape is Grant
                found |= set() if over else {table}
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(THINGS)), st.booleans()), unique_by=lambda one: one[0], max_size=5))
def test_only_an_empty_one_is_destroyed_and_nothing_names_it_afterwards(things: list[tuple[str, bool]]) -> None:
    """Whatever was made in it and ended again: it is refused while something is left, by name, and afterwards no row counts there."""
    book, (destroy, condemn, forget) = ending()
    left = set()
    for word, ended in things:
        make, end = THINGS[word]
        make(book)
        if ended and end is not None:
            end(book)
        else:
            left.add(word)
    row = book.world.need(Compartment, destroy.confirm)
    held = holdings(book.world, row, book.time + 1)
    assert {word for word in THINGS if any(word in one for one in held)} == left
    if left:
        error = refused(book, destroy, IN_USE)
        assert any(word in error.message for word in left)
        return
    book.ask(destroy)
    nodes = tuple(node.id for node in book.world.find(Node, ring=1))
    as_daemon(book, msgspec.structs.replace(condemn, nodes=nodes))
    as_daemon(book, msgspec.structs.replace(forget, nodes=nodes))
    assert names(book.world, destroy.confirm, f"cloud/{NAME}") == set()
    assert book.replayed().digest() == book.world.digest()


def test_what_came_in_between_keeps_it() -> None:
    """Looked at once more when it is condemned: what lies in it by then is not lost."""
    book, (destroy, condemn, _) = ending()
    book.ask(destroy)
    network = Network(id="net-x", name="late", compartment=destroy.confirm, ipv4="10.98.0.0/24")
    book.world.put(network)
    refused(book, condemn, IN_USE, Role.SUPERVISOR)


def test_n06_it_waits_for_the_other_operators() -> None:
    """One of two operators destroys nothing alone; the other's approval closes it, for whoever asked and with the messages kept."""
    book = Signed(rooted())
    account = book.join()
    made = book.ask(CreateCompartment(name=NAME))["id"]
    wish = DestroyCompartment(compartment=NAME, confirm=made)
    asked = book.ask(wish, reason="the customer left")["approval"]
    assert (asked["what"], asked["where"], asked["needed"]) == ("compartment.destroy", f"cloud/{NAME}", 1)
    assert book.world.get(Ending, made) is None
    book.approve(account, "someone", asked)
    told = book.world.need(Ending, made)
    assert (told.state, told.asker, told.reason) == ("closing", OPERATOR, "the customer left")
    assert told.asked
    assert book.world.find(Membership, compartment=made) == []


def test_a_wish_that_is_refused_waits_for_nobody() -> None:
    """Where something is in it the asker hears at once, and others are not asked; it is decided anew when the last one approves."""
    book = Signed(rooted())
    account = book.join()
    made = book.ask(CreateCompartment(name=NAME))["id"]
    wish = DestroyCompartment(compartment=NAME, confirm=made)
    asked = book.ask(wish)["approval"]
    book.ask(CreateCompartment(name="beneath", parent=NAME))
    with pytest.raises(EnjinError) as caught:
        book.approve(account, "someone", asked)
    assert caught.value.code == IN_USE
    assert book.world.get(Ending, made) is None
    refused(book, wish, IN_USE)

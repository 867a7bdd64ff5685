"""Ring 0's plan for ring 1 nodes: nothing for a settled one, and the one right step for each that is not."""

from __future__ import annotations

import pytest

from bus.messages import Role
from compartments.rows import Node
from ring0.nodes import RemoveNode, ReportNode, RestartNode, StopNode
from ring0.placing import PlaceNode
from ring0.plan import Setting, fabric, plan, specification
from supervision.steps import DestroyNode, Running, StartNode
from supervision.steps import StopNode as StopStep
from tests.ring0.book import Book, founded

SETTING = Setting(
    tag="0a1b2c", home="/h", runtime="/h/runtime/x", daemon_uid=524_288, host_paths=("/srv/wheels",), closed=("192.0.2.1/32",)
)


@pytest.fixture(params=["jail", "process"])
def book(request: pytest.FixtureRequest) -> Book:
    """A cloud with one node, by either strategy."""
    made = (
        founded()
        if request.param == "jail"
        else founded(ipv4="127.64.0.0/16", ipv6="none", blocks=("127.64.64.0/18",), first_uid=-1, uid_blocks=0)
    )
    made.ask(PlaceNode(label="ring1", strategy=request.param))
    return made


def node(book: Book) -> Node:
    """Return `ring1`."""
    return book.world.find(Node, label="ring1")[0]


def seen(book: Book, state: str = "running", **fields: object) -> Running:
    """Return what hands says of `ring1`."""
    row = node(book)
    values = {"node": row.id, "generation": row.generation, "state": state, "strategy": row.strategy, "purpose": "ring1", "pid": 7}
    return Running(**(values | fields))  # type: ignore[arg-type]


def steps_of(book: Book, *running: Running) -> list[type]:
    """Return the kinds of the planned steps."""
    return [type(action.step) for action in plan(book.world, running, SETTING)]


def test_a_settled_node_needs_nothing(book: Book) -> None:
    """A node that runs in its generation and lacks nothing has an empty plan, as often as it is asked for."""
    assert [steps_of(book, seen(book)), steps_of(book, seen(book))] == [[], []]


def test_what_does_not_run_is_started(book: Book) -> None:
    """A node that was never seen, ended, is of an older generation or lacks something is started, in its own generation."""
    there = [(), (seen(book, "stopped"),), (seen(book, "gone"),), (seen(book, missing=("link",)),)]
    assert [steps_of(book, *running) for running in there] == [[StartNode]] * 4
    before = seen(book)
    book.ask(RestartNode(node="ring1"))
    [action] = plan(book.world, (before,), SETTING)
    assert (type(action.step), action.generation) == (StartNode, before.generation + 1)


def test_stopped_and_removed(book: Book) -> None:
    """One that shall not run is stopped once; one that shall be gone is destroyed, and forgotten when it is."""
    book.ask(StopNode(node="ring1"))
    assert [steps_of(book, seen(book)), steps_of(book, seen(book, "stopped")), steps_of(book)] == [[StopStep], [], []]
    gone = seen(book, "stopped")
    book.ask(RemoveNode(node="ring1"))
    assert steps_of(book, gone) == [DestroyNode]
    book.ask(ReportNode(node=gone.node, generation=gone.generation, state="gone"), Role.SUPERVISOR)  # type: ignore[arg-type]
    assert steps_of(book) == []


def test_a_stranger_is_destroyed_but_keeps_its_state(book: Book) -> None:
    """A node that World does not know is ended; what it wrote stays for whoever knows better."""
    stranger = seen(book, node="n-00000000000000ff")
    [action] = plan(book.world, (seen(book), stranger), SETTING)
    assert action.step == DestroyNode(node="n-00000000000000ff", keep_state=True)


def test_planning_is_pure(book: Book) -> None:
    """The same world and the same sight make the same plan and leave the world as it was."""
    before = book.world.digest()
    assert plan(book.world, (), SETTING) == plan(book.world, (), SETTING)
    assert book.world.digest() == before


def test_the_specification_says_everything(book: Book) -> None:
    """A jail has uids, an interface and a way out; a process has none of them, and every path is the host's."""
    spec = specification(book.world, node(book), SETTING)
    words = [word for service in spec.services for word in service.argv]
    if spec.strategy == "jail":
        assert (spec.range, spec.outgoing, spec.interface is not None) == (524_288 + 65_536, True, True)
        assert [mount.source for mount in spec.mounts] == ["/srv/wheels"]
        assert not any(word.startswith("/h/") for word in words)
    else:
        assert (spec.range, spec.outgoing, spec.interface, spec.mounts) == (0, False, None, ())
        assert {service.uid for service in spec.services} == {-1}
        assert {word.split("/")[1] for word in words if word.startswith("/")} <= {"h", "usr"}
    assert {f"identity-{spec.node}", f"hands-{spec.node}", "router", "api1"} == set(spec.listeners)


def test_the_fabric_is_in_a_namespace_of_the_clouds_own() -> None:
    """Ring 0's bridge and its namespace bear the cloud's tag, and the gateways are its addresses."""
    step = fabric(founded().world, SETTING)
    assert (step.bridge, step.netns, step.addresses[0]) == ("enj0a1b2c0", "enjin-0a1b2c", "10.80.0.1/16")

"""A compartment's end across rings, in any order: pushes, losses, deaths and late nodes; nothing is lost by halves, and it comes to an end.

Both rings' own decisions and the daemon's own loop run here; a link between them loses requests or answers when the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus.messages import Command, Query, Reply, Role
from compartments.charter import Place, ReceiveCharter
from compartments.destroying import CompartmentInUse, DestroyCompartment, EndCompartment, Holdings, ShowHoldings, state_of
from compartments.lookup import BeingDestroyed, NoSuchCompartment
from compartments.rows import Compartment, Node
from compartments.rows_apps import App, SealingKey
from compartments.rows_endings import Ending
from compartments.world import World
from enjin.canonical import canonical
from enjin.errors import EnjinError, Unreachable
from enjin.names import Name
from ring0.addresses import DelegateBlock
from ring0.closing import Closing
from ring0.compartments import CreateCompartment
from ring0.nodes import PlaceNode, RemoveNode, ReportNode
from ring1.apps import Destroy
from ring1.destroying import SawEnded, held, left
from ring1.settings import EnrollSealingKey
from ring1.shredding import SawShredded
from tests.ring0.test_approvals import Signed
from tests.ring0.wishes import rooted
from tests.ring1.domain import DAEMON, Domain, charter_frame, make_charter

NODES_MAX: Final = 3
NAME: Final = "leaving"
HELLO: Final = Name("hello")
LOSSES = st.lists(st.sampled_from(["", "", "request", "answer"]), max_size=12)


class Link:
    """A ring 1 node as ring 0 reaches it: its decisions, behind a link that loses what the test says."""

    def __init__(self, domain: Domain, losses: list[str]) -> None:
        self.domain, self.losses = domain, losses

    async def command(self, wish: Command, **_: Any) -> Reply:
        """Decide *wish* there. Raises: what it refuses with; Unreachable."""
        loss = self.losses.pop(0) if self.losses else ""
        if loss == "request":
            raise Unreachable("the request was lost")
        self.domain.do(wish, DAEMON)
        if loss == "answer":
            raise Unreachable("the answer was lost")
        return Reply(ok=True)

    async def query(self, query: Query, **_: Any) -> Reply:
        """Answer as the node would whose approvals hold. Raises: Unreachable."""
        if self.losses and self.losses.pop(0):
            raise Unreachable("the question was lost")
        assert isinstance(query, ShowHoldings)
        world, one = self.domain.world, query.compartment
        holds = tuple(held(world, one, self.domain.time))
        found = Holdings(ring=1, id=one, name=NAME, state=state_of(world, one), holds=holds, why="")
        return Reply(ok=True, result=msgspec.Raw(canonical(found)))


class Own:
    """Ring 0's domain as its daemon has it, without signatures and disk."""

    def __init__(self, book: Signed) -> None:
        self.book, self.journal = book, self

    @property
    def world(self) -> World:
        """Ring 0's world."""
        return self.book.world

    async def settled(self) -> None:
        """Return: everything is on disk."""

    def now(self) -> int:
        """Return cloud time."""
        return self.book.time

    async def wish(self, wish: Command, *, reason: str = "", **_: Any) -> None:
        """Decide the daemon's own wish. Raises: what it is refused with."""
        self.book.ask(wish, Role.SUPERVISOR, reason=reason)


class Ends(RuleBasedStateMachine):
    """One compartment, up to three ring 1 nodes, an app that comes and goes on each."""

    @initialize()
    def begin(self) -> None:
        """A cloud with one ring 1 node and a compartment with a key."""
        self.book = Signed(rooted())
        for third in (128, 160, 192):
            self.book.ask(DelegateBlock(network="fabric", ipv4=f"10.80.{third}.0/19"))
        self.compartment = self.book.ask(CreateCompartment(name=NAME))["id"]
        self.domains: dict[str, Domain] = {}
        self.losses: list[str] = []
        self.pushes = 0
        self.restart()
        self.place()

    @rule()
    @precondition(lambda self: len(self.domains) < NODES_MAX)
    def place(self) -> None:
        """Another node appears, which has a charter that names the compartment as long as ring 0 has it."""
        node = self.book.ask(PlaceNode(label=f"node-{len(self.book.world.find(Node, ring=1))}-{self.book.asked}", strategy="process"))["id"]
        given = make_charter()
        if self.book.world.get(Compartment, self.compartment) is not None and state_of(self.book.world, self.compartment) != "condemned":
            here = Place(id=self.compartment, name=NAME, kind="environment", parent=given.compartments[0].id)
            given = msgspec.structs.replace(given, compartments=(*given.compartments, here))
        self.domains[node] = Domain(chartered=False)
        self.domains[node].do(ReceiveCharter(frame=charter_frame(given)), DAEMON)
        self.act()

    @rule(number=st.integers(0, NODES_MAX - 1))
    @precondition(lambda self: len(self.domains) > 1)
    def remove(self, number: int) -> None:
        """A node goes, with all it had."""
        node = sorted(self.domains)[number % len(self.domains)]
        self.book.ask(RemoveNode(node=node))
        self.book.ask(ReportNode(node=node, generation=1, state="gone"), Role.SUPERVISOR)
        del self.domains[node]

    @rule(number=st.integers(0, NODES_MAX - 1))
    def push(self, number: int) -> None:
        """Somebody pushes; whether it is taken is the node's matter."""
        domain = self.domains[sorted(self.domains)[number % len(self.domains)]]
        closed = state_of(domain.world, self.compartment) != "open"
        try:
            domain.deployed("hello", compartment=NAME)
        except EnjinError:
            return
        assert not closed
        self.pushes += 1

    @rule(number=st.integers(0, NODES_MAX - 1))
    def pull(self, number: int) -> None:
        """The app goes again, where there is one."""
        domain = self.domains[sorted(self.domains)[number % len(self.domains)]]
        if any(not app.destroyed for app in domain.world.all(App)):
            domain.do(Destroy(app=HELLO))
            domain.drained("hello")

    @rule()
    def order(self) -> None:
        """The operator wants it destroyed, whatever state it is in."""
        try:
            self.book.ask(DestroyCompartment(compartment=NAME, confirm=self.compartment))
        except (BeingDestroyed, NoSuchCompartment):
            return

    @rule(losses=LOSSES)
    def drive(self, losses: list[str]) -> None:
        """Ring 0's daemon looks once; the link loses what it loses."""
        self.losses[:] = losses
        asyncio.run(self.closing.look())
        self.losses.clear()

    @rule()
    def restart(self) -> None:
        """Ring 0's daemon dies and begins with nothing but its journal."""

        async def bring(_node: str, _child: Any) -> None:
            return

        def children() -> Any:
            return {node: Link(domain, self.losses) for node, domain in self.domains.items()}

        self.closing = Closing(Own(self.book), children, bring)  # type: ignore[arg-type]

    @rule(number=st.integers(0, NODES_MAX - 1))
    def late(self, number: int) -> None:
        """An order to close it, which the bus held back, comes to a node; whatever became of it meanwhile."""
        known = self.book.world.get(Ending, self.compartment)
        if known is not None:
            domain = self.domains[sorted(self.domains)[number % len(self.domains)]]
            with contextlib.suppress(CompartmentInUse):
                domain.do(EndCompartment(compartment=self.compartment, name=NAME, stage="closing"), DAEMON)

    @rule()
    def act(self) -> None:
        """Each node's daemon makes keys that are missing, destroys what is condemned, and says what is gone."""
        for domain in self.domains.values():
            world, one = domain.world, self.compartment
            key = world.get(SealingKey, one)
            if key is None and world.get(Compartment, one) is not None and state_of(world, one) == "open":
                domain.do(EnrollSealingKey(compartment=Name(NAME), public="a" * 64), DAEMON)
            if key is not None and key.state == "condemned":
                domain.do(SawShredded(compartment=one, public=key.public), DAEMON)
            if state_of(world, one) == "condemned" and not left(world, one):
                domain.do(SawEnded(compartment=one), DAEMON)

    @invariant()
    def nothing_is_lost_by_halves(self) -> None:
        """A key goes only where ring 0 has condemned the compartment; and no app lives on a node that has."""
        if not hasattr(self, "compartment"):
            return
        known = self.book.world.get(Ending, self.compartment)
        state = known.state if known is not None else "open"
        for domain in self.domains.values():
            there = state_of(domain.world, self.compartment)
            key = domain.world.get(SealingKey, self.compartment)
            assert there not in ("condemned", "destroyed") or state in ("condemned", "destroyed")
            assert key is None or key.state == "in use" or state in ("condemned", "destroyed")
            living = [app for app in domain.world.all(App) if app.compartment == self.compartment and not app.destroyed]
            assert not living or there == "open"
            assert domain.replay().digest() == domain.world.digest()
        if state == "destroyed":
            assert all(domain.world.get(Compartment, self.compartment) is None for domain in self.domains.values())
        assert self.book.replayed().digest() == self.book.world.digest()

    def teardown(self) -> None:
        """Without losses it comes to an end: gone everywhere, or open everywhere with its keys."""
        if not hasattr(self, "compartment"):
            return
        self.losses.clear()
        for _ in range(8):
            asyncio.run(self.closing.look())
            self.act()
        known = self.book.world.get(Ending, self.compartment)
        if known is not None and known.state == "condemned":  # a late node took an app in between: it goes on when that has ended
            for number in range(NODES_MAX):
                self.pull(number)
            for _ in range(8):
                asyncio.run(self.closing.look())
                self.act()
        states = {state_of(domain.world, self.compartment) for domain in self.domains.values()}
        known = self.book.world.get(Ending, self.compartment)
        if known is None or known.state == "kept":
            assert states == {"open"}
            assert self.book.world.get(Compartment, self.compartment) is not None
        else:
            assert known.state == "destroyed", (known.state, self.closing.notes)
            assert self.book.world.get(Compartment, self.compartment) is None
            assert all(domain.world.get(SealingKey, self.compartment) is None for domain in self.domains.values())


TestEnds = Ends.TestCase
TestEnds.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_node_that_does_not_run_is_waited_for_by_name() -> None:
    """Nothing is asked of anybody before all run; what is waited for is told."""
    machine = Ends()
    machine.begin()
    machine.order()
    node, domain = machine.domains.popitem()
    machine.drive([])
    assert "does not run" in machine.closing.notes[machine.compartment]
    assert state_of(domain.world, machine.compartment) == "open"
    machine.domains[node] = domain
    machine.teardown()
    assert machine.book.world.get(Compartment, machine.compartment) is None


@pytest.mark.parametrize("loss", ["request", "answer"])
def test_an_app_on_one_node_keeps_it_on_all(loss: str) -> None:
    """The first node has closed it when the second says what it holds: both are open again, also where the undoing is lost at first."""
    machine = Ends()
    machine.begin()
    machine.place()
    machine.push(1)
    machine.order()
    machine.drive(["", "", "", "", "", loss])
    machine.teardown()
    assert machine.book.world.need(Ending, machine.compartment).state == "kept"
    assert "app hello" in machine.book.world.need(Ending, machine.compartment).why
    assert machine.pushes == 1


NONSENSE: Final = (b"null", b"{}", b"[1]", b"{", canonical({"state": "gone"}), b'{"a":' * 5_000)


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: answer[:12].decode())
def test_a_node_that_answers_nonsense_stops_nobody(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring 1 that was taken over delays a compartment's end, and nothing else: ring 0's daemon goes on and says what it waits for."""
    machine = Ends()
    machine.begin()
    machine.order()

    async def query(_link: Link, _query: Query, **_: Any) -> Reply:
        return Reply(ok=True, result=msgspec.Raw(answer))

    with monkeypatch.context() as patch:
        patch.setattr(Link, "query", query)
        machine.drive([])
        assert machine.closing.notes[machine.compartment]
        assert machine.book.world.need(Ending, machine.compartment).state == "closing"
    machine.teardown()
    assert machine.book.world.need(Ending, machine.compartment).state == "destroyed"


def test_what_a_node_says_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long and whatever is in it: it stands in the journal and on terminals."""
    machine = Ends()
    machine.begin()
    machine.order()

    async def command(_link: Link, wish: EndCompartment, **_: Any) -> Reply:
        if wish.stage == "closing":
            raise CompartmentInUse("no\x1b[2J\r\n" + "x" * 10_000)
        return Reply(ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Link, "command", command)
        machine.drive([])
    why = machine.book.world.need(Ending, machine.compartment).why
    assert (why.isprintable(), why[:2], len(why)) == (True, "no", 500)

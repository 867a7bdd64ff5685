"""The end of a compartment in ring 1: refused while it holds anything, closed to all that is new, approved by our own trust, then gone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bus.messages import Command
from compartments.approvals import Approve
from compartments.charter import Place, ReceiveCharter
from compartments.destroying import CompartmentInUse, DestroyCompartment, EndCompartment, ShowHoldings
from compartments.lookup import BeingDestroyed
from compartments.rows import Compartment
from compartments.rows_apps import Agent, SealingKey
from compartments.rows_endings import Ending
from compartments.shredding import RenewKey, ShredSecrets
from enjin.canonical import from_text, to_text
from enjin.names import Name
from keys.frame import open_frame
from ring1 import ending
from ring1.accounts import CreateToken, ListTokens, RevokeToken
from ring1.apps import Destroy, ListApps, Push
from ring1.destroying import SawEnded, TooFar, held
from ring1.settings import EnrollSealingKey
from ring1.shredding import SawShredded
from tests.ring1.council import DAY_US, Council, Person, meeting
from tests.ring1.domain import BLUE, BLUE_TENANT, DAEMON, DEFAULT, ROOT, Domain, charter_frame, digest, make_charter, refuse

KEY = "a" * 64
CLOSE = EndCompartment(compartment=BLUE, name="blue", stage="closing", asked="AA", reason="the customer left")
CONDEMN, OPEN = (msgspec.structs.replace(CLOSE, stage=stage) for stage in ("condemned", "open"))
MAKERS: tuple[Command, ...] = (
    Push(app=Name("new"), compartment="blue", source=digest("new")),
    CreateToken(name=Name("ci"), secret_hash="1" * 64, compartment="blue"),
    EnrollSealingKey(compartment=Name("blue"), public="b" * 64),
    RenewKey(compartment="blue"),
)


@pytest.fixture
def domain() -> Domain:
    """A domain whose compartment `blue` has a key, and had an app."""
    made = Domain()
    made.do(EnrollSealingKey(compartment=Name("blue"), public=KEY), DAEMON)
    made.deployed("hello", compartment="blue")
    return made


def emptied(domain: Domain) -> None:
    """Let the app end, and see all of it gone."""
    domain.do(Destroy(app=Name("hello")))
    domain.drained("hello")


def test_it_ends_step_by_step(domain: Domain) -> None:
    """Held by an app it is refused and stays open; emptied it closes, its key is condemned, and when nothing is left it is gone."""
    error = refuse(domain, CLOSE, CompartmentInUse, DAEMON)
    assert error.message == "compartment blue holds app hello"
    emptied(domain)
    domain.do(CLOSE, DAEMON)
    assert domain.do(CLOSE, DAEMON) == []
    assert domain.world.need(SealingKey, BLUE).state == "in use"  # nothing is lost by closing
    domain.do(CONDEMN, DAEMON)
    assert domain.do(CONDEMN, DAEMON) == []
    assert domain.world.need(SealingKey, BLUE).state == "condemned"
    refuse(domain, OPEN, TooFar, DAEMON)
    refuse(domain, SawEnded(compartment=BLUE), TooFar, DAEMON)  # the key is still there
    domain.do(SawShredded(compartment=BLUE, public=KEY), DAEMON)
    uid = domain.world.need(Agent, BLUE).uid
    domain.do(SawEnded(compartment=BLUE), DAEMON)
    assert domain.do(SawEnded(compartment=BLUE), DAEMON) == []
    for shape in (Compartment, SealingKey, Agent):
        assert domain.world.get(shape, BLUE) is None
    assert domain.world.need(Ending, BLUE).state == "destroyed"
    domain.deployed("other")
    assert domain.world.need(Agent, DEFAULT).uid != uid  # which rests
    assert domain.replay().digest() == domain.world.digest()


def test_nothing_new_from_closing_on(domain: Domain) -> None:
    """No app, token or key in it, also not as it is condemned; opened again it takes them."""
    emptied(domain)
    domain.do(CLOSE, DAEMON)
    for wish in MAKERS:
        refuse(domain, wish, BeingDestroyed, DAEMON)
    domain.do(OPEN, DAEMON)
    assert domain.do(OPEN, DAEMON) == []
    domain.do(MAKERS[0])
    refuse(domain, CLOSE, CompartmentInUse, DAEMON)
    domain.do(Destroy(app=Name("new")))
    domain.do(CLOSE, DAEMON)
    domain.do(CONDEMN, DAEMON)
    for wish in MAKERS:
        refuse(domain, wish, BeingDestroyed, DAEMON)


def test_tokens_and_compartments_hold_it_too() -> None:
    """A token that counts and a compartment beneath; one that is revoked or has expired holds nothing and is nobody's afterwards."""
    inner = Place(id="c-0000000000000009", name="inner", kind="environment", parent=BLUE)
    domain = Domain(make_charter(compartments=(*make_charter().compartments, inner)))
    domain.do(CreateToken(name=Name("ci"), secret_hash="1" * 64, compartment="blue"))
    domain.do(CreateToken(name=Name("short"), secret_hash="2" * 64, compartment="blue", life_s=1), BLUE_TENANT)
    found = held(domain.world, BLUE, domain.time)
    assert [one.split(" of ")[0] for one in found] == ["compartment inner", "token ci", "token short"]
    domain.do(RevokeToken(token="ci"))
    domain.time += 2_000_000
    assert held(domain.world, BLUE, domain.time) == ["compartment inner"]
    refuse(domain, CLOSE, CompartmentInUse, DAEMON)
    domain.do(EndCompartment(compartment=inner.id, name="inner", stage="condemned"), DAEMON)
    domain.do(SawEnded(compartment=inner.id), DAEMON)
    for wish in (CLOSE, CONDEMN, SawEnded(compartment=BLUE)):
        domain.do(wish, DAEMON)
    assert domain.ask(ListTokens()) == []
    assert domain.ask(ListApps()) == []


def test_a_later_charter_does_not_bring_it_back(domain: Domain) -> None:
    """The ring above hears of it after us: a charter that still names it changes nothing, another of its name is another one."""
    emptied(domain)
    for wish in (CLOSE, CONDEMN, SawShredded(compartment=BLUE, public=KEY), SawEnded(compartment=BLUE)):
        domain.do(wish, DAEMON)
    receive(domain, 2)
    assert domain.world.get(Compartment, BLUE) is None
    again = Place(id="c-000000000000000a", name="blue", kind="environment", parent=ROOT)
    receive(domain, 3, again)
    domain.deployed("hello", compartment="blue")
    assert [app["compartment"] for app in domain.ask(ListApps())] == ["blue"]
    assert domain.replay().digest() == domain.world.digest()


def receive(domain: Domain, version: int, *places: Place) -> None:
    """Receive a charter that names *places* beside the first ones."""
    given = make_charter(version=version)
    domain.do(ReceiveCharter(frame=charter_frame(msgspec.structs.replace(given, compartments=(*given.compartments, *places)))), DAEMON)


def test_one_that_we_never_heard_of_closes_too() -> None:
    """So that the charter that brings it later opens nothing: it is closed before anybody pushes."""
    domain = Domain(make_charter(compartments=make_charter().compartments[:2]))
    domain.do(CLOSE, DAEMON)
    receive(domain, 2)
    refuse(domain, MAKERS[0], BeingDestroyed, DAEMON)
    domain.do(CONDEMN, DAEMON)
    domain.do(SawEnded(compartment=BLUE), DAEMON)
    assert domain.world.get(Compartment, BLUE) is None


# -- with keys, journal and trust ----------------------------------------------------------------------


async def asked(council: Council, person: Person, **options: Any) -> str:
    """Return the wish that `blue` be destroyed, as *person* signs it for ring 0 (base64url)."""
    wish = DestroyCompartment(compartment="blue", confirm=options.pop("confirm", BLUE))
    return to_text(council.frame(person, wish, **options))


def approval(council: Council, person: Person, frame: str) -> str:
    """Return *person*'s signed approval of the wish in *frame*."""
    return to_text(council.frame(person, Approve(request="q-1", digest=open_frame(from_text(frame)).digest)))


async def told(council: Council, frame: str, *given: str, stage: str = "closing") -> Any:
    """Let ring 0 say that `blue` ends."""
    wish = EndCompartment(compartment=BLUE, name="blue", stage=stage, asked=frame, request="q-1" if given else "", given=given)  # type: ignore[arg-type]
    return await council.say(council.ring0, wish)


def doubt(council: Council) -> str:
    """Return why this node would not destroy the key of `blue`."""
    [question] = ending.questions(council.trust, council.domain.journal.now)
    found: Any = question.answer(ShowHoldings(compartment=BLUE), council.domain.world, DAEMON)
    return str(found.why)


def blue(council: Council) -> tuple[str, bool]:
    """Return the state of the key of `blue`, and whether its file is there."""
    row = council.domain.world.get(SealingKey, BLUE)
    return row.state if row is not None else "", (council.folder / "ring1/secrets" / f"{BLUE}.key").exists()


@meeting
async def test_one_operator_alone_destroys_it(council: Council) -> None:
    """With one operator the signed wish is enough, and the key's file goes only when it is condemned."""
    [alice] = await council.begin("alice")
    frame = await asked(council, alice)
    assert await told(council, frame) is None
    await council.keys.settle()
    assert (doubt(council), blue(council)) == ("", ("in use", True))
    assert await told(council, frame, stage="condemned") is None
    await council.keys.settle()
    assert blue(council) == ("shredded", False)


@meeting
async def test_n06_the_receiver_counts_the_approvals_itself(council: Council) -> None:
    """With three operators two others must have signed: what ring 0 says without them destroys nothing; with them it does."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    frame = await asked(council, alice)
    bobs, carols = approval(council, bob, frame), approval(council, carol, frame)
    alices = approval(council, alice, frame)
    for given in ((), (bobs,), (bobs, bobs), (alices, bobs), (bobs, carols[:-8] + "AAAAAAAA"), (bobs, approval(council, carol, bobs))):
        await told(council, frame, *given)
        assert doubt(council) != "", given
        await council.say(council.ring0, OPEN)
    await told(council, frame, *(), stage="condemned")
    await council.keys.settle()
    assert blue(council) == ("condemned", True)  # a ring 0 that goes on all the same moves nobody who acts


@meeting
async def test_n06_with_two_others_it_is_destroyed(council: Council) -> None:
    """The twin: both have signed, this node finds them to hold, and destroys the key when the ring above says so."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    frame = await asked(council, alice)
    given = approval(council, bob, frame), approval(council, carol, frame)
    await told(council, frame, *given)
    assert doubt(council) == ""
    await told(council, frame, *given, stage="condemned")
    await council.keys.settle()
    assert blue(council) == ("shredded", False)


@meeting
async def test_n14_an_old_or_foreign_order_destroys_nothing(council: Council) -> None:
    """A wish for another id, of another kind, of a revoked key, or signed more than a day ago is none; nor one that was never signed."""
    alice, bob = await council.begin("alice", "bob")
    old = await asked(council, bob)
    council.pass_time(DAY_US + 1_000_000)
    agree = to_text(council.frame(alice, Approve(request="q-1", digest="0" * 64)))
    other = await asked(council, alice, confirm=DEFAULT)
    for frame in (old, other, agree, "AA", ""):
        given = [approval(council, alice if frame == old else bob, frame)] if len(frame) > 2 else []
        await told(council, frame, *given)
        assert doubt(council) != "", frame[:40]
        await council.say(council.ring0, OPEN)
    good = await asked(council, alice)
    await told(council, good, approval(council, bob, good))
    assert doubt(council) == ""
    await council.revoke(alice)
    assert doubt(council) == ""  # it was in force when it ordered, and when we heard of it
    await council.say(council.ring0, OPEN)
    await told(council, good, approval(council, bob, good))
    assert doubt(council) != ""


@meeting
async def test_n23_a_revoked_approver_does_not_count(council: Council) -> None:
    """Revoked before we hear of the order, neither key nor grant counts, whatever ring 0 says; another operator takes the place."""
    alice, bob, carol, dave = await council.begin("alice", "bob", "carol", "dave")
    frame = await asked(council, alice)
    given = approval(council, bob, frame), approval(council, carol, frame)
    await council.revoke(bob)
    await told(council, frame, *given)
    assert doubt(council) != ""
    await council.say(council.ring0, OPEN)
    await told(council, frame, *given, approval(council, dave, frame))
    assert doubt(council) == ""


@meeting
async def test_n14_only_the_ring_above_says_so(council: Council) -> None:
    """An operator's own key does not tell ring 1 that a compartment ends: it goes through ring 0, which has the graph."""
    [alice] = await council.begin("alice")
    refused = await council.say(alice, CLOSE)
    assert isinstance(refused, str)
    assert council.domain.world.get(Ending, BLUE) is None
    await told(council, await asked(council, alice))
    assert council.domain.world.need(Ending, BLUE).state == "closing"


@meeting
async def test_a_key_that_is_shredded_for_itself_keeps_its_own_rule(council: Council) -> None:
    """Shredded before the compartment ends: that had its own approvals, and the end finds nothing more to condemn."""
    [alice] = await council.begin("alice")
    await council.say(alice, ShredSecrets(compartment="blue", confirm="blue"))
    await council.keys.settle()
    assert blue(council) == ("shredded", False)
    await told(council, await asked(council, alice), stage="condemned")
    assert blue(council) == ("shredded", False)

"""m of n: what one operator must not do alone waits for others, and whoever wants to be more than one is found out."""

from __future__ import annotations

import msgspec
import pytest

from bus.envelope import Behalf
from compartments import approved, operators
from compartments.approvals import Approve, Refuse
from compartments.facts.approvals import ApprovalCarried
from compartments.facts.secrets import SealingKeyCondemned
from compartments.rows_approvals import Approval, ApprovalRequest
from compartments.shredding import ShredSecrets
from enjin.canonical import parse, to_text
from ring1.accounts import CreateToken
from tests.ring1.council import DAY_US, HOUR_US, SHRED, Council, meeting
from tests.ring1.domain import DEFAULT

ENDED, OWN, OTHER, NOBODY, GONE = "E-APR-002", "E-APR-003", "E-APR-004", "E-APR-005", "E-APR-006"
SILENCE = "nothing"  # whoever was not verified hears nothing


@meeting
async def test_one_operator_alone_asks_nobody(council: Council) -> None:
    """With one operator nothing waits: the key is condemned at once and destroyed."""
    [alice] = await council.begin("alice")
    assert await council.say(alice, SHRED) is None
    assert council.state == "condemned"
    await council.keys.settle()
    assert (council.state, council.key_file.exists()) == ("shredded", False)


@meeting
async def test_n06_of_three_operators_two_others_must_agree(council: Council) -> None:
    """The wish waits with who, what, why and how long; one approval is not enough, a second carries it out, in the entry of its own."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    asked = await council.shred(alice)
    [listed] = await council.waiting(bob)
    told = ("compartment.shred", "cloud/default", "alice", "the customer left", 2, "waiting", [])
    assert told == tuple(listed[word] for word in ("what", "where", "who", "why", "needed", "state", "approved"))
    assert listed["wish"] == msgspec.to_builtins(SHRED)
    assert listed["expires"] - listed["created"] == HOUR_US
    assert (await council.approve(bob, asked))["approved"] == ["bob"]
    await council.keys.settle()
    assert (council.state, council.key_file.exists()) == ("in use", True)
    told = await council.approve(carol, asked)
    assert (told["state"], told["approved"], council.state) == ("carried", ["bob", "carol"], "condemned")
    await council.keys.settle()
    assert (council.state, council.key_file.exists()) == ("shredded", False)
    assert await council.waiting(bob) == []
    assert [one["state"] for one in await council.waiting(bob, ended=True)] == ["carried"]


@meeting
async def test_the_entry_alone_proves_the_approvals(council: Council) -> None:
    """A receiver that has nothing but the entry and the root sees that two others signed; one byte changed, and it does not."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    asked = await council.shred(alice)
    await council.approve(bob, asked)
    await council.approve(carol, asked)
    await council.domain.journal.settled()
    [line] = council.domain.journal.listing(council.domain.journal.head.number - 1, 1, newest=True)
    facts = {msgspec.json.decode(raw)["kind"]: raw for raw in line.facts}
    assert SealingKeyCondemned.KIND in facts
    carried = parse(facts[ApprovalCarried.KIND], ApprovalCarried)
    path, trust = "cloud/default", council.trust
    assert approved.signers(carried.asked, carried.given, asked["id"], path, trust) == {"bob", "carol"}
    assert approved.signers(carried.asked, carried.given[:1] * 2, asked["id"], path, trust) == {"bob"}
    other = to_text(council.frame(alice, SHRED))
    for asking, given, request in (
        (other, carried.given, asked["id"]),
        (carried.asked, (carried.asked,), asked["id"]),
        (carried.asked, carried.given, "q-0"),
        (carried.asked, (carried.given[0][:-8] + "AAAAAAAA",), asked["id"]),
    ):
        with pytest.raises(approved.NotApproved):
            approved.signers(asking, given, request, path, trust)


@meeting
async def test_n06_one_person_counts_once(council: Council) -> None:
    """Twice with one key, with a second key of the same person, and under another's name: one approval in all, and nothing destroyed."""
    alice, bob, _ = await council.begin("alice", "bob", "carol")
    second = await council.join("bob", "bob's other key")
    asked = await council.shred(alice)
    for person in (bob, bob, second):
        assert (await council.approve(person, asked))["approved"] == ["bob"]
    assert await council.approve(bob._replace(subject="carol"), asked) == SILENCE
    assert (council.state, council.domain.world.count(Approval)) == ("in use", 1)


@meeting
async def test_n06_nobody_approves_what_they_asked_for(council: Council) -> None:
    """Neither with the key that asked nor with another one of the same account; and who asks by a token does not approve by key."""
    alice, bob = await council.begin("alice", "bob")
    second = await council.join("alice", "alice's other key")
    asked = await council.shred(alice)
    assert await council.approve(alice, asked) == OWN
    assert await council.approve(second, asked) == OWN
    made = await council.say(alice, CreateToken(name="ci", secret_hash="5e" * 32, role="operator"))  # type: ignore[arg-type]
    through = {"behalf": Behalf(account="alice", token=made["id"], door="http")}
    by_token = (await council.say(council.daemon, SHRED, **through))["approval"]
    assert await council.approve(alice, by_token) == OWN
    assert council.state == "in use"
    assert (await council.approve(bob, by_token))["state"] == "carried"
    await council.keys.settle()  # which looks at the signatures, the door's among them
    assert not council.key_file.exists()


@meeting
async def test_no_token_and_no_daemon_approves(council: Council) -> None:
    """A door that holds an operator's token signs for nobody, and the daemon's own key is no operator's; the operator's own key is."""
    alice, bob = await council.begin("alice", "bob")
    made = await council.say(bob, CreateToken(name="ci", secret_hash="5e" * 32, role="operator"))  # type: ignore[arg-type]
    asked = await council.shred(alice)
    agree = Approve(request=asked["id"], digest=asked["digest"])
    assert await council.say(council.daemon, agree, behalf=Behalf(account="bob", token=made["id"], door="http")) == NOBODY
    assert await council.say(council.daemon, agree) == NOBODY
    assert council.state == "in use"
    assert (await council.approve(bob, asked))["state"] == "carried"


@meeting
async def test_n14_a_stolen_daemons_key_shreds_nothing_alone(council: Council) -> None:
    """Neither ring 1's own key nor that of the ring above is exempt: its wish waits for the operators."""
    alice, bob = await council.begin("alice", "bob")
    for thief in (council.daemon, council.ring0):
        asked = (await council.say(thief, SHRED))["approval"]
        assert (asked["who"], asked["needed"]) == (thief.subject, 2)
        assert (await council.approve(alice, asked))["state"] == "waiting"
    await council.keys.settle()
    assert (council.state, council.key_file.exists()) == ("in use", True)
    assert (await council.approve(bob, asked))["state"] == "carried"


@meeting
async def test_n23_a_revoked_operators_approval_does_not_count(council: Council) -> None:
    """Given before the revocation, it counts no more after it; another one takes its place, and only then it is carried out."""
    alice, bob, carol, dave = await council.begin("alice", "bob", "carol", "dave")
    asked = await council.shred(alice)
    await council.approve(bob, asked)
    await council.revoke(bob)
    assert (await council.approve(carol, asked))["approved"] == ["carol"]
    assert council.state == "in use"
    assert (await council.approve(dave, asked))["state"] == "carried"


@meeting
async def test_n23_a_revoked_grant_counts_as_little_as_a_revoked_key(council: Council) -> None:
    """The statement names the grant and not the key: the approval that was given with it does not count any more either."""
    alice, bob, carol, _ = await council.begin("alice", "bob", "carol", "dave")
    asked = await council.shred(alice)
    await council.approve(bob, asked)
    await council.revoke(bob, bob.grant)
    assert (await council.approve(carol, asked))["approved"] == ["carol"]
    assert operators.needed(council.domain.world, "cloud/default", "alice", council.domain.journal.now()) == 2
    assert council.state == "in use"


@meeting
async def test_n23_a_revoked_asker_gets_nothing(council: Council) -> None:
    """Once the key that asked is revoked, nobody's approval carries out what it asked for; who asks anew gets it."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    asked = await council.shred(alice)
    await council.revoke(alice)
    await council.approve(bob, asked)
    assert await council.approve(carol, asked) == GONE
    assert council.state == "in use"
    anew = await council.shred(bob)
    assert (await council.approve(carol, anew))["approved"] == ["carol"]


@meeting
async def test_revoking_the_others_does_not_make_one_alone(council: Council) -> None:
    """Whoever revokes the only other operator waits a day before being alone."""
    alice, bob = await council.begin("alice", "bob")
    await council.revoke(bob)
    asked = await council.shred(alice)
    assert (asked["state"], asked["needed"]) == ("waiting", 1)
    council.pass_time(DAY_US + HOUR_US)
    assert await council.say(alice, SHRED) is None
    assert council.state == "condemned"


@meeting
async def test_an_accomplice_made_for_it_does_not_count(council: Council) -> None:
    """Where two have operated for a day, a key made later approves nothing for a day; one made after the request never does."""
    alice, bob = await council.begin("alice", "bob")
    council.pass_time(2 * DAY_US)
    puppet = await council.join("puppet")
    asked = await council.shred(alice)
    assert await council.approve(puppet, asked) == NOBODY
    assert await council.approve(await council.join("bob", "bob's forged key"), asked) == NOBODY
    assert council.state == "in use"
    assert (await council.approve(bob, asked))["approved"] == ["bob"]
    council.pass_time(2 * DAY_US)
    later = await council.shred(alice)
    assert (await council.approve(puppet, later))["approved"] == ["puppet"]


@meeting
async def test_a_key_made_after_the_request_approves_nothing(council: Council) -> None:
    """Also in a young cloud, where nobody has operated for a day: who comes later has no say in what was asked before."""
    alice, bob = await council.begin("alice", "bob")
    asked = await council.shred(alice)
    assert await council.approve(await council.join("puppet"), asked) == NOBODY
    assert (council.state, (await council.approve(bob, asked))["state"]) == ("in use", "carried")


@meeting
async def test_a_changed_request_is_another_one(council: Council) -> None:
    """An approval names the hash of the very message that asked: for another message, or another request, it is refused."""
    alice, bob = await council.begin("alice", "bob")
    first, second = await council.shred(alice), await council.shred(alice)
    assert first["digest"] != second["digest"]
    assert await council.say(bob, Approve(request=second["id"], digest=first["digest"])) == OTHER
    assert await council.say(bob, Approve(request="q-0000000000000000", digest=first["digest"])) == "E-APR-001"
    assert council.state == "in use"
    assert (await council.approve(bob, first))["state"] == "carried"
    assert await council.approve(bob, second) == "E-SHR-002"  # decided anew: it is condemned already


@meeting
async def test_what_ended_says_so(council: Council) -> None:
    """Refused by another, withdrawn by whoever asked, carried out, or expired: each is never carried out, and says what became of it."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    refused, withdrawn, expired = [await council.shred(alice) for _ in range(3)]
    assert (await council.say(bob, Refuse(request=refused["id"])))["state"] == "refused"
    assert (await council.say(alice, Refuse(request=withdrawn["id"])))["state"] == "withdrawn"
    await council.approve(bob, expired)
    council.pass_time(HOUR_US)
    for request, word in ((refused, "was refused by bob"), (withdrawn, "was withdrawn by alice"), (expired, "has expired")):
        agree = Approve(request=request["id"], digest=request["digest"])
        reply = await council.send(council.frame(carol, agree))
        assert (reply.code, reply.message) == (ENDED, f"request {request['id']} (compartment.shred) {word}")
    assert await council.waiting(carol) == []
    assert (council.state, council.key_file.exists()) == ("in use", True)
    assert [one["state"] for one in await council.waiting(carol, ended=True)] == ["refused", "withdrawn", "expired"]


@meeting
async def test_a_wish_that_is_refused_asks_nobody(council: Council) -> None:
    """What is impossible is said to whoever asks, and nothing waits."""
    alice, *_ = await council.begin("alice", "bob")
    assert await council.say(alice, ShredSecrets(compartment="default", confirm="blue")) == "E-SHR-001"
    assert await council.waiting(alice) == []


@meeting
async def test_a_decider_that_makes_approvals_up_moves_nobody(council: Council) -> None:
    """The part that destroys the key looks at the signatures itself: without approvals that hold, the file stays where it is."""
    alice, bob, carol = await council.begin("alice", "bob", "carol")
    asked = await council.shred(alice)
    await council.approve(bob, asked)
    world, key, now = council.domain.world, council.key_file, council.domain.journal.now()
    # The decider writes down bob's approval once more as carol's, and that all is well.
    bobs, row = world.need(Approval, asked["id"], "bob"), world.need(ApprovalRequest, asked["id"])
    carols = msgspec.structs.replace(bobs, account="carol", key=carol.key, grant=carol.grant)
    carried = msgspec.structs.replace(row, state="carried", ended=now, by="carol")
    world.put(carols)
    world.put(carried)
    SealingKeyCondemned(compartment=DEFAULT, public="00", time=now).apply(world)
    await council.keys.settle()
    assert (council.state, key.exists()) == ("condemned", True)
    honest = to_text(council.frame(carol, Approve(request=asked["id"], digest=asked["digest"])))
    world.put(msgspec.structs.replace(carols, frame=honest))
    # No request; a request that says less is needed and has one approval; another message than the one that was approved.
    world.delete(ApprovalRequest, row.id)
    await council.keys.settle()
    world.put(msgspec.structs.replace(carried, frame=to_text(council.frame(alice, SHRED))))
    await council.keys.settle()
    world.delete(Approval, row.id, "carol")
    world.put(msgspec.structs.replace(carried, needed=1))
    await council.keys.settle()
    assert (council.state, key.exists()) == ("condemned", True)
    # The twin: what the three did sign moves it.
    world.put(msgspec.structs.replace(carols, frame=honest))
    world.put(carried)
    await council.keys.settle()
    assert not key.exists()


@meeting
async def test_how_many_are_needed(council: Council) -> None:
    """Nobody else: none; one other: one; two others or more: two. Keys of one person are one."""
    await council.begin("alice")
    counts = []
    for name, word in (("alice", ""), ("bob", ""), ("bob", "again"), ("carol", ""), ("dave", "")):
        if name != "alice":
            await council.join(name, word)
        counts.append(operators.needed(council.domain.world, "cloud/default", "alice", council.domain.journal.now()))
    assert counts == [0, 1, 1, 2, 2]


@meeting
async def test_how_many_are_needed_follows_the_charter(council: Council) -> None:
    """The ring above says how many: from the next request on; what waits keeps its number, and the key goes by that number."""
    alice, bob, carol, dave = await council.begin("alice", "bob", "carol", "dave")
    before = await council.shred(alice)
    await council.charter(approvals=3)
    after = await council.shred(alice)
    assert (before["needed"], after["needed"]) == (2, 3)
    for person in (bob, carol):
        await council.approve(person, after)
    assert council.state == "in use"
    for person in (bob, carol):
        await council.approve(person, before)
    await council.keys.settle()
    assert (council.state, council.key_file.exists()) == ("shredded", False)
    assert await council.approve(dave, after) == "E-SHR-002"
    await council.charter(approvals=1)
    assert operators.latest(council.domain.world) == 1


@meeting
async def test_a_replay_says_the_same(council: Council) -> None:
    """Requests and approvals are facts: the journal folded anew gives the same world."""
    from compartments import history

    alice, bob = await council.begin("alice", "bob")
    await council.approve(bob, await council.shred(alice))
    await council.domain.journal.settled()
    number = council.domain.journal.head.number
    replayed = await history.world_at(council.domain.journal, str(number))
    assert replayed.digest() == council.domain.world.digest()

"""Keys, accounts, tokens and charters: who may ask, who no longer, and what is delegated."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from bus.messages import Asker, Command, Role
from compartments import charter, standing
from compartments.facts.charters import CharterReceived
from compartments.rows import AddressBlock, Charter, Compartment, Grant, Network, Node, RevokedKey, Token
from compartments.world import World
from enjin.canonical import to_text
from keys.frame import CHARTER, GRANT, seal
from ring0 import charters
from ring0.accounts import CloseAccount, CreateAccount, CreateToken, ListAccounts, ListTokens, RevokeToken
from ring0.charters import IssueCharter, ListCharters
from ring0.compartments import CreateCompartment
from ring0.keys import EnrollKey, ListKeys, ReplaceKey, RevokeKey, generation
from tests.ring0.book import HOUR, KEYS, OPERATOR, RING0, START, Book, founded
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import chartered, issue

SECRET = hashlib.sha256(b"the secret").hexdigest()


def test_a_key_is_enrolled_once_and_listed() -> None:
    """Enrolling a grant a second time changes nothing; the list tells whose key it is and what it may do."""
    book = founded()
    frame = KEYS.grant(OPERATOR, "second")
    book.ask(EnrollKey(frame=frame))
    assert book.facts(EnrollKey(frame=frame)) == []
    line = next(row for row in book.answer(ListKeys()) if row["key"] == KEYS.key("second"))
    assert ("operator", "operator", "active", KEYS.digest(frame)) == (line["name"], line["role"], line["state"], line["grant"])


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("not base64url!", "E-MSG-002"),
        (to_text(seal(CHARTER, b"{}", KEYS.issuer)), "E-GRA-001"),
        (to_text(seal(GRANT, b"{}", KEYS.issuer)), "E-MSG-002"),
        (KEYS.grant(OPERATOR, "new", cloud="f" * 64), "E-KEY-005"),
        (KEYS.grant("o-00000000000000ff", "new"), "E-KEY-005"),
        (KEYS.grant(RING0, "operator"), "E-KEY-005"),
        (KEYS.grant(OPERATOR, "new", compartment="cloud/nowhere"), "E-KEY-005"),
        (KEYS.grant(OPERATOR, "new", expiry=START - 1), "E-KEY-005"),
        (KEYS.grant(OPERATOR, "new", role=3), "E-ENJ-002"),
    ],
)
def test_grants_that_are_not_enrolled(frame: str, code: str) -> None:
    """Another cloud's, a stranger's, somebody else's key, an unknown place, too late, too much: each is refused."""
    refused(founded(), EnrollKey(frame=frame), code)


def test_nobody_enrolls_more_than_they_have() -> None:
    """An operator of one compartment cannot enroll a key for the whole cloud; for its own it can."""
    book = founded()
    book.ask(CreateAccount(name="someone", role="operator"))
    account = book.world.find(standing.Account, name="someone")[0].id
    wide, narrow = KEYS.grant(account, "wide"), KEYS.grant(account, "narrow", compartment="cloud/default")
    refused(book, EnrollKey(frame=wide), "E-ENJ-002", compartment="cloud/default")
    book.ask(EnrollKey(frame=narrow), compartment="cloud/default")
    assert KEYS.key("narrow") in {row.key for row in book.world.all(Grant)}


def test_a_revoked_key_stays_revoked() -> None:
    """Revocations are numbered, cannot be repeated, and bar the key from being enrolled again."""
    book = founded()
    book.ask(EnrollKey(frame=KEYS.grant(OPERATOR, "second")))
    said = book.ask(RevokeKey(key=KEYS.key("second")[:12], reason="stolen"))
    assert {"key": KEYS.key("second"), "number": 1} == said
    refused(book, RevokeKey(key=KEYS.key("second")), "E-KEY-004")
    refused(book, EnrollKey(frame=KEYS.grant(OPERATOR, "second", expiry=START + HOUR)), "E-KEY-005")
    row = book.world.all(RevokedKey)[0]
    assert (row.reason, row.by) == ("stolen", OPERATOR)
    line = next(row for row in book.answer(ListKeys()) if row["key"] == KEYS.key("second"))
    assert (line["state"], line["reason"]) == ("revoked", "stolen")


def test_a_nodes_key_is_replaced_once_and_nobody_elses() -> None:
    """A ring 1 node gets the next key; a person's, ring 0's, a revoked and an unknown one are refused and change nothing."""
    book, _charter = chartered()
    node = next(row.subject for row in book.world.all(Grant) if row.key == KEYS.key("ring1"))
    assert generation(book.world, node) == 1
    for word in ("operator", "ring0"):
        refused(book, ReplaceKey(key=KEYS.key(word)), "E-KEY-008")
    refused(book, ReplaceKey(key="0123"), "E-KEY-001")
    for _ in range(2):
        book.ask(ReplaceKey(key=KEYS.key("ring1")))
    line = next(row for row in book.answer(ListKeys()) if row["key"] == KEYS.key("ring1"))
    assert (line["state"], generation(book.world, node)) == ("replaced", 2)
    book.ask(RevokeKey(key=KEYS.key("ring1"), reason="rotated"))
    refused(book, ReplaceKey(key=KEYS.key("ring1")), "E-KEY-004")
    assert generation(book.world, node) == 2


def test_keys_that_must_not_go() -> None:
    """Ring 0's own key and the last operator's stay; the latter goes when that is said."""
    book = founded()
    refused(book, RevokeKey(key=KEYS.key("ring0")), "E-KEY-002")
    refused(book, RevokeKey(key=KEYS.key("operator")), "E-KEY-003")
    refused(book, RevokeKey(key="0123"), "E-KEY-001")
    refused(book, RevokeKey(key=KEYS.key("operator"), reason="x" * 201), "E-ENJ-004")
    expired = KEYS.grant(OPERATOR, "old", expiry=START + 2_000_000)
    book.ask(EnrollKey(frame=expired))
    book.time += HOUR
    refused(book, RevokeKey(key=KEYS.key("operator")), "E-KEY-003")
    book.ask(RevokeKey(key=KEYS.key("operator"), last=True))


def test_accounts_and_tokens() -> None:
    """An account, a token of it, who stands behind the token, and nobody after it was revoked."""
    book = founded()
    made = book.ask(CreateAccount(name="someone"))
    assert made["roles"] == [{"compartment": "cloud/default", "role": "tenant"}]
    line = book.ask(CreateToken(account="someone", name="laptop", secret_hash=SECRET))
    assert SECRET not in str(line)
    asker = standing.of_token(book.world, SECRET, book.time)
    default = book.world.find(Compartment, name="default")[0].id
    assert (made["id"], Role.TENANT, default, line["id"]) == (asker.id, asker.role, asker.compartment, asker.token)
    assert [(row["name"], row["state"]) for row in book.answer(ListTokens(account="someone"))] == [("laptop", "active")]
    book.ask(RevokeToken(token="laptop"))
    with pytest.raises(standing.TokenRefused):
        standing.of_token(book.world, SECRET, book.time)
    book.ask(CreateToken(account="someone", name="laptop", secret_hash="1" * 64))
    assert len(book.answer(ListTokens())) == 2


def test_a_token_ends_with_its_time_and_its_account() -> None:
    """An expired token and one of a closed account stand for nobody; an unknown secret neither."""
    book = founded()
    book.ask(CreateAccount(name="someone"))
    book.ask(CreateToken(account="someone", name="short", secret_hash=SECRET, expires=START + HOUR))
    book.ask(CreateToken(account="someone", name="long", secret_hash="1" * 64))
    assert standing.of_token(book.world, SECRET, START + HOUR - 1)
    for secret, time in ((SECRET, START + HOUR), ("2" * 64, START)):
        with pytest.raises(standing.TokenRefused):
            standing.of_token(book.world, secret, time)
    book.ask(CloseAccount(account="someone"))
    with pytest.raises(standing.TokenRefused):
        standing.of_token(book.world, "1" * 64, START)
    refused(book, CreateToken(account="someone", name="late", secret_hash="3" * 64), "E-ACC-007")
    assert next(row for row in book.answer(ListAccounts()) if row["name"] == "someone")["state"] == "closed"


def test_a_token_never_gives_more_than_its_account_has_now() -> None:
    """A token that was made when its account had more gives what the account still has, and only where it has it."""
    book = founded()
    book.ask(CreateAccount(name="someone"))
    book.ask(CreateToken(account="someone", name="laptop", secret_hash=SECRET))
    token, root = book.world.all(Token)[0], book.world.find(Compartment, name="cloud")[0].id
    book.world.put(msgspec.structs.replace(token, role="operator"))
    assert standing.of_token(book.world, SECRET, book.time).role is Role.TENANT
    book.world.put(msgspec.structs.replace(token, compartment=root))
    with pytest.raises(standing.TokenRefused):
        standing.of_token(book.world, SECRET, book.time)


@pytest.mark.parametrize(
    ("wish", "code", "asker"),
    [
        (CreateAccount(name="operator"), "E-LKP-002", {}),
        (CreateAccount(name="x"), "E-NAM-001", {}),
        (CreateAccount(name="other", compartment="nowhere"), "E-CMP-001", {}),
        (CreateAccount(name="other", role="operator", compartment="cloud"), "E-ENJ-002", {"compartment": "cloud/default"}),
        (CloseAccount(account="operator"), "E-ACC-004", {}),
        (CloseAccount(account="nobody"), "E-ACC-001", {}),
        (CreateToken(account="someone", name="wide", role="operator", secret_hash=SECRET), "E-ACC-005", {}),
        (CreateToken(account="someone", name="wide", compartment="cloud", secret_hash=SECRET), "E-ACC-005", {}),
        (CreateToken(account="someone", name="late", secret_hash=SECRET, expires=1), "E-ENJ-004", {}),
        (CreateToken(account="someone", name="laptop", secret_hash=SECRET), "E-LKP-002", {}),
        (CreateToken(account="someone", name="again", secret_hash="9" * 64), "E-ENJ-004", {}),
        (CreateToken(account="someone", name="theirs", secret_hash=SECRET), "E-ENJ-002", {"role": Role.TENANT, "id": "a-other"}),
        (RevokeToken(token="laptop"), "E-ENJ-002", {"role": Role.TENANT, "id": "a-other"}),
        (RevokeToken(token="nothing"), "E-ACC-002", {}),
    ],
)
def test_impossible_wishes_are_refused(wish: Command, code: str, asker: dict) -> None:
    """Nobody gives more than they have, no token gives more than its account has, and names are free or taken."""
    book = founded()
    book.ask(CreateAccount(name="someone"))
    book.ask(CreateToken(account="someone", name="laptop", secret_hash="9" * 64))
    refused(book, wish, code, **asker)


def test_a_bound_covers_homes_alone() -> None:
    """An asker reaches its bound (by id, name or path) and what has its home there; without a bound, operators reach all."""
    book = founded()
    inner = book.ask(CreateCompartment(name="inner", parent="default"))["id"]
    root, default = (book.world.find(Compartment, name=name)[0].id for name in ("cloud", "default"))
    for bound in (default, "default", "cloud/default"):
        asker = Asker(id="a", role=Role.TENANT, compartment=bound)
        assert [standing.covers(book.world, asker, one) for one in (default, inner, root, "")] == [True, True, False, False]
    assert not standing.covers(book.world, Asker(id="a", role=Role.TENANT), default)
    assert standing.covers(book.world, Asker(id="a", role=Role.OPERATOR), root)


def test_a_charter_says_what_the_world_says() -> None:
    """The draft names block, uids, environments with their homes, ports, grants parents first, and every revoked key."""
    book, wish = chartered()
    node = book.world.find(Node, label="ring1")[0]
    book.ask(wish, Role.SUPERVISOR)
    said = charters.in_force(book.world, node.id)
    assert said is not None
    assert (1, 1, node.id, RING0, 7081, 8080) == (said.version, said.epoch, said.decider, said.parent, said.api_port, said.router_port)
    assert [block.ipv4 for block in said.blocks] == ["10.80.64.0/18"]
    assert [place.name for place in said.compartments] == ["cloud", "default"]
    assert ("", said.compartments[0].id) == (said.compartments[0].parent, said.compartments[1].parent)
    assert (node.uid, 65_536, 3, ()) == (said.uid_first, said.uid_count, len(said.grants), said.revoked)
    assert charters.due(book.world, node) is None
    line = book.answer(ListCharters())[0]
    assert (line["version"], line["compartments"], line["grants"]) == (1, ["cloud", "default"], 3)


def test_a_charter_is_due_when_it_would_say_something_new() -> None:
    """A new environment and a revoked key make the next version due; issuing it settles that."""
    book, wish = chartered()
    node = book.world.find(Node, label="ring1")[0]
    book.ask(EnrollKey(frame=KEYS.grant(OPERATOR, "second")))
    book.ask(wish, Role.SUPERVISOR)
    book.ask(issue(book, node.id), Role.SUPERVISOR)
    book.ask(CreateCompartment(name="team-a"))
    book.ask(RevokeKey(key=KEYS.key("second")))
    new = charters.due(book.world, node)
    assert new is not None
    assert (3, {"cloud", "default", "team-a"}) == (new.version, {place.name for place in new.compartments})
    assert (KEYS.key("second"),) == new.revoked
    assert KEYS.grant(OPERATOR, "second") not in new.grants
    book.ask(issue(book, node.id), Role.SUPERVISOR)
    assert charters.due(book.world, node) is None


def test_charters_that_are_not_issued() -> None:
    """An old version, another cloud's or domain's, an unknown decider, no charter at all: each is refused."""
    book, wish = chartered()
    node = book.world.find(Node, label="ring1")[0]
    book.ask(wish, Role.SUPERVISOR)
    refused(book, wish, "E-CHA-002", Role.SUPERVISOR)
    said = charters.draft(book.world, node)

    def frame(**fields: object) -> str:
        return to_text(seal(CHARTER, charter_bytes(msgspec.structs.replace(said, **fields)), KEYS.issuer))

    for fields, code in (
        ({"cloud": "f" * 64}, "E-CHA-001"),
        ({"domain": "n-00000000000000ff"}, "E-CHA-001"),
        ({"decider": "n-00000000000000ff"}, "E-NOD-001"),
        ({"decider": RING0}, "E-CHA-001"),
        ({"epoch": 0}, "E-CHA-001"),
        ({"v": 2}, "E-CHA-001"),
        ({"version": 3}, "E-CHA-001"),
    ):
        refused(book, IssueCharter(domain=node.id, version=2, frame=frame(**fields)), code, Role.SUPERVISOR)
    refused(book, IssueCharter(domain=node.id, version=2, frame=KEYS.grant(OPERATOR, "operator")), "E-CHA-001", Role.SUPERVISOR)
    book.ask(IssueCharter(domain=node.id, version=2, frame=frame()), Role.SUPERVISOR)


def charter_bytes(said: charter.Charter) -> bytes:
    """Return the one spelling of *said*."""
    from enjin.canonical import canonical

    return canonical(said)


def test_a_received_charter_unfolds_in_the_child() -> None:
    """The child's world gets the places, the block with a network of its own, and the revoked keys; twice is once."""
    book, _ = chartered()
    node = book.world.find(Node, label="ring1")[0]
    said = msgspec.structs.replace(charters.draft(book.world, node), revoked=("a" * 64, "b" * 64))
    child = World()
    fact = CharterReceived(charter=said, hash="f" * 64, frame="AA", time=START)
    for _ in range(2):
        fact.apply(child)
    assert {"cloud", "default"} == {row.name for row in child.all(Compartment)}
    network = child.all(Network)[0]
    assert (network.name, network.ipv4, network.gateway4, network.next) == ("apps", "10.80.64.0/18", "10.80.64.1", 2)
    assert [node.id] == [row.domain for row in child.all(AddressBlock)]
    assert [row.number for row in child.all(RevokedKey)] == [1, 2]
    assert child.need(Charter, node.id).version == 1


def test_no_secret_is_in_a_row() -> None:
    """What the world keeps of a token is its hash."""
    book = founded()
    book.ask(CreateAccount(name="someone"))
    book.ask(CreateToken(account="someone", name="laptop", secret_hash=SECRET))
    assert book.world.all(Token)[0].secret_hash == SECRET
    assert b"the secret" not in b"".join(data for entry in book.entries for data in entry)


def test_a_chain_of_roles_never_widens() -> None:
    """Whoever has less makes nobody more."""
    book = Book()
    book = founded()
    book.ask(CreateAccount(name="boss", role="operator"))
    boss = book.world.find(standing.Account, name="boss")[0]
    refused(book, CreateAccount(name="twin", role="operator"), "E-ENJ-002", id=boss.id, role=Role.TENANT, compartment="cloud/default")
    book.ask(CreateAccount(name="twin", role="operator"), id=boss.id, compartment="cloud/default")

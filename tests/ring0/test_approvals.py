"""What one operator must not do alone in ring 0: end another operator's authority, and replace the root."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from bus.envelope import Statement, seal_statement
from bus.messages import Command, Moment, Role, Table
from compartments import approvals, operators
from compartments.approvals import Approve
from compartments.rows import Account, Node, RootSuccessor
from compartments.rows_approvals import ApprovalRequest
from enjin.canonical import canonical, parse
from keys.frame import open_frame
from keys.keyring import Keyring
from ring0 import charters
from ring0.accounts import CloseAccount, CreateAccount
from ring0.approvals import RequireApprovals
from ring0.keys import EnrollKey
from ring0.nodes import PlaceNode
from ring0.roots import RotateRoot
from ring0.services import SERVICES
from tests.ring0.book import CLOUD, HOUR, KEYS, OPERATOR, RING0, Book
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import ROOT, rooted, succeeding


class Signed(Book):
    """A book whose wishes come as signed messages, each with the key that follows from its signer's word."""

    def __init__(self, before: Book) -> None:
        super().__init__(Table(approvals.service(SERVICES, path="cloud", domain="ring0", ring=0, clock=lambda: self.time)))
        self.entries, self.asked, self.time = before.entries, before.asked, before.time + 1_000
        self.world = self.replayed()
        self.word = "operator"
        self.body: bytes = b"{}"
        self.kind = ""

    def ask(self, wish: Command, role: Role = Role.OPERATOR, **asker: Any) -> Any:
        """Decide *wish* as it was signed by whose ``word`` it is."""
        self.kind, self.body = wish.KIND, canonical(wish)
        return super().ask(wish, role, **asker)

    def moment(self, role: Role = Role.OPERATOR, **asker: Any) -> Moment:
        """Return the next moment, with the message."""
        at = super().moment(role, **asker)
        grants = [row.id for row in self.world.all(approvals.Grant) if row.subject == at.asker.id]
        statement = Statement(
            cloud=CLOUD, channel="ring0", kind=f"command.{self.kind}", iss=at.asker.id, aud=RING0, time=at.time, ttl_ms=1,
            grant=grants[0] if grants else "", rid=at.request, body=msgspec.Raw(self.body),
        )  # fmt: skip
        keyring = Keyring(CLOUD, hashlib.sha256(self.word.encode()).digest())
        return msgspec.structs.replace(at, frame=seal_statement(statement, keyring.message))

    def approve(self, account: str, word: str, asked: dict[str, Any]) -> Any:
        """Approve *asked* with the key that follows from *word*."""
        self.word = word
        try:
            return self.ask(Approve(request=asked["id"], digest=asked["digest"]), id=account)
        finally:
            self.word = "operator"

    def join(self, role: str = "operator") -> str:
        """Make an account called someone with a key, and return its id."""
        account = self.ask(CreateAccount(name="someone", role=role, compartment="cloud"))["id"]  # type: ignore[arg-type]
        frame = KEYS.grant(account, "someone", role=2 if role == "operator" else 1, cloud=open_frame(ROOT).digest)
        self.ask(EnrollKey(frame=frame), Role.SUPERVISOR)
        return str(account)


@pytest.fixture
def book() -> Signed:
    """A cloud with a root, and one operator."""
    return Signed(rooted())


def test_closing_another_operators_account_waits(book: Signed) -> None:
    """The account stays active until somebody else agrees; who asked does not count, and it can be whose account it is."""
    account = book.join()
    asked = book.ask(CloseAccount(account="someone"))["approval"]
    assert (asked["what"], asked["who"], asked["needed"]) == ("account.close", OPERATOR, 1)
    assert book.world.need(Account, account).state == "active"
    refused(book, Approve(request=asked["id"], digest=asked["digest"]), "E-APR-003")
    assert book.approve(account, "someone", asked)["state"] == "carried"
    assert book.world.need(Account, account).state == "closed"


def test_closing_a_tenants_account_does_not(book: Signed) -> None:
    """Nothing waits, the account is closed."""
    account = book.join("tenant")
    book.ask(CloseAccount(account="someone"))
    assert (book.world.need(Account, account).state, book.world.count(ApprovalRequest)) == ("closed", 0)


def test_one_operator_replaces_the_root_alone(book: Signed) -> None:
    """Two of the root's keys have signed, and there is nobody else to ask."""
    assert book.ask(succeeding(book)) == {"version": 2}
    assert book.world.count(RootSuccessor) == 1


def test_a_new_root_waits_for_another_operator(book: Signed) -> None:
    """The statement stands in the request, the old root in force; a second operator's key puts the very statement in force."""
    account = book.join()
    wish = succeeding(book)
    asked = book.ask(wish)["approval"]
    assert (asked["what"], asked["needed"], book.world.count(RootSuccessor)) == ("trust.rotate", 1, 0)
    assert parse(canonical(asked["wish"]), RotateRoot) == wish
    assert book.approve(account, "someone", asked)["state"] == "carried"
    assert [row.frame for row in book.world.all(RootSuccessor)] == [wish.frame]
    assert book.replayed().digest() == book.world.digest()


def test_a_request_that_was_overtaken_is_decided_anew(book: Signed) -> None:
    """Two new roots are asked for; once one is in force, the other's approval is refused as a fork, and nothing changes."""
    account = book.join()
    first = book.ask(succeeding(book))["approval"]
    second = book.ask(succeeding(book, new=[*succeeding_keys()]))["approval"]
    assert book.approve(account, "someone", first)["state"] == "carried"
    before = book.world.digest()
    with pytest.raises(Exception, match="root") as caught:
        book.approve(account, "someone", second)
    assert (caught.value.code, book.world.digest()) == ("E-ROT-004", before)  # type: ignore[attr-defined]


def succeeding_keys() -> list[Any]:
    """Return three keys that no root has had."""
    from keys.signing import Signer

    return [Signer.from_seed(hashlib.sha256(f"another root {number}".encode()).digest()) for number in range(3)]


def test_an_hour_later_it_is_over(book: Signed) -> None:
    """What nobody approved in time is never carried out."""
    account = book.join()
    asked = book.ask(succeeding(book))["approval"]
    book.time += HOUR
    with pytest.raises(Exception, match="has expired") as caught:
        book.approve(account, "someone", asked)
    assert caught.value.code == "E-APR-002"  # type: ignore[attr-defined]
    assert book.world.count(RootSuccessor) == 0


def test_how_many_are_required_is_itself_approved(book: Signed) -> None:
    """One operator says it alone; where there is another, the change waits; the same number again is no news; only 1 to 5 can be."""
    assert book.ask(RequireApprovals(approvals=3)) == {"approvals": 3}
    account = book.join()
    entries = len(book.entries)
    assert book.ask(RequireApprovals(approvals=3)) == {"approvals": 3}
    assert book.entries[entries:] == [[]]
    for count in (0, 6, -1):
        refused(book, RequireApprovals(approvals=count), "E-APR-011")
    asked = book.ask(RequireApprovals(approvals=1))["approval"]
    assert (asked["needed"], operators.latest(book.world)) == (1, 3)
    assert book.approve(account, "someone", asked)["state"] == "carried"
    assert operators.latest(book.world) == 1
    assert book.replayed().digest() == book.world.digest()


def test_a_request_keeps_the_number_it_was_asked_under(book: Signed) -> None:
    """What is required now does not change what was required then."""
    start = book.time
    book.ask(RequireApprovals(approvals=4))
    later = book.time
    assert [operators.required(book.world, time) for time in (start, later - 1, later, later + HOUR)] == [2, 2, 4, 4]


def test_the_next_charter_tells_ring_1(book: Signed) -> None:
    """It is due at once; a charter that says nothing of it means two."""
    book.ask(PlaceNode(label="ring1", strategy="jail"))
    node = next(row for row in book.world.all(Node) if row.ring == 1)
    book.ask(EnrollKey(frame=KEYS.grant(node.id, "ring1", ring=1, role=3, cloud=open_frame(ROOT).digest)), Role.SUPERVISOR)
    assert charters.draft(book.world, node).approvals == 2
    book.ask(RequireApprovals(approvals=1))
    assert charters.draft(book.world, node).approvals == 1

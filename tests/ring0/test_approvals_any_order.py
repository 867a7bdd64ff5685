"""Operators ask, approve, refuse, come, go and let time pass in any order: what was carried out had what it needed, by another count.

The count here is the test's own: from who joined and left when, and from the messages' signatures, and not from the product's rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus.envelope import read_statement
from bus.messages import Role
from compartments import operators
from compartments.approvals import Refuse
from compartments.rows_approvals import ApprovalRequest
from enjin.canonical import from_text
from enjin.errors import EnjinError
from keys.frame import open_frame
from keys.signing import verify
from ring0.accounts import CreateAccount
from ring0.approvals import RequireApprovals
from ring0.keys import EnrollKey, RevokeKey
from tests.ring0.book import HOUR, KEYS, OPERATOR
from tests.ring0.test_approvals import Signed
from tests.ring0.wishes import ROOT, rooted

DAY = 24 * HOUR
PEOPLE = st.integers(0, 4)


class Key(NamedTuple):
    """A key: the word that it follows from, whose it is, and since when."""

    word: str
    account: str
    since: int


class Approving(RuleBasedStateMachine):
    """A cloud with a root, its first operator and up to three more, of whom one can have a second key."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Signed(rooted())
        self.enroll(OPERATOR, "operator")  # for longer than genesis gave
        self.keys = [Key("operator", OPERATOR, 0)]
        self.gone: dict[str, int] = {}
        self.asked: list[dict[str, Any]] = []
        self.bar: dict[str, int] = {}
        self.over: dict[str, str] = {}
        self.carried = 0

    def enroll(self, account: str, word: str) -> None:
        """Let the key that follows from *word* operate for *account*."""
        frame = KEYS.grant(account, word, cloud=open_frame(ROOT).digest, expiry=self.book.time + 1_000 * DAY)
        self.book.ask(EnrollKey(frame=frame), Role.SUPERVISOR)

    def who(self, number: int) -> Key:
        """Return one of the keys."""
        return self.keys[number % len(self.keys)]

    def do(self, key: Key, wish: Any) -> Any:
        """Return the result of *wish* with *key*, or the error."""
        self.book.word = key.word
        try:
            return self.book.ask(wish, id=key.account)
        except EnjinError as error:
            return error
        finally:
            self.book.word = "operator"

    def others(self, account: str) -> set[str]:
        """Return who operates beside *account*, and who did less than a day ago."""
        return {key.account for key in self.standing()} - {account}

    def standing(self) -> list[Key]:
        """Return the keys that operate, or did less than a day ago."""
        now = self.book.time
        return [key for key in self.keys if self.gone.get(key.word, now + DAY) > now - DAY]

    @precondition(lambda self: len(self.keys) < 5)
    @rule(again=st.booleans())
    def join(self, again: bool) -> None:
        """Let somebody new operate, or give the newest another key."""
        word = f"person {len(self.keys)}"
        if again and len(self.keys) > 1:
            account = self.keys[-1].account
        else:
            made = self.book.ask(CreateAccount(name=f"person-{len(self.keys)}", role="operator", compartment="cloud"), Role.SUPERVISOR)
            account = made["id"]
        self.enroll(account, word)
        self.keys.append(Key(word, account, self.book.time))

    @precondition(lambda self: len(self.keys) > 1)
    @rule(number=PEOPLE)
    def leave(self, number: int) -> None:
        """Revoke a key, but for the first one."""
        key = self.keys[1:][number % (len(self.keys) - 1)]
        if key.word not in self.gone:
            self.book.ask(RevokeKey(key=KEYS.key(key.word), reason="lost", last=True), Role.SUPERVISOR)
            self.gone[key.word] = self.book.time

    @rule(number=PEOPLE, count=st.integers(1, 4))
    def ask(self, number: int, count: int) -> None:
        """Want another number of approvals; a revoked key would not get as far as a decision."""
        key = self.who(number)
        if key.word in self.gone:
            return
        before = operators.latest(self.book.world)
        bar = min(before, len(self.others(key.account)))
        told = self.do(key, RequireApprovals(approvals=count))
        if count == before or not bar:
            assert told == {"approvals": count}
            return
        request = told["approval"]
        assert request["needed"] == bar
        self.asked.append(request)
        self.bar[request["id"]] = bar

    @initialize(ages=st.lists(st.sampled_from((0, 2 * DAY)), min_size=1, max_size=3))
    def begin(self, ages: list[int]) -> None:
        """Begin with two to four operators, some of whom have been there for long."""
        for age in ages:
            self.join(again=False)
            self.book.time += age

    @precondition(lambda self: self.asked)
    @rule(number=PEOPLE, which=st.integers(0, 9), over=st.integers(0, 4))
    def approve(self, number: int, which: int, over: int) -> None:
        """Approve one of the requests: the newest ones mostly, at times one that is over."""
        requests = self.asked if over == 0 else self.asked[-2:]
        key, request = self.who(number), requests[which % len(requests)]
        if key.word in self.gone:
            return
        before = self.over.get(request["id"])
        self.book.word = key.word
        try:
            told = self.book.approve(key.account, key.word, request)
        except EnjinError:
            return
        assert before is None, "what is over was approved"
        if told["state"] == "carried":
            self.over[request["id"]] = "carried"
            self.check(request)

    @precondition(lambda self: self.asked)
    @rule(number=PEOPLE)
    def agree(self, number: int) -> None:
        """Approve the newest request."""
        self.approve(number, -1, 1)

    @precondition(lambda self: self.asked and len(self.asked) % 3 == 0)
    @rule(number=PEOPLE, which=st.integers(0, 9))
    def refuse(self, number: int, which: int) -> None:
        """Refuse one of the requests, or withdraw it."""
        key, request = self.who(number), self.asked[which % len(self.asked)]
        if key.word in self.gone:
            return
        told = self.do(key, Refuse(request=request["id"]))
        if not isinstance(told, EnjinError):
            assert request["id"] not in self.over
            self.over[request["id"]] = told["state"]

    @rule(microseconds=st.sampled_from((HOUR // 20, HOUR // 20, HOUR // 3, DAY + HOUR)))
    def wait(self, microseconds: int) -> None:
        """Let time pass."""
        self.book.time += microseconds

    def check(self, request: dict[str, Any]) -> None:
        """Look at the entry that carried *request* out, and count anew."""
        facts = [msgspec.json.decode(data) for data in self.book.entries[-1]]
        fact = next(one for one in facts if one["kind"] == "approval.carried")
        assert fact["request"] == request["id"]
        assert self.book.time < request["created"] + HOUR
        asker = read_statement(open_frame(from_text(fact["asked"]))).iss
        assert asker == request["who"]
        by_key = {KEYS.key(key.word): key for key in self.keys}
        elders = {key.account for key in self.standing() if key.since <= request["created"] - DAY}
        agreed = set()
        for text in fact["given"]:
            frame = open_frame(from_text(text))
            key = by_key[str(frame.key_id)]
            verify(_public(key.word), frame.type, frame.payload, frame.signature)
            said = msgspec.json.decode(read_statement(frame).body)
            assert (said["request"], said["digest"]) == (request["id"], request["digest"])
            assert key.word not in self.gone
            assert key.since < request["created"]
            assert len(elders) < 2 or key.since <= request["created"] - DAY
            agreed.add(key.account)
        assert len(agreed - {asker}) == len(fact["given"]) >= self.bar[request["id"]]
        self.carried += 1

    @invariant()
    def the_world_says_the_same(self) -> None:
        """No request is carried out that the test has not seen carried out."""
        world = self.book.world
        states = {row.id: row.state for row in world.all(ApprovalRequest)}
        assert {one: state for one, state in states.items() if state != "waiting"} == self.over

    def teardown(self) -> None:
        """A replay of all facts gives the same world."""
        assert self.book.replayed().digest() == self.book.world.digest()


def _public(word: str) -> bytes:
    import hashlib

    from keys.keyring import Keyring
    from tests.ring0.book import CLOUD

    return Keyring(CLOUD, hashlib.sha256(word.encode()).digest()).message.public


Approving.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestApproving = Approving.TestCase

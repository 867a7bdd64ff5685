"""Ending another operator's authority in ring 0 waits for others; ending a tenant's does not."""

from __future__ import annotations

from typing import Any

import pytest

from bus.messages import Moment, Rule, Table
from compartments import approvals
from compartments.rows import Account
from compartments.rows_approvals import ApprovalRequest
from ring0.accounts import CloseAccount, CreateAccount
from ring0.keys import EnrollKey
from ring0.services import SERVICES
from tests.ring0.book import CLOUD, KEYS, OPERATOR, RING0, START, Book, Role, founded


class Signed(Book):
    """A book whose wishes come as signed messages, as a journal gets them."""

    def moment(self, role: Role = Role.OPERATOR, **asker: Any) -> Moment:
        """Return the next moment, with a message of whoever asks."""
        import msgspec

        from bus.envelope import Statement, seal_statement
        from keys.signing import Signer

        at = super().moment(role, **asker)
        statement = Statement(
            cloud=CLOUD, channel="ring0", kind="command.account.close", iss=at.asker.id, aud=RING0, time=at.time, ttl_ms=1,
            grant="a" * 64, rid=at.request, body=msgspec.Raw(b"{}"),
        )  # fmt: skip
        frame = seal_statement(statement, Signer.from_seed(bytes(32)))
        return msgspec.structs.replace(at, frame=frame)


@pytest.fixture
def book() -> Signed:
    """A cloud with the operator, and another who has a key."""
    made = Signed()
    made.entries = founded().entries
    made.world, made.asked = made.replayed(), 1
    made.time = START + 1_000_000
    rows: list[Rule | Any] = approvals.service(SERVICES, path="cloud", domain="ring0", ring=0, clock=lambda: made.time)
    made.table = Table(rows)
    return made


def second(book: Book, role: str = "operator") -> str:
    """Make an account called someone with a key, and return its id."""
    account = book.ask(CreateAccount(name="someone", role=role, compartment="cloud"))["id"]  # type: ignore[arg-type]
    book.ask(EnrollKey(frame=KEYS.grant(account, "someone", role=2 if role == "operator" else 1)), Role.SUPERVISOR)
    return str(account)


def test_closing_another_operators_account_waits(book: Signed) -> None:
    """The account stays active, and the request says who asked for what."""
    account = second(book)
    told = book.ask(CloseAccount(account="someone"))
    assert told["approval"]["what"] == "account.close"
    assert (told["approval"]["who"], told["approval"]["needed"]) == (OPERATOR, 1)
    assert book.world.need(Account, account).state == "active"


def test_closing_a_tenants_account_does_not(book: Signed) -> None:
    """Nothing waits, the account is closed."""
    account = second(book, "tenant")
    book.ask(CloseAccount(account="someone"))
    assert (book.world.need(Account, account).state, book.world.count(ApprovalRequest)) == ("closed", 0)

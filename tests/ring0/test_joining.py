"""Join tokens as ring 0 decides them: one use, one key, one role, in time; and what a second key costs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bus.messages import Role
from compartments.rows import Account, Grant, RevokedKey
from compartments.rows_joining import JoinToken
from enjin.canonical import from_text, to_text
from keys.grants import PublicKeys
from keys.joining import read_request
from ring0.inviting import ListInvitations, Uninvite
from ring0.joining import Join
from ring0.keys import EnrollKey, RevokeKey
from tests.ring0.book import KEYS, OPERATOR, Book, founded
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import SECRET_KEY, asking, bought, inviting, joining

SUPERVISOR: Any = {"role": Role.SUPERVISOR}


def invited(**fields: Any) -> tuple[Book, str]:
    """Return a cloud with one open join token, and its id."""
    book = founded()
    return book, str(book.ask(inviting(**fields))["id"])


def use(book: Book, wish: Join) -> dict[str, Any]:
    """Use a token as the daemon does."""
    told: dict[str, Any] = book.ask(wish, Role.SUPERVISOR)
    return told


def denied(book: Book, wish: Any, code: str) -> None:
    """Check that *wish* is refused with *code* and changes nothing."""
    refused(book, wish, code, **SUPERVISOR)


def row(book: Book, token: str) -> JoinToken:
    return book.world.need(JoinToken, token)


def test_using_up_and_granting_are_one_entry() -> None:
    """The account, the token's end and the grant stand in one entry: there is no moment with one and without the other."""
    book, token = invited()
    wish = joining(book, token)
    told = use(book, wish)
    kinds = [msgspec.json.decode(data)["kind"] for data in book.entries[-1]]
    assert kinds == ["account.created", "join.used", "key.enrolled"]
    assert (told["misused"], told["grant"], told["name"]) == (False, wish.grant, "carol")
    account = book.world.first(Account, name="carol")
    assert account is not None
    assert [grant.subject for grant in book.world.all(Grant) if grant.id == row(book, token).grant] == [account.id]
    assert book.answer(ListInvitations())[0]["state"] == "used"
    assert book.world.digest() == book.replayed().digest()


def test_n40_a_token_is_used_once() -> None:
    """N40: the same request again has the same answer and changes nothing; another request of the same key is refused."""
    book, token = invited()
    wish = joining(book, token)
    first = use(book, wish)
    assert book.facts(msgspec.structs.replace(wish, grant=""), Role.SUPERVISOR) == []
    assert use(book, msgspec.structs.replace(wish, grant="")) == first
    denied(book, joining(book, token, machine="another"), "E-JOI-006")
    assert book.world.all(RevokedKey) == []


def test_n40_a_second_key_costs_both_their_trust() -> None:
    """N40, raced or replayed: the one that came first loses its key too, it is told, a third changes nothing, and neither comes back."""
    book, token = invited()
    first, second = joining(book, token), joining(book, token, word="a thief's")  # both were made while the token was open
    use(book, first)
    told = use(book, second)
    assert told["misused"]
    assert [(one.key, one.number) for one in sorted(book.world.all(RevokedKey), key=lambda one: one.number)] == [
        (KEYS.key("carol's"), 1), (KEYS.key("a thief's"), 2),
    ]  # fmt: skip
    assert told["keys"] == [KEYS.key("carol's"), KEYS.key("a thief's")]
    assert not [grant for grant in book.world.all(Grant) if grant.key == KEYS.key("a thief's")]
    for wish in (first, second, joining(book, token, word="a third")):
        denied(book, wish, "E-JOI-006")
    again = book.ask(inviting("dave", b"d" * 16))["id"]
    denied(book, joining(book, again, secret=b"d" * 16, word="a thief's"), "E-KEY-005")
    denied(book, EnrollKey(frame=KEYS.grant(OPERATOR, "a thief's")), "E-KEY-005")
    assert book.answer(ListInvitations())[0]["state"] == "used twice"
    assert book.world.digest() == book.replayed().digest()


def test_n40_out_of_time_a_token_buys_nothing() -> None:
    """N40: expired, revoked, or made to live longer than ten minutes; up to its last moment it is good."""
    book, token = invited(life_s=60)
    wish = joining(book, token)
    made = row(book, token)
    book.time = made.expires - 1_000 - 1
    assert book.facts(wish, Role.SUPERVISOR)
    book.time = made.expires - 1_000
    denied(book, wish, "E-JOI-006")
    other = book.ask(inviting("dave", b"d" * 16))["id"]
    book.ask(Uninvite(token=other))
    denied(book, joining(book, other, secret=b"d" * 16), "E-JOI-006")
    assert book.facts(Uninvite(token=other)) == []
    for life in (601, 0, -1):
        refused(book, inviting("erin", b"e" * 16, life_s=life), "E-ENJ-004")


@pytest.mark.parametrize(
    ("template", "request_fields", "source"),
    [
        pytest.param({}, {"role": "operator"}, "10.1.2.3", id="another role"),
        pytest.param({}, {"ring": 1}, "10.1.2.3", id="another ring"),
        pytest.param({"machine": "m-1"}, {"machine": "m-2"}, "10.1.2.3", id="another machine"),
        pytest.param({"machine": "m-1"}, {}, "10.1.2.3", id="no machine"),
        pytest.param({"source": "10.1.0.0/16"}, {}, "10.2.0.1", id="another network"),
        pytest.param({"source": "10.1.0.0/16"}, {}, "::ffff:10.1.2.3", id="another family"),
        pytest.param({"source": "10.1.0.0/16"}, {}, "", id="from nowhere"),
        pytest.param({}, {"cloud": "f" * 16}, "10.1.2.3", id="another cloud"),
    ],
)
def test_n40_a_token_is_for_one_thing(template: dict[str, Any], request_fields: dict[str, Any], source: str) -> None:
    """N40: another role, ring, machine, source or cloud is refused, and the token stays good for what it is for."""
    book, token = invited(**template)
    denied(book, joining(book, token, source=source, **request_fields), "E-JOI-002")
    rightful = {"machine": template["machine"]} if "machine" in template else {}
    assert use(book, joining(book, token, role="tenant", **rightful))["misused"] is False


def test_n40_a_guess_is_worth_nothing() -> None:
    """N40: without the secret nobody uses a token, burns one, or learns whether there is one."""
    book, token = invited()
    denied(book, joining(book, token, secret=b"g" * 16), "E-JOI-005")
    denied(book, joining(book, "j-ffffffffffffffff"), "E-JOI-005")
    denied(book, joining(book, "../../etc/passwd"), "E-JOI-005")
    use(book, joining(book, token))
    denied(book, joining(book, token, secret=b"g" * 16, word="a thief's"), "E-JOI-005")
    assert book.world.all(RevokedKey) == []


def test_n42_somebody_elses_key_is_refused() -> None:
    """N42: neither with another's signature missing, nor a key that is granted, asked for or revoked already, of any purpose."""
    book, token = invited()
    wish = joining(book, token)
    book.ask(asking("alice"))
    book.ask(RevokeKey(key=KEYS.key("operator"), last=True))
    for word in ("ring0", "operator", "alice"):
        denied(book, joining(book, token, word=word), "E-KEY-005")
    asked = asking("alice")
    for keys in (
        {"curve": asked.curve},
        {"nats": asked.nats},
    ):
        ours = bought_keys(wish)
        denied(book, joining(book, token, keys=msgspec.structs.replace(ours, **keys)), "E-KEY-005")
    bad = from_text(wish.request)
    denied(book, msgspec.structs.replace(wish, request=to_text(bad[:-1] + bytes([bad[-1] ^ 1]))), "E-SIG-001")
    use(book, wish)


def bought_keys(wish: Join) -> PublicKeys:
    return read_request(from_text(wish.request))[0].keys


def test_n44_no_key_for_two_purposes() -> None:
    """N44: at the decision too, whatever the daemon let through; nor keys of purposes that an account has not."""
    book, token = invited()
    ours = bought_keys(joining(book, token))
    denied(book, joining(book, token, keys=msgspec.structs.replace(ours, curve=ours.nats)), "E-JOI-004")
    other = bought_keys(joining(book, token, word="another"))
    for purpose in ("journal", "issue"):
        denied(book, joining(book, token, keys=msgspec.structs.replace(ours, **{purpose: other.message})), "E-JOI-002")


def test_the_grant_is_what_the_token_says() -> None:
    """A daemon that is led astray cannot put anything else through: wider, narrower, for others or for other keys."""
    book, token = invited()
    wish = joining(book, token)
    keys, others = bought_keys(wish), bought_keys(joining(book, token, word="another"))
    wrong: tuple[dict[str, Any], ...] = (
        {"role": 3}, {"role": 2}, {"ring": 1}, {"depth": 1}, {"compartment": "cloud/site"}, {"subject": OPERATOR}, {"allowed": ()},
        {"keys": others}, {"keys": msgspec.structs.replace(keys, curve=others.curve)},
    )  # fmt: skip
    for fields in wrong:
        denied(book, msgspec.structs.replace(wish, grant=bought(book, token, keys, **fields)), "E-JOI-002")
    assert use(book, wish)["misused"] is False


def test_nobody_invites_to_more_than_they_have() -> None:
    """Nor an account to more than it has, nor to a ring whose nodes are made from above, nor with what cannot be meant."""
    book, _token = invited()
    refused(book, inviting("erin", b"e" * 16, role="operator"), "E-ENJ-002", compartment="cloud/default")
    refused(book, inviting("erin", b"e" * 16, compartment="nowhere"), "E-CMP-001")
    use(book, joining(book, _token))
    refused(book, inviting("carol", b"e" * 16, role="operator"), "E-ENJ-002")
    for fields in ({"ring": 1}, {"allowed": ("fly",)}, {"source": "10.0.0.1/8"}, {"source": "everywhere"}, {"machine": "m" * 65}):
        refused(book, inviting("erin", b"e" * 16, **fields), "E-ENJ-004")
    refused(book, inviting("erin", SECRET_KEY), "E-ENJ-004")
    refused(book, inviting("n-0123456789abcdef", b"e" * 16), "E-LKP-002")


def test_there_are_only_so_many_tokens() -> None:
    """Open ones are bounded; those that are over make room."""
    book = founded()
    for number in range(64):
        book.ask(inviting(f"person-{number}", bytes([number]) * 16))
    refused(book, inviting("one-too-many", b"z" * 16), "E-JOI-008")
    book.time += 600_000_000
    book.ask(inviting("one-more", b"z" * 16))

"""What the holder of one narrow token tries with it: a longer life, a wider reach, other tenants' tokens of the same account."""

from __future__ import annotations

from bus.messages import Asker, Role
from compartments.lookup import NoSuchToken
from compartments.rows_accounts import Token
from enjin.names import Name
from ring1.accounts import SECOND_US, CreateToken, ListTokens, RevokeToken
from tests.ring1.domain import BLUE, DEFAULT, OPERATOR, Domain, refuse


def make(domain: Domain, name: str, compartment: str, asker: Asker = OPERATOR, life_s: int = 0) -> Token:
    """Make a token and return its row."""
    wish = CreateToken(name=Name(name), secret_hash=f"{name.encode().hex():0>64}", compartment=compartment, life_s=life_s)
    domain.do(wish, asker)
    return domain.world.need(Token, domain.result["id"])


def holder(token: Token, compartment: str) -> Asker:
    """Return the asker behind *token*, as the HTTP door has it."""
    return Asker(id=token.account, role=Role.TENANT, compartment=compartment, token=token.id, door="http")


def test_a_token_cannot_outlive_the_one_that_made_it() -> None:
    """Who holds a token for an hour makes none for longer; a shorter one, and any by a key, is as asked."""
    domain = Domain()
    hour = make(domain, "hour", "default", life_s=3600)
    thief = holder(hour, DEFAULT)
    assert make(domain, "forever", "default", thief).expires == hour.expires
    assert make(domain, "years", "default", thief, life_s=86_400).expires == hour.expires
    minute = make(domain, "minute", "default", thief, life_s=60)
    assert domain.time - SECOND_US < minute.expires - 60 * SECOND_US <= domain.time
    assert make(domain, "mine", "default").expires == 0


def test_a_token_sees_and_revokes_within_its_compartment_alone() -> None:
    """N66: tokens of several tenants hang from the operator who made them; each holder sees and revokes its own tenant's."""
    domain = Domain()
    red, blue = make(domain, "red", "default"), make(domain, "blue", "blue")
    listed = domain.ask(ListTokens(), holder(red, DEFAULT))
    assert [token["name"] for token in listed] == ["red"]
    for name in ("blue", blue.id):
        refuse(domain, RevokeToken(token=name), NoSuchToken, holder(red, DEFAULT))
    domain.do(RevokeToken(token="blue"), holder(blue, BLUE))
    assert domain.world.need(Token, blue.id).revoked
    assert {token["name"] for token in domain.ask(ListTokens())} == {"red"}

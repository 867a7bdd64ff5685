"""From a bearer token to who asks: the look-up that both rings' HTTP doors use.

Owns the text form of a token (``enjin_<id>_<secret>``) and what it stands for at a moment. A token hangs from an account
and only narrows; its secret is compared by hash and in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from bus.messages import Asker, Role
from compartments.rows import Account, Token
from compartments.world import World

PREFIX: Final = "enjin"
ROLES: Final = {"nobody": Role.NOBODY, "tenant": Role.TENANT, "operator": Role.OPERATOR}


def token_text(identity: str, secret: str) -> str:
    """Return the bearer token of token *identity* with *secret* (hex)."""
    return f"{PREFIX}_{identity}_{secret}"


def secret_hash(secret: str) -> str:
    """Return what the journal keeps of a token's secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(world: World, text: str, now: int) -> Asker | None:
    """Return the asker behind bearer token *text* at *now*; None when it stands for nobody."""
    prefix, _, rest = text.partition("_")
    identity, _, secret = rest.rpartition("_")
    token = world.get(Token, identity) if prefix == PREFIX and identity else None
    if token is None or not hmac.compare_digest(token.secret_hash, secret_hash(secret)):
        return None
    return account_of(world, token.account, token.id, now)


def account_of(world: World, account: str, token_id: str, now: int) -> Asker | None:
    """Return the asker that *account* is through token *token_id* at *now*; None when either no longer counts."""
    token, row = world.get(Token, token_id), world.get(Account, account)
    if token is None or token.account != account or token.revoked or (token.expires and token.expires <= now):
        return None
    if row is not None and row.state != "active":
        return None
    return Asker(id=account, role=ROLES.get(token.role, Role.NOBODY), compartment=token.compartment, token=token.id, door="http")


def bounded_life(world: World, asker: Asker, expires: int) -> int:
    """Return when a token that *asker* makes ends: never later than the token by which it asks (0: until it is revoked)."""
    held = world.get(Token, asker.token) if asker.token else None
    if held is None or not held.expires:
        return expires
    return min(expires, held.expires) if expires else held.expires

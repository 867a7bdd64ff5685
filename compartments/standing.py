"""What an account may do where: from memberships and tokens to an asker. Pure.

Owns the answer for accounts and their tokens, whose authority hangs from rows of this world. What a key may do is
``keys.trust``'s matter, because a key's authority is a chain of grants.

INV-STA-1: a token never gives more than its account has now, at its compartment or beneath. INV-STA-2: authority follows
homes alone.
"""

from __future__ import annotations

from bus.messages import Asker, Role
from compartments import graph
from compartments.rows import Account, AccountRole, Membership, Token
from compartments.world import World
from enjin.errors import Forbidden, Refused


class TokenRefused(Refused):
    """A token is unknown, expired or revoked, or its account is closed."""

    code = "E-ACC-003"
    http_status = 401
    remedy = "make another one: `enjin token create`"


def level(world: World, role: str) -> Role:
    """Return the level that role *role* stands for; a name that no row explains stands for nothing."""
    row = world.get(AccountRole, role)
    return Role(min(row.level, Role.OPERATOR)) if row is not None else Role.NOBODY


def role_in(world: World, account: str, compartment: str) -> Role:
    """Return the highest role that *account* has in *compartment* by its memberships there and in the homes above."""
    row = world.get(Account, account)
    if row is None or row.state != "active":
        return Role.NOBODY
    homes = {place.id for place in graph.home_path(world, compartment)}
    levels = [level(world, one.role) for one in world.find(Membership, account=account) if one.compartment in homes]
    return max(levels, default=Role.NOBODY)


def of_token(world: World, secret_hash: str, time: int, *, door: str = "http", reason: str = "") -> Asker:
    """Return the asker behind the token whose secret has this SHA-256 (hex), at *time* (microseconds of cloud time).

    Raises:
        TokenRefused: There is none, or it does not count now. The message does not say which.
    """
    token = world.first(Token, secret_hash=secret_hash)
    if token is not None and not token.revoked and (not token.expires or time < token.expires):
        role = min(level(world, token.role), role_in(world, token.account, token.compartment))
        if role > Role.NOBODY:
            return Asker(id=token.account, role=role, compartment=token.compartment, token=token.id, door=door, reason=reason)
    raise TokenRefused("the token is not valid")


def covers(world: World, asker: Asker, compartment: str) -> bool:
    """Whether *asker*'s bound (an id, a name or a path) is *compartment* (an id) or a home above it.

    An asker without a bound reaches everything from operator upwards, and nothing below.
    """
    if asker.role >= Role.SUPERVISOR:
        return True
    if not asker.compartment:
        return asker.role >= Role.OPERATOR
    bound, path = graph.locate(world, asker.compartment), graph.path_text(world, compartment)
    return path == bound or path.startswith(bound + "/")


def require(world: World, asker: Asker, identity: str) -> None:
    """Check that compartment or node *identity* lies within *asker*'s bound. Raises: Forbidden."""
    if not covers(world, asker, identity):
        raise Forbidden(f"{identity} lies outside {asker.compartment or 'nothing'}, which is what you may touch")

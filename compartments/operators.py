"""How many operators there are for a compartment, and whose approval counts. Pure.

Owns the rule by which approvals are counted, the same for whoever decides and whoever acts. A person counts once, by account, however
many keys they hold; tokens do not count: they sign nothing themselves.

INV-OPR-1: revoking an operator's key does not lower what is needed for a day: else whoever wants to be alone revokes the others.
INV-OPR-2: where two operators have been there for a day, a younger key approves nothing: else whoever wants another voice makes one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bus.messages import Role
from compartments.rows import Account, Grant, RevokedKey
from compartments.rows_approvals import ApprovalPolicy
from compartments.world import World

NEEDED: Final = 2  # unless the cloud was told otherwise
ELDERS: Final = 2
DAY_US: Final = 86_400_000_000


class Held(NamedTuple):
    """A key that operates, or did until less than a day before: whose, since when (cloud time), and whether it still does."""

    account: str
    key: str
    since: int
    live: bool


def held(world: World, path: str, time: int) -> list[Held]:
    """Return the keys of people who can, or lately could, operate the compartment at *path* at *time*, in the order of key ids."""
    from keys.grants import within_path  # with cryptography, which a table that is only listed does without

    rows: dict[str, list[Grant]] = {}
    for grant in world.all(Grant):
        if grant.role == Role.OPERATOR and within_path(path, grant.compartment) and grant.created <= time:
            rows.setdefault(grant.key, []).append(grant)
    found = []
    for key, grants in sorted(rows.items()):
        account = world.get(Account, grants[0].subject)
        if account is not None and account.state != "active":
            continue
        ends = [_revoked(world, grant, time) for grant in grants if grant.not_before <= time < grant.expiry]
        if ends and (0 in ends or max(ends) > time - DAY_US):
            found.append(Held(grants[0].subject, key, min(grant.created for grant in grants), 0 in ends))
    return found


def _revoked(world: World, grant: Grant, time: int) -> int:
    """Return since when *grant*, or its key, is revoked; 0 when it is not at *time*."""
    rows = [row for row in (world.get(RevokedKey, grant.key), world.get(RevokedKey, grant.id)) if row is not None and row.time <= time]
    return min((row.time for row in rows), default=0)


def latest(world: World) -> int:
    """Return how many others must approve from now on, where there are so many."""
    row = world.first(ApprovalPolicy)
    return row.count if row is not None else NEEDED


def required(world: World, time: int) -> int:
    """Return how many others had to approve at *time*, where there were so many."""
    row = world.first(ApprovalPolicy)
    if row is None:
        return NEEDED
    return row.count if time >= row.since else row.before


def needed(world: World, path: str, asker: str, time: int) -> int:
    """Return how many others must approve what account *asker* wants of the compartment at *path*: 0 where nobody else operates it."""
    others = {one.account for one in held(world, path, time)} - {asker}
    return min(required(world, time), len(others))


def approvers(world: World, path: str, asker: str, asked: int, time: int) -> dict[str, str]:
    """Return key id -> account of those whose approval counts at *time* for what *asker* asked at *asked*."""
    keys = held(world, path, time)
    elders = {one.account for one in keys if one.since <= asked - DAY_US}
    return {
        one.key: one.account
        for one in keys
        if one.live and one.account != asker and one.since < asked and (len(elders) < ELDERS or one.since <= asked - DAY_US)
    }

"""Whether a verified signer may do this to that: role, capability, compartment, and for whom a door speaks.

Owns the stage ``permission``. Pure but for what it is given to ask: World, the accounts behind a door's tokens, and
where a compartment lies.

INV-PER-1: everything must hold at once: the asker's role, the grant's capability on the compartment's path, and that
the path lies within the asker's own compartment. Nothing allowed allows nothing.
INV-PER-2: a door that speaks for an account is believed only when it is this daemon's own, or that of one that decides in the same
domain and has the same accounts; and then the account counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from bus.envelope import Behalf
from bus.messages import Asker, Question, Role, Rule
from bus.opening import Opened
from bus.stages import NotAllowed
from keys.grants import within_path

ROLES: Final = {int(role): role for role in Role}


class Place(NamedTuple):
    """Where a daemon stands: its subject id, the domain it decides, its channel, its ring, its compartment's path."""

    node: str
    domain: str
    channel: str
    ring: int
    path: str


class Permission:
    """The permission check of one daemon.

    Args:
        place: Where it stands.
        account: Returns the asker behind a token of our own door; None when it stands for nobody any more.
        world: Returns the World that a row's ``compartment`` looks into.
        locate: Turns a compartment's name into its path; None: a child of the place's own path.
        fellows: Subject ids of the daemons that decide in the same domain.
    """

    def __init__(
        self,
        place: Place,
        account: Callable[[Behalf], Asker | None] | None,
        world: Callable[[], Any],
        locate: Callable[[str], str] | None,
        fellows: frozenset[str] = frozenset(),
    ) -> None:
        self._place = place
        self._doors = fellows | {place.node}
        self._account = account
        self._world = world
        self._locate = locate or self._below

    def asker(self, opened: Opened, door: str) -> Asker:
        """Return who wants this: the signer, or the account that our own door speaks for. Raises: NotAllowed."""
        behalf, statement = opened.statement.behalf, opened.statement
        if behalf is None:
            grant = opened.authority.grant
            role = ROLES.get(grant.role, Role.NOBODY)
            return Asker(id=grant.subject, role=role, compartment=grant.compartment, door=door, reason=statement.reason)
        if statement.iss not in self._doors or self._account is None:
            raise NotAllowed("only this daemon's own door may speak for an account")
        found = self._account(behalf)
        if found is None or found.id != behalf.account:
            raise NotAllowed("the token stands for nobody", hint="it was revoked, or its account is gone: make another token")
        return msgspec.structs.replace(found, token=behalf.token, door=behalf.door, reason=statement.reason)

    def touched(self, row: Rule | Question, message: Any, opened: Opened, asker: Asker) -> str:
        """Return the path of the compartment that *message* touches.

        Where *row* names none, or there is no such thing, a command touches the whole domain and a query what the asker may
        see: its answer is made for the asker. Raises: whatever the row's ``compartment`` refuses with, such as NotFound.
        """
        name = row.compartment(message, self._world()) if row.compartment is not None else ""
        if name:
            return self._locate(name)
        return self._place.path if isinstance(row, Rule) else self.bound(opened, asker)

    def check(self, opened: Opened, asker: Asker, allow: Role, touched: str, kind: str = "") -> None:
        """Check that *asker* may do what *opened* says on the path *touched*; *kind* when it says several things. Raises: NotAllowed."""
        kind = kind or opened.kind
        if asker.role < allow:
            raise NotAllowed(f"{kind} needs the role {allow.name.lower()}, you have {asker.role.name.lower()}")
        if not opened.authority.covers(kind, touched):
            raise NotAllowed(f"the grant does not cover {kind} on {touched}")
        bound = self.bound(opened, asker)
        if not bound or not within_path(touched, bound):
            # Not where it lies: that would tell a stranger which names exist.
            raise NotAllowed(f"{kind} on that lies outside {bound or 'nothing'}, which is what you may touch")

    def bound(self, opened: Opened, asker: Asker) -> str:
        """Return the path within which *asker* may touch anything; an operator's account without one has the whole domain."""
        if opened.statement.behalf is None:
            return asker.compartment
        if asker.compartment:
            return self._locate(asker.compartment)
        return self._place.path if asker.role >= Role.OPERATOR else ""

    def _below(self, name: str) -> str:
        if not name or within_path(name, self._place.path):
            return name or self._place.path
        return f"{self._place.path}/{name}"

"""What a domain's journal makes its daemon believe: the roots that followed, the grants enrolled, the keys revoked.

Owns the way from World's rows to the trust set. Decides nothing: a frame that does not hold is said and left out.
"""

from __future__ import annotations

from typing import Final

from compartments.rows import Grant, RevokedKey, RootSuccessor
from compartments.world import World
from enjin import log
from enjin.canonical import from_text
from enjin.errors import Refused
from keys.trust import TrustSet

_log: Final = log.get("belief")


class Belief:
    """Keeps *trust* at what World says; ``sync`` is called after every commit.

    Attributes:
        changes: How often what is believed has changed.
    """

    def __init__(self, trust: TrustSet) -> None:
        self.changes = 0
        self._trust = trust
        self._known = (-1, -1, -1)
        self._added: set[str] = set()
        self._revoked: set[str] = set()

    def sync(self, world: World) -> None:
        """Believe what was enrolled, and nothing that was revoked; costs nothing while neither changed."""
        known = (world.count(Grant), world.count(RevokedKey), world.count(RootSuccessor))
        if known == self._known:
            return
        if known[2] != self._known[2]:  # another root may vouch for what the one before did not
            self._added.clear()
        self._known = known
        self.changes += 1
        roots = sorted(world.all(RootSuccessor), key=lambda row: row.version)
        try:
            self._trust.follow_roots(from_text(row.frame) for row in roots)
        except Refused as error:
            _log.error("root.refused", error=error)
        new = [row for row in world.all(Grant) if row.frame and row.id not in self._added]
        for row in sorted(new, key=lambda row: (row.ring, row.created, -row.role, row.id)):
            try:
                self._trust.add(from_text(row.frame))
                self._added.add(row.id)
            except Refused as error:
                _log.warning("grant.refused", grant=row.id, subject=row.subject, error=error)
        for key in world.all(RevokedKey):
            if key.key not in self._revoked:  # each revocation drops what was worked out of all the chains
                self._revoked.add(key.key)
                self._trust.revoke(key.key, key.reason)

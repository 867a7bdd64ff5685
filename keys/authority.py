"""What a subject may do, as its whole chain of grants says; and the three reasons why what a key signed is not believed. Pure.

Owns what ``keys.trust`` answers with. Decides nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from enjin.errors import Refused
from keys.grants import Grant, covers

SAID_MAX: Final = 256


class UnknownKey(Refused):
    """No grant here names this key."""

    code = "E-TRU-001"
    http_status = 401


class GrantExpired(Refused):
    """The signer's grant, or one above it, is not in force now."""

    code = "E-TRU-002"
    http_status = 401


class Revoked(Refused):
    """The signer's key or grant, or one above it, was revoked."""

    code = "E-TRU-003"
    http_status = 401


class Known(NamedTuple):
    """A public key that a grant names for signing messages."""

    public: bytes
    grant: str


class Authority(NamedTuple):
    """What a subject may do, as its whole chain says."""

    grant: Grant
    hash: str
    chain: tuple[str, ...]
    key: str
    said: dict[tuple[str, str], bool]  # what ``covers`` said before: a grant never changes

    def covers(self, verb: str, resource: str) -> bool:
        """Whether the subject may *verb* on compartment path *resource*."""
        found = self.said.get((verb, resource))
        if found is None:
            if len(self.said) >= SAID_MAX:
                self.said.clear()
            found = self.said[verb, resource] = covers(self.grant.allowed, verb, resource)
        return found


class Standing(NamedTuple):
    """An authority while nothing is revoked: in force from *begin* until *end*, microseconds."""

    authority: Authority
    begin: int
    end: int

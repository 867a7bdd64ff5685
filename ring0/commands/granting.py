"""Asking for a grant for a new key, and waiting until there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from enjin.canonical import from_text
from ring0.commands.client import until

if TYPE_CHECKING:
    from bus.session import Session

GRANT_S: Final = 30.0


async def granted_key(session: Session, seed: bytes, name: str, role: Any, place: str, reason: str) -> dict[str, Any]:
    """Ask for a grant for the key of *seed*, and return the key's line with the grant once there is one. Raises: NotYet."""
    from keys.keyring import Keyring
    from keys.requests import prove, publics
    from ring0.enrolling import RequestKey, ShowKey
    from ring0.keys import NoSuchKey

    ring = Keyring(session.directory.cloud, seed)
    wish = RequestKey(name=name, role=role, compartment=place, proof=prove(ring, name), **publics(ring))
    asked = await session.command(0, wish, reason=reason)

    async def granted() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await session.query(0, ShowKey(key=asked["key"]))
        except NoSuchKey:
            return None
        return found

    found: dict[str, Any] = await until(session, granted, f"ring 0 has not granted key {asked['key'][:16]}", GRANT_S)
    session.trust.add(from_text(found["frame"]))  # refuses a grant whose chain does not end in the root that we pin
    return found

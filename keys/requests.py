"""Asking for a grant: the proof that whoever asks holds the secret of the key it names.

Owns the statement and its signature. The new key signs its own public halves, the name it asks for and the cloud, so that
nobody can have a grant made out for another's key. Whether there shall be a grant is decided elsewhere.
"""

from __future__ import annotations

from typing import Final

import msgspec

from enjin.canonical import canonical, from_text, to_text
from keys.keyring import Keyring
from keys.signing import check_public, read_public, verify

REQUEST: Final = "application/vnd.enjin.keyrequest.v1+json"


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What the new key signs; the keys in hex, the one for NATS where there is one."""

    cloud: str
    name: str
    message: str
    curve: str
    nats: str = ""


def publics(keyring: Keyring) -> dict[str, str]:
    """Return the public halves (hex) that a request names."""
    return {"message": keyring.message.public.hex(), "curve": keyring.curve.public.hex(), "nats": keyring.nats.public.hex()}


def prove(keyring: Keyring, name: str) -> str:
    """Return the proof that we hold *keyring*'s secrets, as base64url text."""
    asked = KeyRequest(cloud=keyring.cloud, name=name, **publics(keyring))
    return to_text(keyring.message.sign(REQUEST, canonical(asked)))


def check_proof(asked: KeyRequest, proof: str) -> None:
    """Check that the holder of ``asked.message`` asks for just this.

    Raises:
        BadKey: A public key is malformed.
        BadSignature, Malformed: The proof does not hold.
    """
    message = check_public(read_public(asked.message))
    read_public(asked.curve)
    if asked.nats:
        check_public(read_public(asked.nats))
    verify(message, REQUEST, canonical(asked), from_text(proof))

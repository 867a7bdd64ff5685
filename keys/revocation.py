"""Revocations: signed statements that a key or a grant is believed no longer, by who gave it or stands above who did.

Owns the fields, the signing, and the rule of who may revoke what. Pure. There is no statement that takes one back.

INV-RVK-1: only the issuer of a grant, or one above it in the chain, revokes it: neither a sibling, nor a child, nor the subject.
INV-RVK-2: a revocation takes all that the key or grant gave with it (INV-TRU-2), at once and for ever.

Source: THREATS B7.
"""

from __future__ import annotations

from typing import Final

import msgspec

from enjin.canonical import canonical, parse
from enjin.errors import Refused
from keys.frame import REVOCATION, Frame, seal
from keys.grants import ROOT_PARENT, Grant
from keys.root import check_threshold
from keys.signing import Signer, verify
from keys.trust import TrustSet

NAME_CHARACTERS: Final = 64
REASON_CHARACTERS_MAX: Final = 200


class RevocationRefused(Refused):
    """A statement does not revoke anything: it is malformed, or its signer stands above nothing that it names."""

    code = "E-TRU-020"
    http_status = 403


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is believed no longer.

    ``name`` is a key's id or a grant's hash, ``issuer`` the hash of the signer's own grant (empty: the root). ``number`` counts
    the signer's revocations from 1 without a gap; ``since`` is microseconds of cloud time when it was decided: it counts at once.
    """

    v: int = 1
    cloud: str
    name: str
    issuer: str
    number: int
    since: int
    reason: str = ""


def sign_revocation(revocation: Revocation, issuer: Signer) -> bytes:
    """Return the frame of *revocation* signed with its issuer's key for grants."""
    return seal(REVOCATION, canonical(revocation), issuer)


def read_revocation(frame: Frame) -> Revocation:
    """Return what *frame* says, its own fields checked; the signature and whose it is are not.

    Raises:
        RevocationRefused, Malformed, NotCanonical.
    """
    if frame.type != REVOCATION:
        raise RevocationRefused("the frame does not hold a revocation")
    found = parse(frame.payload, Revocation)
    if found.v != 1:
        raise RevocationRefused(f"revocation version {found.v} is unknown")
    if len(found.name) != NAME_CHARACTERS or not set(found.name) <= set("0123456789abcdef"):
        raise RevocationRefused("a revocation names a key id or a grant's hash")
    if found.number < 1 or len(found.reason) > REASON_CHARACTERS_MAX:
        raise RevocationRefused("a revocation's number counts from 1, and its reason is short")
    return found


def check_revocation(trust: TrustSet, frame: Frame, now: int, own: str) -> Revocation:
    """Return the revocation in *frame* after checking that its signer may make it.

    What it names may be unknown here when the signer stands above us: our *own* grant is beneath it, and nothing that we
    know can be hurt by more than it could take anyway.

    Raises:
        RevocationRefused: Of another cloud, or by who stands above nothing that it names.
        BadSignature, RootRefused: Its signer, or enough of the root's keys, did not sign it.
        UnknownKey, GrantExpired, Revoked: Its signer is not believed now.
        Malformed, NotCanonical.
    """
    said = read_revocation(frame)
    if said.cloud != trust.cloud:
        raise RevocationRefused("the revocation belongs to another cloud")
    if said.issuer == ROOT_PARENT:
        check_threshold(frame, trust.root)
        return said
    signer = trust.authority(said.issuer, now, trust.grant(own).subject).grant
    if not signer.keys.issue or len(frame.signatures) != 1:
        raise RevocationRefused("the signer has no key to sign revocations with")
    verify(bytes.fromhex(signer.keys.issue), frame.type, frame.payload, frame.signature)
    named = trust.named(said.name)
    if not all(_stands_above(trust, signer, digest) for digest in named or (own,)):
        raise RevocationRefused(f"{signer.subject} has not granted what it wants to revoke, and stands above nobody who has")
    return said


def _stands_above(trust: TrustSet, signer: Grant, digest: str) -> bool:
    """Whether *signer*'s key for grants (which outlives a renewal of its grant) stands above grant *digest*."""
    return any(grant.keys.issue == signer.keys.issue for grant in trust.lineage(digest)[1:])

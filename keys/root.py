"""The root: three offline keys, any two of which sign. Its first statement's hash is the cloud's id.

Source: The Update Framework 1.0, 5.3 (root rotation by threshold of the old and of the new keys).
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from enjin.canonical import canonical, parse
from enjin.errors import Refused
from enjin.names import CloudId
from keys.frame import ROOT, Frame, seal
from keys.signing import BadSignature, Signer, check_public, key_id, pae, read_public, verify

SHARES: Final = 3
THRESHOLD: Final = 2


class RootRefused(Refused):
    """A root statement is not signed by enough of the right keys."""

    code = "E-ROT-001"


class RootStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Which keys are the root's, how many must sign, and until when (microseconds).

    A successor names its predecessor by hash (``previous``) and, by hash, the grants that earlier roots signed and that it goes
    on standing for (``confirms``): one frame says it all, so nothing that is in force is ever without a root.
    """

    v: int
    version: int
    threshold: int
    keys: tuple[str, ...]
    issued: int
    expiry: int
    previous: str = ""
    confirms: tuple[str, ...] = ()


def make_root(shares: list[Signer], issued: int, expiry: int) -> bytes:
    """Return the frame of the first root statement, signed by a threshold of *shares*."""
    statement = RootStatement(
        v=1, version=1, threshold=THRESHOLD, keys=tuple(share.public.hex() for share in shares), issued=issued, expiry=expiry
    )
    return seal(ROOT, canonical(statement), *shares[:THRESHOLD])


def read_root(frame: Frame) -> RootStatement:
    """Return the root statement in *frame*, signed by its own threshold.

    Raises:
        RootRefused: Not a root statement, or too few different keys signed it.
        BadSignature, BadKey, Malformed, NotCanonical.
    """
    if frame.type != ROOT:
        raise RootRefused("the frame does not hold a root statement")
    statement = parse(frame.payload, RootStatement)
    if statement.v != 1 or not 1 < statement.threshold <= len(set(statement.keys)):
        raise RootRefused("the root statement's threshold is impossible")
    if statement.version < 1 or (statement.version == 1) != (statement.previous == ""):
        raise RootRefused("every root statement but the first names the one it follows")
    check_threshold(frame, statement)
    return statement


def check_threshold(frame: Frame, root: RootStatement) -> None:
    """Check that a threshold of different keys of *root* signed *frame*.

    Raises:
        RootRefused: Too few, or one key twice.
    """
    known = [check_public(read_public(key)) for key in root.keys]
    publics = {key_id(public): public for public in known}
    signed: set[str] = set()
    for one in frame.signatures:
        public = publics.get(one.key_id)
        if public is None:
            continue
        try:
            verify(public, frame.type, frame.payload, one.signature)
        except BadSignature:
            continue
        signed.add(one.key_id)
    if len(signed) < root.threshold:
        raise RootRefused(f"{len(signed)} of the {root.threshold} root keys needed have signed")


def check_signed(frame: Frame, root: RootStatement) -> None:
    """Check that *root* stands for *frame*: it confirms it by hash, or a threshold of its keys signed it.

    Raises:
        RootRefused: Neither.
    """
    if frame.digest not in root.confirms:
        check_threshold(frame, root)


def cloud_id(frame: Frame) -> CloudId:
    """Return the cloud's id: SHA-256 over the signed bytes of the first root statement."""
    return CloudId(hashlib.sha256(pae(frame.type, frame.payload)).hexdigest())

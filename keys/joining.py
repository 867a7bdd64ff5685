"""Joining: a token for one use that names the parent by its key, and the two signed frames that it buys.

Owns the token's text, the request with which its holder asks for a grant, and the parent's answer. The secret never travels: a
signing key is made from it, whose id alone is kept, and whoever joins signs with that key and with the new keys' own. Pure.

INV-JOI-1: nothing is believed on first use: the answer counts when the key that the token names has signed it, and its chain ends in
the root of the cloud that the token names. INV-JOI-2: who asks for a grant holds the secret of the token and of the key.
INV-JOI-3: a request is for one parent, one token and one set of keys, each for one purpose.

Source: THREATS B8; SPIRE join tokens; Docker Swarm's token for the digest of the parent within it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

import msgspec
from nacl import bindings

from enjin.canonical import canonical, from_text, parse
from enjin.errors import Invalid, Refused
from keys.frame import JOIN, JOINED, Frame, open_frame, seal
from keys.grants import PublicKeys
from keys.signing import Signer, check_public, key_id, read_public, verify
from keys.trust import TrustSet

PREFIX: Final = "enjin1"
HINT_DIGITS: Final = 16
SECRET_BYTES: Final = 16
ANSWER_GRANTS_MAX: Final = 8
_TOKEN: Final = re.compile(r"enjin1\.([0-9a-f]{16})\.([0-9a-f]{16})\.(j-[0-9a-f]{16})\.([0-9a-f]{32})")


class BadJoinToken(Invalid):
    """A join token is not of its form."""

    code = "E-JOI-001"
    remedy = "copy it whole: `enjin1.` and four parts; an operator makes one with `enjin join token create`"


class JoinRefused(Refused):
    """A request to join is not what its token allows."""

    code = "E-JOI-002"
    http_status = 403


class FakeParent(Refused):
    """Whoever answered a request to join is not the parent that the token names."""

    code = "E-JOI-003"
    remedy = "do not try again at that address: something there answers for another cloud; the token's maker should revoke it"


class OneKeyTwice(Refused):
    """One key stands for two purposes."""

    code = "E-JOI-004"


class JoinToken(NamedTuple):
    """A token: the first 16 hex digits of the cloud's id and of the id of the parent's key for grants, its own id, and the secret."""

    cloud: str
    parent: str
    id: str
    secret: bytes

    @property
    def text(self) -> str:
        """The token as it is handed over, once."""
        return ".".join((PREFIX, self.cloud, self.parent, self.id, self.secret.hex()))

    @property
    def signer(self) -> Signer:
        """The key that only a holder of the secret has."""
        return secret_signer(self.secret)

    def __repr__(self) -> str:
        return f"JoinToken({self.id})"


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What whoever joins asks for; signed by the token's key and by the new message key, in this order.

    ``cloud`` and ``parent`` are 16 hex digits, as in the token; ``secret`` is the public half (hex) of the token's key; ``machine``
    is what the joining machine calls itself. An empty ``role`` takes what the token says.
    """

    v: int = 1
    cloud: str
    parent: str
    token: str
    secret: str
    ring: int
    role: str = ""
    machine: str = ""
    keys: PublicKeys


class Joined(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The parent's answer, signed by its key for grants; frames as base64url, ``grants`` parents first, the new one last."""

    v: int = 1
    request: str
    root: str
    roots: tuple[str, ...] = ()
    grants: tuple[str, ...]


def secret_signer(secret: bytes) -> Signer:
    """Return the signing key of a token's *secret*."""
    return Signer.from_seed(hashlib.blake2b(b"enjin/v1/join", key=secret, digest_size=32, person=b"enjin-join").digest())


def secret_hash(secret: bytes) -> str:
    """Return what is kept of a token's *secret*: the id of its key, from which neither key nor secret can be had."""
    return str(key_id(secret_signer(secret).public))


def parse_token(text: str) -> JoinToken:
    """Return the token in *text*. Raises: BadJoinToken."""
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        raise BadJoinToken("that is no join token")
    return JoinToken(found[1], found[2], found[3], bytes.fromhex(found[4]))


def check_purposes(keys: PublicKeys) -> None:
    """Check that every key is well formed and for one purpose.

    Raises:
        OneKeyTwice: The same key twice, or a CURVE key that is a signing key in its other form.
        BadKey: One is malformed.
    """
    if len(set(keys.all())) != len(keys.all()):
        raise OneKeyTwice("one key stands for two purposes")
    signing = [check_public(read_public(key)) for key in (keys.message, keys.journal, keys.issue, keys.nats) if key]
    if keys.curve:
        read_public(keys.curve)
        if keys.curve in [bindings.crypto_sign_ed25519_pk_to_curve25519(public).hex() for public in signing]:
            raise OneKeyTwice("the CURVE key is a signing key in its other form")


def sign_request(request: JoinRequest, token: JoinToken, message: Signer) -> bytes:
    """Return the frame of *request*."""
    return seal(JOIN, canonical(request), token.signer, message)


def read_request(data: bytes) -> tuple[JoinRequest, Frame]:
    """Return the request in frame *data*, proven: its signers hold the token's secret and the new message key.

    Raises:
        JoinRefused: Another frame, of an unknown version, or without both signatures.
        OneKeyTwice: One key stands for two purposes, or the token's key for one.
        BadSignature, BadKey, BadFrame, Malformed, NotCanonical.
    """
    frame = open_frame(data)
    if frame.type != JOIN or len(frame.signatures) != 2:
        raise JoinRefused("the frame does not hold a request to join, signed by two keys")
    request = parse(frame.payload, JoinRequest)
    if request.v != 1:
        raise JoinRefused(f"join request version {request.v} is unknown")
    check_purposes(request.keys)
    if request.secret in request.keys.all():
        raise OneKeyTwice("the token's key stands for another purpose too")
    for public, signature in zip((request.secret, request.keys.message), frame.signatures, strict=True):
        verify(check_public(read_public(public)), frame.type, frame.payload, signature.signature)
    return request, frame


def read_answer(data: bytes, token: JoinToken, request: Frame, keys: PublicKeys) -> tuple[TrustSet, str]:
    """Return what to believe from now on and the hash of our grant: from the answer in frame *data* to *request*.

    Raises:
        FakeParent: Of another cloud, by another key than the token names, to another request, or with a grant for other keys.
        RootRefused, GrantRefused, BadSignature, BadKey, BadFrame, Malformed, NotCanonical.
    """
    frame = open_frame(data)
    if frame.type != JOINED:
        raise FakeParent("the answer is no answer to a request to join")
    said = parse(frame.payload, Joined)
    if said.v != 1 or said.request != request.digest or not 2 <= len(said.grants) <= ANSWER_GRANTS_MAX:
        raise FakeParent("the answer is to another request")
    trust = TrustSet(from_text(said.root))
    if not trust.cloud.startswith(token.cloud):
        raise FakeParent(f"the answer comes from cloud {trust.cloud[:HINT_DIGITS]}, and the token is for {token.cloud}")
    trust.follow_roots(from_text(text) for text in said.roots)
    hashes = [trust.add(from_text(text)) for text in said.grants]
    own = trust.grant(hashes[-1])
    parent = trust.grant(own.parent) if own.parent else own
    public = bytes.fromhex(parent.keys.issue)
    if not public or not key_id(public).startswith(token.parent):
        raise FakeParent(f"the answer comes from another parent than the token names ({token.parent})")
    verify(public, frame.type, frame.payload, frame.signature)
    if own.keys != keys:
        raise FakeParent("the answer grants other keys than ours")
    return trust, hashes[-1]

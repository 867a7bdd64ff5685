"""Join tokens: what is proven before anything is believed, on both sides."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from nacl import bindings

from enjin.canonical import canonical, to_text
from enjin.errors import EnjinError
from keys.frame import JOIN, JOINED, join, open_frame, seal
from keys.grants import Grant, PublicKeys, sign_grant
from keys.joining import Joined, JoinRequest, JoinToken, parse_token, read_answer, read_request, secret_hash, sign_request
from keys.keyring import Keyring
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet
from tests.keys.test_trust import HOUR, NOW, ROOT, SHARES, YEAR, ring0_grant, seed

SECRET = hashlib.sha256(b"token").digest()[:16]


def publics(ring: Keyring) -> PublicKeys:
    return PublicKeys(message=ring.message.public.hex(), curve=ring.curve.public.hex(), nats=ring.nats.public.hex())


class Parent:
    """A ring 0 with a root, and what it answers to a request."""

    def __init__(self, root: bytes = ROOT, shares: list[Signer] = SHARES, word: str = "ring0") -> None:
        self.trust = TrustSet(root)
        self.keyring = Keyring(self.trust.cloud, seed(word), seed(f"{word} issuer"))
        assert self.keyring.issuer is not None
        self.issuer = self.keyring.issuer
        self.frame = sign_grant(ring0_grant(self.trust, self.keyring), *shares[:2])
        self.digest = self.trust.add(self.frame)

    def token(self, **fields: str) -> JoinToken:
        made = JoinToken(str(self.trust.cloud)[:16], self.issuer.key_id[:16], "j-0123456789abcdef", SECRET)
        return made._replace(**fields)

    def granted(self, keys: PublicKeys, **fields: object) -> bytes:
        grant = Grant(
            v=1, cloud=str(self.trust.cloud), subject="a-1", role=1, keys=keys, ring=0, depth=0, compartment="cloud/site",
            not_before=NOW, expiry=NOW + HOUR, parent=self.digest,
        )  # fmt: skip
        return sign_grant(msgspec.structs.replace(grant, **fields), self.issuer)

    def answer(self, request: bytes, keys: PublicKeys, signer: Signer | None = None, **fields: object) -> bytes:
        said = Joined(
            request=open_frame(request).digest,
            root=to_text(self.trust.root_frame),
            grants=(to_text(self.frame), to_text(self.granted(keys))),
        )
        return seal(JOINED, canonical(msgspec.structs.replace(said, **fields)), signer or self.issuer)


PARENT = Parent()
TOKEN = PARENT.token()
OURS = Keyring(PARENT.trust.cloud, seed("joiner"))


def request(**fields: object) -> JoinRequest:
    asked = JoinRequest(
        cloud=TOKEN.cloud, parent=TOKEN.parent, token=TOKEN.id, secret=TOKEN.signer.public.hex(), ring=0, keys=publics(OURS),
    )  # fmt: skip
    return msgspec.structs.replace(asked, **fields)


def code(data: bytes) -> str:
    with pytest.raises(EnjinError) as caught:
        read_request(data)
    return type(caught.value).code


def test_a_token_is_read_as_it_was_written() -> None:
    """Its text has five parts and nothing else; neither its form for people nor what is kept of it shows the secret."""
    assert parse_token(f" {TOKEN.text}\n") == TOKEN
    assert TOKEN.text.startswith(f"enjin1.{PARENT.trust.cloud[:16]}.{PARENT.issuer.key_id[:16]}.j-")
    assert SECRET.hex() not in repr(TOKEN)
    assert SECRET.hex() not in secret_hash(SECRET)
    assert secret_hash(SECRET) == str(TOKEN.signer.key_id) != secret_hash(bytes(16))
    for text in (
        "",
        "enjin1",
        TOKEN.text[:-1],
        TOKEN.text + "0",
        TOKEN.text.upper(),
        TOKEN.text.replace("enjin1", "enjin2"),
        TOKEN.text + ".x",
    ):
        with pytest.raises(EnjinError) as caught:
            parse_token(text)
        assert type(caught.value).code == "E-JOI-001"


def test_n42_a_request_proves_that_its_keys_are_its_own() -> None:
    """N42: with another's public key, a signature of another, over something else or in the wrong place, it is none."""
    good = sign_request(request(), TOKEN, OURS.message)
    assert read_request(good)[0] == request()
    other = Keyring(PARENT.trust.cloud, seed("somebody else"))
    stolen = request(keys=publics(other))
    frame = open_frame(good)
    for bad in (
        sign_request(stolen, TOKEN, OURS.message),  # another's keys, our signature
        join(JOIN, canonical(stolen), frame.signatures),  # another's keys beneath signatures over ours
        join(JOIN, frame.payload, (frame.signatures[1], frame.signatures[0])),
        seal(JOIN, frame.payload, TOKEN.signer, other.message),
        seal(JOIN, frame.payload, Signer.from_seed(SECRET * 2), OURS.message),  # without the token's secret
    ):
        assert code(bad) == "E-SIG-001"
    for bad in (seal(JOIN, frame.payload, OURS.message), seal(JOIN, frame.payload, TOKEN.signer, OURS.message, OURS.message)):
        assert code(bad) == "E-JOI-002"
    assert code(seal(JOINED, frame.payload, TOKEN.signer, OURS.message)) == "E-JOI-002"
    assert read_request(sign_request(stolen, TOKEN, other.message))[0] == stolen


def test_n44_one_key_for_two_purposes_is_refused() -> None:
    """N44: the same key twice, a CURVE key that is the signing key in its other form, the token's key as one's own."""
    keys = publics(OURS)
    message = bytes.fromhex(keys.message)
    twice = [
        msgspec.structs.replace(keys, nats=keys.message),
        msgspec.structs.replace(keys, curve=keys.message),
        msgspec.structs.replace(keys, curve=keys.nats),
        msgspec.structs.replace(keys, journal=keys.nats),
        msgspec.structs.replace(keys, curve=bindings.crypto_sign_ed25519_pk_to_curve25519(message).hex()),
        msgspec.structs.replace(keys, curve=bindings.crypto_sign_ed25519_pk_to_curve25519(bytes.fromhex(keys.nats)).hex()),
        msgspec.structs.replace(keys, nats=TOKEN.signer.public.hex()),
    ]
    for bad in twice:
        assert code(sign_request(request(keys=bad), TOKEN, OURS.message)) == "E-JOI-004"
    assert code(sign_request(request(keys=PublicKeys(message=TOKEN.signer.public.hex())), TOKEN, TOKEN.signer)) == "E-JOI-004"
    assert code(sign_request(request(keys=msgspec.structs.replace(keys, nats="00" * 32)), TOKEN, OURS.message)) == "E-SIG-002"


def test_the_rightful_answer_is_believed() -> None:
    """What comes back is a chain from the root to a grant for our own keys."""
    frame = sign_request(request(), TOKEN, OURS.message)
    trust, digest = read_answer(PARENT.answer(frame, publics(OURS)), TOKEN, open_frame(frame), publics(OURS))
    assert trust.authority(digest, NOW).grant.keys == publics(OURS)
    assert trust.cloud == PARENT.trust.cloud


def test_n41_a_fake_parent_is_refused() -> None:
    """N41: another cloud, another parent of this cloud, a stranger with our parent's grants, an answer to somebody else, other keys."""
    frame, keys = sign_request(request(), TOKEN, OURS.message), publics(OURS)
    strangers = [Signer.from_seed(seed(f"stranger {number}")) for number in range(3)]
    elsewhere = Parent(make_root(strangers, NOW - HOUR, NOW + YEAR), strangers)
    sibling = Parent(word="another ring0")
    thief = Keyring(PARENT.trust.cloud, seed("thief"))
    earlier = sign_request(request(machine="another"), TOKEN, OURS.message)
    answers = {
        "another cloud": (elsewhere.answer(frame, keys), "E-JOI-003"),
        "another parent": (sibling.answer(frame, keys), "E-JOI-003"),
        "a stranger": (PARENT.answer(frame, keys, signer=strangers[0]), "E-SIG-001"),
        "another request": (PARENT.answer(earlier, keys), "E-JOI-003"),
        "other keys": (PARENT.answer(frame, publics(thief)), "E-JOI-003"),
        "our request": (frame, "E-JOI-003"),
        "no grant": (PARENT.answer(frame, keys, grants=()), "E-JOI-003"),
        "the parent's own": (PARENT.answer(frame, keys, grants=(to_text(PARENT.frame),) * 2), "E-JOI-003"),
        "a mixed root": (PARENT.answer(frame, keys, root=to_text(elsewhere.trust.root_frame)), "E-JOI-003"),
    }
    for name, (answer, expected) in answers.items():
        with pytest.raises(EnjinError) as caught:
            read_answer(answer, TOKEN, open_frame(frame), keys)
        assert type(caught.value).code == expected, name
    wrong = TOKEN._replace(parent="0" * 16)
    with pytest.raises(EnjinError) as caught:
        read_answer(PARENT.answer(frame, keys), wrong, open_frame(frame), keys)
    assert type(caught.value).code == "E-JOI-003"

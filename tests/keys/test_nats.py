"""Keys, tokens and certificates of the NATS bus: of a purpose of their own, and no wider than the grant."""

from __future__ import annotations

import base64
import hashlib
import ssl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjin.host import clock
from keys.certificates import CertificateAuthority
from keys.frame import MESSAGE
from keys.grants import VERBS, Capability, Grant, PublicKeys
from keys.keyring import Keyring
from keys.nats_claims import (
    EVERYBODY,
    BadToken,
    NoChannel,
    Subjects,
    account_token,
    operator_token,
    read_token,
    subjects_of,
    system_token,
    user_token,
)
from keys.nats_keys import BadNonce, Kind, NatsAuthority, UserKey, public_bytes, public_text
from keys.signing import BadKey, BadSignature, pae, verify, verify_raw

CLOUD = "c1" * 32
AUTHORITY = NatsAuthority(bytes(range(32)))
USER = UserKey(bytes(range(32)))
NONCES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", min_size=11, max_size=64)


def grant(*allowed: str, channels: tuple[str, ...] = ("ring0",)) -> Grant:
    return Grant(
        v=1, cloud=CLOUD, subject="n-0", role=1, keys=PublicKeys(message="00" * 32), ring=0, depth=0, compartment="cloud",
        allowed=tuple(Capability(verb, "cloud") for verb in allowed), channels=channels, not_before=0, expiry=1,
    )  # fmt: skip


@given(st.sampled_from(Kind), st.binary(min_size=32, max_size=32))
def test_a_keys_text_is_read_back(kind: Kind, seed: bytes) -> None:
    """The text of every key names its kind and its bytes; its first letter is NATS's own."""
    public = UserKey(seed).public
    text = public_text(kind, public)
    assert (kind, public) == public_bytes(text)
    assert (56, {Kind.OPERATOR: "O", Kind.ACCOUNT: "A", Kind.USER: "U"}[kind]) == (len(text), text[0])


@given(st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_a_keys_text_with_another_letter_is_refused(place: int, letter: str) -> None:
    """One letter changed anywhere is no key's text."""
    changed = USER.text[:place] + letter + USER.text[place + 1 :]
    if changed != USER.text:
        with pytest.raises(BadKey):
            public_bytes(changed)


@pytest.mark.parametrize("text", ["", "U", "not a key", USER.text.lower(), USER.text[:-2], "S" + USER.text[1:], "ä" * 56])
def test_no_keys_text(text: str) -> None:
    """What is not 35 bytes of base32 with a known first byte is refused."""
    with pytest.raises(BadKey):
        public_bytes(text)


@given(NONCES)
def test_a_nonce_is_answered(nonce: str) -> None:
    """The valid twin: a server's nonce gets a signature that verifies over the bare nonce."""
    verify_raw(USER.public, nonce.encode(), base64.b64decode(USER.answer(nonce)))


@given(st.text(max_size=40), st.binary(max_size=100))
def test_n78_a_text_that_could_mean_something_is_not_signed(kind: str, payload: bytes) -> None:
    """N78: a nonce that is the PAE text of anything gets no answer at all."""
    with pytest.raises(BadNonce):
        USER.answer(pae(kind, payload).decode("latin-1"))


@pytest.mark.parametrize("nonce", ["", "short", "a" * 65, "two parts.of a token", "a.bcdefghijklmn", "abcdefghijk\n", "ä" * 15])
def test_n78_a_nonce_has_natss_own_form(nonce: str) -> None:
    """N78: anything but 11 to 64 letters of base64url is no nonce: tokens have dots, lines have ends."""
    with pytest.raises(BadNonce):
        USER.answer(nonce)


@given(NONCES)
def test_n78_an_answer_is_no_signature_of_ours(nonce: str) -> None:
    """N78: what a server collects verifies under no other key of the node, and as no message even under the key itself."""
    keyring = Keyring(CLOUD, hashlib.sha256(nonce.encode()).digest())
    signature = base64.b64decode(keyring.nats.answer(nonce))
    for public in (keyring.message.public, keyring.journal.public, keyring.nats.public):
        with pytest.raises(BadSignature):
            verify(public, MESSAGE, nonce.encode(), signature)
    for public in (keyring.message.public, keyring.journal.public):
        with pytest.raises(BadSignature):
            verify_raw(public, nonce.encode(), signature)


def test_every_key_has_a_purpose_of_its_own() -> None:
    """No key of a node and none of a cloud's authority is another one in disguise; each channel has its own."""
    keyring = Keyring(CLOUD, bytes(32), bytes(range(32)))
    authority = keyring.nats_authority()
    keys = [authority.operator, authority.system, authority.system_user, authority.account("ring0"), authority.account("ring1.n-0")]
    public = [key.public for key in (*keys, keyring.nats, keyring.message, keyring.journal, keyring.issuer) if key is not None]
    assert len(set(public)) == len(public) == 9
    assert Keyring(CLOUD, bytes(32), bytes(range(32))).nats_authority().operator.text == authority.operator.text


@given(st.sets(st.sampled_from(sorted(VERBS))), st.lists(st.sampled_from(["ring0", "ring1", "ring1.n-0"]), max_size=2))
def test_subjects_lie_within_the_grant(verbs: set[str], channels: list[str]) -> None:
    """A user publishes nothing under a verb that its grant has not, and has no token for a channel that it does not name."""
    held = grant(*verbs, channels=tuple(channels))
    if not any("ring1.n-0" in (channel, f"{channel}.n-0") for channel in channels):
        with pytest.raises(NoChannel):
            subjects_of(held, "ring1.n-0")
        return
    subjects = subjects_of(held, "ring1.n-0")
    if verbs != VERBS:
        assert {pattern.split(".")[1] for pattern in subjects.publish if not pattern.startswith("reply")} == verbs - {"reply"}
        assert ("reply.>" in subjects.publish) is ("reply" in verbs)
    assert not [pattern for pattern in subjects.publish if pattern.split(".")[0] not in ("command", "query", "seen", "reply")]


def test_empty_means_nothing() -> None:
    """Where NATS takes an empty list for everything, a token refuses all."""
    account = AUTHORITY.account("ring0")
    claims = read_token(user_token(account, USER.public, "n", Subjects(), issued_s=1), account)["nats"]
    assert ({"deny": [">"]}, {"deny": [">"]}) == (claims["pub"], claims["sub"])
    assert () == subjects_of(grant(), "ring0").publish


def test_a_token_says_who_when_and_what() -> None:
    """The claims of account and user carry the keys, the times and the revocations that they were made for."""
    account = AUTHORITY.account("ring0")
    claims = read_token(user_token(account, USER.public, "n-0", Subjects(("a",), ("b",)), issued_s=7, expires_s=9), account)
    assert (USER.text, account.text, 7, 9) == (claims["sub"], claims["iss"], claims["iat"], claims["exp"])
    assert ({"allow": ["a"]}, {"allow": ["b"]}) == (claims["nats"]["pub"], claims["nats"]["sub"])
    claims = read_token(account_token(AUTHORITY, "ring0", issued_s=5, revoked={USER.text: 4, EVERYBODY: 2}), AUTHORITY.operator)
    assert (account.text, {USER.text: 4, EVERYBODY: 2}) == (claims["sub"], claims["nats"]["revocations"])
    limits = claims["nats"]["limits"]
    assert (0, 0, 0, True) == (limits["imports"], limits["exports"], limits["leaf"], limits["disallow_bearer"])
    assert not [name for name in limits if "stor" in name or "stream" in name]


def test_a_foreign_or_changed_token_is_refused() -> None:
    """A token of another authority, with a byte changed or without its signature is not read."""
    token = account_token(AUTHORITY, "ring0", issued_s=5, revoked={})
    foreign = account_token(NatsAuthority(bytes(32)), "ring0", issued_s=5, revoked={})
    head, body, signature = token.split(".")
    for bad in (foreign, "", "a.b.c", f"{head}.{body}", f"{head}.{body}x.{signature}", f"{head}.{body[:-4]}AAAA.{signature}", "ä.b.c"):
        with pytest.raises(BadToken):
            read_token(bad, AUTHORITY.operator)
    assert "operator" == read_token(operator_token(AUTHORITY, CLOUD), AUTHORITY.operator)["nats"]["type"]
    assert AUTHORITY.system.text == read_token(system_token(AUTHORITY), AUTHORITY.operator)["sub"]


def test_a_clouds_certificates_are_its_own() -> None:
    """The authority is the same bytes each time; a leaf chains to it and to no other."""
    mine, other = CertificateAuthority(bytes(range(32)), CLOUD), CertificateAuthority(bytes(32), CLOUD)
    assert mine.certificate == CertificateAuthority(bytes(range(32)), CLOUD).certificate
    leaf = mine.leaf(bytes(32), ["127.0.0.1", "::1"], now_s=clock().wall_us // 1_000_000, lifetime_s=3600)
    assert accepts(mine, leaf) == ""
    assert "verify failed" in accepts(other, leaf)


def accepts(authority: CertificateAuthority, leaf: tuple[bytes, bytes]) -> str:
    """Shake hands in memory between a server with *leaf* and a client that pins *authority*; return what went wrong."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=authority.certificate.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    load(server, leaf)
    one, other = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
    ends = [client.wrap_bio(*one, server_hostname="bus.enjin.internal"), server.wrap_bio(*other, server_side=True)]
    for _ in range(4):
        for end, (_, out), (into, _) in ((ends[0], one, other), (ends[1], other, one)):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                return str(error)
            into.write(out.read())
    return "" if ends[0].version() == "TLSv1.3" else "no handshake"


def load(context: ssl.SSLContext, leaf: tuple[bytes, bytes]) -> None:
    """Load *leaf* into *context*, which takes files only."""
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf[0] + leaf[1])
        file.flush()
        context.load_cert_chain(file.name)


def test_a_grant_may_name_a_nats_key() -> None:
    """The key with which a subject logs in stands in its grant, like every other."""
    keys = PublicKeys(message="00" * 32, nats="11" * 32)
    assert "11" * 32 in keys.all()
    assert b"nats" not in msgspec.json.encode(PublicKeys(message="00" * 32))

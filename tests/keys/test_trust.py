"""Grants attenuate in every dimension, and nothing is believed that does not chain to two of the root's keys."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import msgspec
import pytest

from enjin.errors import Refused
from keys.frame import open_frame, seal
from keys.grants import Capability, Grant, GrantRefused, PublicKeys, covers, sign_grant, within_path, within_verb
from keys.keyring import Keyring
from keys.root import RootRefused, make_root
from keys.signing import BadSignature, Signer
from keys.trust import GrantExpired, Revoked, TrustSet, UnknownKey

NOW, HOUR, YEAR = 10**15, 3_600_000_000, 31_536_000_000_000


def seed(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


SHARES = [Signer.from_seed(seed(f"share {number}")) for number in range(3)]
ROOT = make_root(SHARES, NOW - HOUR, NOW + YEAR)


@dataclasses.dataclass
class Chain:
    """A root, ring 0, ring 1 and an agent, each with its keys."""

    trust: TrustSet
    ring0: Keyring
    ring1: Keyring
    grants: dict[str, str]


def public(keyring: Keyring) -> PublicKeys:
    return PublicKeys(
        message=keyring.message.public.hex(),
        journal=keyring.journal.public.hex(),
        issue=keyring.issuer.public.hex() if keyring.issuer else "",
        curve=keyring.curve.public.hex(),
    )


def ring0_grant(trust: TrustSet, keyring: Keyring) -> Grant:
    return Grant(
        v=1, cloud=str(trust.cloud), subject="n-0", role=3, keys=public(keyring), ring=0, depth=3, compartment="cloud",
        allowed=(Capability("app", "cloud"), Capability("node", "cloud")), channels=("ring0", "ring1"), prefixes=("10.80.0.0/16",),
        quotas={"apps": 10}, not_before=NOW - HOUR, expiry=NOW + YEAR, autonomy=HOUR,
    )  # fmt: skip


def ring1_grant(trust: TrustSet, keyring: Keyring, parent: str) -> Grant:
    return Grant(
        v=1, cloud=str(trust.cloud), subject="n-1", role=3, keys=public(keyring), ring=1, depth=2, compartment="cloud/site",
        allowed=(Capability("app", "cloud/site"),), channels=("ring1.n-1",), prefixes=("10.80.16.0/20",), quotas={"apps": 5},
        not_before=NOW, expiry=NOW + HOUR, autonomy=HOUR, parent=parent,
    )  # fmt: skip


@pytest.fixture
def chain() -> Chain:
    trust = TrustSet(ROOT)
    ring0, ring1 = Keyring(trust.cloud, seed("r0"), seed("r0 issuer")), Keyring(trust.cloud, seed("r1"), seed("r1 issuer"))
    first = trust.add(sign_grant(ring0_grant(trust, ring0), *SHARES[1:]))
    assert ring0.issuer is not None
    second = trust.add(sign_grant(ring1_grant(trust, ring1, first), ring0.issuer))
    return Chain(trust, ring0, ring1, {"ring0": first, "ring1": second})


def test_the_chain_holds(chain: Chain) -> None:
    """The valid twin: ring 1's authority chains through ring 0's to the root."""
    authority = chain.trust.authority(chain.grants["ring1"], NOW)
    assert authority.chain == (chain.grants["ring1"], chain.grants["ring0"])
    assert authority.covers("app.push", "cloud/site/rack")
    assert not authority.covers("app.push", "cloud/other")
    assert chain.trust.key(chain.ring1.message.key_id).grant == chain.grants["ring1"]


WIDER: dict[str, Callable[[Grant], Grant]] = {
    "verb": lambda grant: msgspec.structs.replace(grant, allowed=(Capability("key", "cloud/site"),)),
    "resource": lambda grant: msgspec.structs.replace(grant, allowed=(Capability("app", "elsewhere"),)),
    "unknown verb": lambda grant: msgspec.structs.replace(grant, allowed=(Capability("anything", "cloud/site"),)),
    "wildcard": lambda grant: msgspec.structs.replace(grant, allowed=(Capability("*", "cloud/site"),)),
    "empty resource": lambda grant: msgspec.structs.replace(grant, allowed=(Capability("app", ""),)),
    "prefix": lambda grant: msgspec.structs.replace(grant, prefixes=("10.81.0.0/16",)),
    "prefix wider": lambda grant: msgspec.structs.replace(grant, prefixes=("10.80.0.0/15",)),
    "compartment": lambda grant: msgspec.structs.replace(grant, compartment="clouds"),
    "channel": lambda grant: msgspec.structs.replace(grant, channels=("ring10",)),
    "quota": lambda grant: msgspec.structs.replace(grant, quotas={"apps": 11}),
    "quota unknown": lambda grant: msgspec.structs.replace(grant, quotas={"nodes": 1}),
    "expiry": lambda grant: msgspec.structs.replace(grant, expiry=NOW + YEAR + 1),
    "not before": lambda grant: msgspec.structs.replace(grant, not_before=NOW - HOUR - 1),
    "autonomy": lambda grant: msgspec.structs.replace(grant, autonomy=HOUR + 1),
    "depth": lambda grant: msgspec.structs.replace(grant, depth=3),
    "ring jumped": lambda grant: msgspec.structs.replace(grant, ring=2),
    "ring of the issuer": lambda grant: msgspec.structs.replace(grant, ring=0),
    "role": lambda grant: msgspec.structs.replace(grant, role=4),
    "cloud": lambda grant: msgspec.structs.replace(grant, cloud="0" * 64),
    "version": lambda grant: msgspec.structs.replace(grant, v=2),
    "parent": lambda grant: msgspec.structs.replace(grant, parent="0" * 64),
}


@pytest.mark.parametrize("dimension", WIDER)
def test_n15_a_child_wider_than_its_parent_is_refused(chain: Chain, dimension: str) -> None:
    """N15, N17: each dimension of a child lies within its parent's, or the grant is refused."""
    trust = TrustSet(ROOT)
    first = trust.add(sign_grant(ring0_grant(trust, chain.ring0), *SHARES[:2]))
    assert chain.ring0.issuer is not None
    good = ring1_grant(trust, chain.ring1, first)
    before = trust.frames()
    with pytest.raises(GrantRefused):
        trust.add(sign_grant(WIDER[dimension](good), chain.ring0.issuer))
    assert before == trust.frames()
    trust.add(sign_grant(good, chain.ring0.issuer))


def test_n14_ring_1_cannot_make_a_peer(chain: Chain) -> None:
    """N14: a ring 1 key cannot issue a ring 1 issuer's grant, nor a key without issuer anything."""
    other = Keyring(chain.trust.cloud, seed("peer"), seed("peer issuer"))
    assert chain.ring1.issuer is not None
    grant = msgspec.structs.replace(ring1_grant(chain.trust, other, chain.grants["ring1"]), subject="n-2", depth=1)
    with pytest.raises(GrantRefused):
        chain.trust.add(sign_grant(grant, chain.ring1.issuer))
    with pytest.raises((GrantRefused, BadSignature)):
        chain.trust.add(sign_grant(msgspec.structs.replace(grant, parent=chain.grants["ring0"]), chain.ring1.issuer))


def test_n21_only_the_parent_introduces(chain: Chain) -> None:
    """N21: a sibling cannot announce my child, nor a child a parent; the parent's own announcement is the valid twin."""
    assert chain.ring0.issuer is not None
    assert chain.ring1.issuer is not None
    sibling, agent = Keyring(chain.trust.cloud, seed("sibling"), seed("sibling issuer")), Keyring(chain.trust.cloud, seed("agent"))
    assert sibling.issuer is not None
    beside = msgspec.structs.replace(ring1_grant(chain.trust, sibling, chain.grants["ring0"]), subject="n-3")
    chain.trust.add(sign_grant(beside, chain.ring0.issuer))
    child = msgspec.structs.replace(
        ring1_grant(chain.trust, agent, chain.grants["ring1"]), subject="n-4", ring=2, depth=1, quotas={}, prefixes=()
    )
    above = msgspec.structs.replace(ring0_grant(chain.trust, agent), subject="n-5", parent=chain.grants["ring1"])
    before = chain.trust.frames()
    for introduced, signer in ((child, sibling.issuer), (above, chain.ring1.issuer), (above, sibling.issuer), (child, agent.message)):
        with pytest.raises((GrantRefused, BadSignature)):
            chain.trust.add(sign_grant(introduced, signer))
    assert before == chain.trust.frames()
    chain.trust.add(sign_grant(child, chain.ring1.issuer))


def test_n16_segments_are_compared_whole() -> None:
    """N16: no verb, compartment or prefix is a string prefix of another."""
    assert within_verb("job.run", "job.run")
    assert within_verb("job.run.now", "job.run")
    assert not within_verb("job.runner", "job.run")
    assert within_path("a/b", "a/b")
    assert not within_path("a/bc", "a/b")
    assert not within_path("a", "")
    assert not covers((), "app.push", "cloud")


def test_n06_one_share_is_not_a_threshold(chain: Chain) -> None:
    """N6: one root key signing twice, or one key's id on another's signature, is one signature."""
    trust = TrustSet(ROOT)
    grant = ring0_grant(trust, chain.ring0)
    with pytest.raises(RootRefused):
        trust.add(sign_grant(grant, SHARES[0], SHARES[0]))
    with pytest.raises(RootRefused):
        trust.add(sign_grant(grant, SHARES[0], Signer.from_seed(seed("stranger"))))
    frame = open_frame(sign_grant(grant, SHARES[0]))
    forged = frame.signatures[0]._replace(key_id=SHARES[1].key_id)
    from keys.frame import join

    with pytest.raises(RootRefused):
        trust.add(join(frame.type, frame.payload, [frame.signatures[0], forged]))


def test_n18_a_foreign_middle_is_refused(chain: Chain) -> None:
    """N18: a grant whose issuer is not believed here, or signed by another key, is refused."""
    stranger = Signer.from_seed(seed("stranger"))
    with pytest.raises(BadSignature):
        chain.trust.add(
            sign_grant(msgspec.structs.replace(ring1_grant(chain.trust, chain.ring1, chain.grants["ring0"]), quotas={"apps": 1}), stranger)
        )
    with pytest.raises(GrantRefused):
        chain.trust.add(sign_grant(ring1_grant(chain.trust, chain.ring1, "ab" * 32), stranger))


def test_n20_a_key_of_another_subject_is_refused(chain: Chain) -> None:
    """N20, N44: a key is bound to one subject and one purpose."""
    assert chain.ring0.issuer is not None
    stolen = msgspec.structs.replace(ring1_grant(chain.trust, chain.ring1, chain.grants["ring0"]), subject="n-9")
    with pytest.raises(GrantRefused):
        chain.trust.add(sign_grant(stolen, chain.ring0.issuer))
    double = PublicKeys(message=chain.ring1.message.public.hex(), journal=chain.ring1.message.public.hex())
    with pytest.raises(GrantRefused):
        chain.trust.add(
            sign_grant(
                msgspec.structs.replace(ring1_grant(chain.trust, chain.ring1, chain.grants["ring0"]), keys=double), chain.ring0.issuer
            )
        )


def test_n22_revoking_an_ancestor_takes_the_leaf(chain: Chain) -> None:
    """N22: the leaf's own time does not help when a key above it was revoked."""
    chain.trust.authority(chain.grants["ring1"], NOW)
    chain.trust.revoke(str(chain.ring0.message.key_id), "stolen")
    for one in chain.grants.values():
        with pytest.raises(Revoked):
            chain.trust.authority(one, NOW)


def test_n10_grants_are_in_force_only_in_their_time(chain: Chain) -> None:
    """Before and after its time a grant gives nothing; an unknown one never does."""
    with pytest.raises(GrantExpired):
        chain.trust.authority(chain.grants["ring1"], NOW - 1)
    with pytest.raises(GrantExpired):
        chain.trust.authority(chain.grants["ring1"], NOW + HOUR)
    with pytest.raises(UnknownKey):
        chain.trust.authority("00" * 32, NOW)
    with pytest.raises(UnknownKey):
        chain.trust.key("00" * 32)


@pytest.mark.parametrize("revoked", ["the leaf", "its key", "the ancestor", "a stranger"])
def test_a_yes_is_not_kept_beyond_a_revocation_or_its_time(chain: Chain, revoked: str) -> None:
    """What was believed a moment ago is asked anew once anything is revoked, and when the earliest grant of the chain ends."""
    leaf = chain.grants["ring1"]
    authority = chain.trust.authority(leaf, NOW)
    assert chain.trust.authority(leaf, NOW) is authority
    ends = min(chain.trust.grant(step).expiry for step in authority.chain)
    begins = max(chain.trust.grant(step).not_before for step in authority.chain)
    for out in (ends, begins - 1):
        with pytest.raises(GrantExpired):
            chain.trust.authority(leaf, out)
    key = str(chain.ring1.message.key_id)
    names = {"the leaf": leaf, "its key": key, "the ancestor": chain.grants["ring0"], "a stranger": "f" * 64}
    chain.trust.revoke(names[revoked])
    if revoked == "a stranger":
        assert chain.trust.authority(leaf, NOW) == authority
        return
    with pytest.raises(Revoked):
        chain.trust.authority(leaf, NOW)


def test_n02_a_message_is_not_a_grant(chain: Chain) -> None:
    """N2: valid bytes under another payload type are refused."""
    frame = open_frame(chain.trust.frames()[0])
    with pytest.raises(Refused):
        chain.trust.add(seal("application/vnd.enjin.msg.v1+json", frame.payload, *SHARES[:2]))


@pytest.mark.parametrize("first", ["older", "newer"])
def test_who_holds_and_what_is_named_does_not_depend_on_the_order(chain: Chain, first: str) -> None:
    """The newest grant of a subject, and every grant that a key or a hash names, whichever was believed first."""
    parent = chain.grants["ring0"]
    fields = ring1_grant(chain.trust, chain.ring1, parent)
    frames = {
        word: sign_grant(msgspec.structs.replace(fields, not_before=fields.not_before + later, quotas={}), chain.ring0.issuer)
        for word, later in (("older", 1), ("newer", 2))
    }
    order = ("older", "newer") if first == "older" else ("newer", "older")
    added = {word: chain.trust.add(frames[word]) for word in order}
    assert chain.trust.grant_of("n-1") == added["newer"]
    assert chain.trust.named(added["older"]) == [added["older"]]
    assert chain.trust.named(str(chain.ring1.message.key_id)) == [chain.grants["ring1"], *(added[word] for word in order)]
    assert chain.trust.grant_of("nobody") is None
    assert chain.trust.named("0" * 64) == []

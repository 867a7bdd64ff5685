"""The root's succession: exactly one further, signed by the old and by the new, and what it does not confirm ends."""

from __future__ import annotations

import msgspec
import pytest

from enjin.canonical import canonical
from enjin.errors import EnjinError
from keys.frame import ROOT as ROOT_TYPE
from keys.frame import join, open_frame, seal
from keys.grants import GrantRefused, sign_grant
from keys.keyring import Keyring
from keys.root import make_root, read_root
from keys.signing import Signer
from keys.succession import RootChain, make_successor
from keys.trust import Revoked, TrustSet
from tests.keys.test_trust import HOUR, NOW, ROOT, SHARES, YEAR, ring0_grant, ring1_grant, seed

SECOND = [Signer.from_seed(seed(f"second {number}")) for number in range(3)]
THIRD = [Signer.from_seed(seed(f"third {number}")) for number in range(3)]


def after(frame: bytes, old: list[Signer], new: list[Signer], **fields: object) -> bytes:
    """Return a rightful successor, or with *fields* changed before it is signed."""
    options = {"issued": NOW, "expiry": NOW + 2 * YEAR, "confirms": ()} | fields
    return make_successor(open_frame(frame), old, new, **options)  # type: ignore[arg-type]


def changed(frame: bytes, *signers: Signer, **fields: object) -> bytes:
    """Return the statement in *frame* with *fields* changed, signed by *signers*."""
    return seal(ROOT_TYPE, canonical(msgspec.structs.replace(read_root(open_frame(frame)), **fields)), *signers)


TWO = after(ROOT, SHARES, SECOND)
THREE = after(TWO, SECOND, THIRD)


def refused(chain: RootChain, data: bytes) -> str:
    """Return the code with which *data* is refused; the chain stays as it was."""
    held = list(chain.digests)
    with pytest.raises(EnjinError) as caught:
        chain.take(data)
    assert chain.digests == held
    return type(caught.value).code


def test_each_statement_follows_the_one_before() -> None:
    """One, two, three: each is in force when it is taken; the cloud's id stays the first one's; the one in force is no news."""
    chain = RootChain(ROOT)
    assert [chain.take(TWO), chain.statement.version, chain.take(TWO), chain.take(THREE), chain.statement.version] == [
        True,
        2,
        False,
        True,
        3,
    ]
    assert chain.cloud == TrustSet(ROOT).cloud
    late = RootChain(ROOT)
    late.follow([TWO, THREE])
    late.follow([TWO, THREE])
    assert late.digests == chain.digests


def test_n24_a_statement_that_skips_one_is_refused() -> None:
    """N24: N+2 directly, however well signed, also by the keys of all three."""
    everybody = (*SHARES[:2], *SECOND[:2], THIRD[0])
    skipping = changed(TWO, *everybody, version=3)
    for data in (THREE, skipping):
        assert refused(RootChain(ROOT), data) == "E-ROT-003"
    with pytest.raises(EnjinError):
        RootChain(TWO)  # nor is a later one what a cloud is pinned by


@pytest.mark.parametrize(
    "signers",
    [
        pytest.param((SHARES[0], *SECOND[:2]), id="t-1 of the old"),
        pytest.param((*SHARES[:2], SECOND[0]), id="t-1 of the new"),
        pytest.param(tuple(SHARES), id="only old keys"),
        pytest.param(tuple(SECOND), id="only new keys"),
        pytest.param((SHARES[0], SHARES[0], *SECOND[:2]), id="one old key twice"),
        pytest.param((*SHARES[:2], SECOND[1], SECOND[1]), id="one new key twice"),
        pytest.param((*THIRD[:2], *SECOND[:2]), id="strangers and new keys"),
    ],
)
def test_n24_too_few_of_either_root_are_refused(signers: tuple[Signer, ...]) -> None:
    """N24: two of the old and two of the new, counted as different keys; the same statement signed by both is taken."""
    assert refused(RootChain(ROOT), changed(TWO, *signers)) == "E-ROT-001"
    assert RootChain(ROOT).take(changed(TWO, *SHARES[1:], *SECOND[1:]))


def test_n24_borrowed_signatures_do_not_count() -> None:
    """N24, N6: a signature over another statement, or under another's key id, is none."""
    two, other = open_frame(TWO), open_frame(after(ROOT, SHARES, SECOND, expiry=NOW + 3 * YEAR))
    borrowed = join(two.type, two.payload, (*other.signatures[:2], *two.signatures[2:]))
    renamed = join(two.type, two.payload, (two.signatures[0], two.signatures[0]._replace(key_id=SHARES[1].key_id), *two.signatures[2:]))
    for data in (borrowed, renamed):
        assert refused(RootChain(ROOT), data) == "E-ROT-001"


def test_n25_an_older_root_after_a_newer_one_is_refused() -> None:
    """N25: neither the first nor a middle one comes back, nor does what a middle one could have been followed by."""
    chain = RootChain(ROOT)
    chain.follow([TWO, THREE])
    assert refused(chain, ROOT) == refused(chain, TWO) == "E-ROT-002"
    assert refused(chain, after(TWO, SECOND, SHARES)) == "E-ROT-004"


def test_n25_the_same_version_with_other_content_is_refused() -> None:
    """N25: two statements 2 that the same keys signed are a fork, and said to be one; a stranger's is only badly signed."""
    for fields in ({"expiry": NOW + 3 * YEAR}, {"issued": NOW + 1}, {"confirms": ("00" * 32,)}):
        chain = RootChain(ROOT)
        chain.take(TWO)
        assert refused(chain, after(ROOT, SHARES, SECOND, **fields)) == "E-ROT-004"
    assert refused(chain, after(ROOT, THIRD, THIRD)) == "E-ROT-001"
    assert refused(chain, make_root(THIRD, NOW, NOW + YEAR)) == "E-ROT-001"


def test_a_successor_is_bound_to_its_predecessor() -> None:
    """The same shares may be another cloud's: a successor there is none here; nor does one end before what it follows."""
    elsewhere = make_root(SHARES, NOW - HOUR + 1, NOW + YEAR)
    assert refused(RootChain(ROOT), after(elsewhere, SHARES, SECOND)) == "E-ROT-003"
    assert refused(RootChain(ROOT), after(ROOT, SHARES, SECOND, expiry=NOW + YEAR - 1)) == "E-ROT-001"
    for fields in ({"previous": ""}, {"threshold": 1}, {"threshold": 4}, {"version": 1}, {"version": 0}, {"version": -1}):
        assert refused(RootChain(ROOT), changed(TWO, *SHARES[:2], *SECOND[:2], **fields)) == "E-ROT-001"


class Believer:
    """A receiver that believes ring 0 and ring 1 of a cloud, and the root's keys may change."""

    def __init__(self) -> None:
        self.trust = TrustSet(ROOT)
        self.keyring = Keyring(self.trust.cloud, seed("ring0"), seed("ring0 issuer"))
        grant = ring0_grant(self.trust, self.keyring)
        self.ring0 = self.trust.add(sign_grant(grant, *SHARES[:2]))
        child = Keyring(self.trust.cloud, seed("ring1"), seed("ring1 issuer"))
        assert self.keyring.issuer is not None
        self.ring1 = self.trust.add(sign_grant(ring1_grant(self.trust, child, self.ring0), self.keyring.issuer))


def test_what_the_successor_confirms_goes_on() -> None:
    """Ring 0 and all beneath it are in force in the same moment, without a new signature; a late receiver believes the same."""
    one = Believer()
    two = after(ROOT, SHARES, SECOND, confirms=(one.ring0,))
    assert one.trust.follow_roots([two])
    assert not one.trust.follow_roots([two])
    for digest in (one.ring0, one.ring1):
        assert one.trust.authority(digest, NOW).hash == digest
    late = TrustSet(ROOT)
    late.follow_roots([two])
    assert [late.add(frame) for frame in one.trust.frames()] == [one.ring0, one.ring1]
    assert late.authority(one.ring1, NOW).chain == (one.ring1, one.ring0)


def test_what_the_successor_does_not_confirm_ends() -> None:
    """Ring 0 and all beneath it are revoked at once, for who knew them; who comes later does not begin to believe them."""
    one = Believer()
    assert one.trust.authority(one.ring1, NOW)
    one.trust.follow_roots([TWO])
    for digest in (one.ring0, one.ring1):
        with pytest.raises(Revoked):
            one.trust.authority(digest, NOW)
    late = TrustSet(ROOT)
    late.follow_roots([TWO])
    with pytest.raises(EnjinError) as caught:
        late.add(one.trust.frames()[0])
    assert type(caught.value).code == "E-ROT-001"


def test_old_shares_grant_nothing_more() -> None:
    """After the succession two old keys sign no grant that is believed, two new ones do, and hashes confirm only what they name."""
    one = Believer()
    one.trust.follow_roots([after(ROOT, SHARES, SECOND, confirms=(one.ring0,))])
    other = Keyring(one.trust.cloud, seed("another ring0"), seed("another issuer"))
    grant = msgspec.structs.replace(ring0_grant(one.trust, other), subject="n-9")
    for signers in (SHARES[:2], [SHARES[0], SECOND[0]]):
        with pytest.raises(EnjinError) as caught:
            one.trust.add(sign_grant(grant, *signers))
        assert type(caught.value).code == "E-ROT-001"
    assert one.trust.authority(one.trust.add(sign_grant(grant, *SECOND[1:])), NOW)
    beyond = msgspec.structs.replace(grant, expiry=NOW + 3 * YEAR)
    with pytest.raises(GrantRefused):
        one.trust.add(sign_grant(beyond, *SECOND[1:]))


def test_a_bad_successor_leaves_what_was_believed() -> None:
    """What came before it in the same telling counts, and is acted upon; it itself and what follows it do not."""
    one = Believer()
    two = after(ROOT, SHARES, SECOND)
    with pytest.raises(EnjinError):
        one.trust.follow_roots([two, after(two, SHARES, THIRD)])
    assert one.trust.root.version == 2
    with pytest.raises(Revoked):
        one.trust.authority(one.ring0, NOW)

"""Until when a chain counts: outside the holder's domain never after its expiry, inside it for the autonomy that was signed."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjin.errors import Refused
from keys.chain import links
from keys.frame import open_frame
from keys.grants import Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.term import OUTSIDE, end_at_home, ends
from keys.trust import GrantExpired, Revoked, TrustSet
from tests.keys.test_trust import HOUR, NOW, ROOT, SHARES, YEAR, ring0_grant, ring1_grant, seed

DAY = 24 * HOUR
HOMES = (OUTSIDE, "ring0", "n-0", "n-1", "n-2", "a-1", "stranger")


@dataclasses.dataclass
class Tree:
    """Ring 0, two ring 1 nodes, and an agent of the first."""

    trust: TrustSet
    grants: dict[str, str]

    def believed(self, name: str, time: int, home: str) -> bool:
        """Whether *name* counts at *time* before a receiver in *home*."""
        try:
            self.trust.authority(self.grants[name], time, home)
        except GrantExpired:
            return False
        return True


def tree(expiry: int = HOUR, autonomy: int = DAY, agent_autonomy: int | None = None) -> Tree:
    """Return a tree whose nodes' grants begin at NOW and end *expiry* later, and may go on alone for *autonomy*."""
    trust = TrustSet(ROOT)
    ring0 = Keyring(trust.cloud, seed("r0"), seed("r0 issuer"))
    first = trust.add(sign_grant(msgspec.structs.replace(ring0_grant(trust, ring0), autonomy=DAY), *SHARES[:2]))
    grants = {"n-0": first}
    assert ring0.issuer is not None
    for name in ("n-1", "n-2"):
        keyring = Keyring(trust.cloud, seed(name), seed(name + " issuer"))
        assert keyring.issuer is not None
        grant = ring1_grant(trust, keyring, first)
        grant = msgspec.structs.replace(grant, subject=name, channels=(f"ring1.{name}",), expiry=NOW + expiry, autonomy=autonomy)
        grants[name] = trust.add(sign_grant(grant, ring0.issuer))
        if name == "n-1":
            agent = msgspec.structs.replace(
                grant, subject="a-1", keys=PublicKeys(message=Keyring(trust.cloud, seed("agent")).message.public.hex()), ring=2, depth=0,
                prefixes=(), quotas={}, parent=grants[name], autonomy=autonomy if agent_autonomy is None else agent_autonomy,
            )  # fmt: skip
            grants["a-1"] = trust.add(sign_grant(agent, keyring.issuer))
    return Tree(trust, grants)


@pytest.mark.parametrize("name", ["n-1", "a-1"])
@pytest.mark.parametrize(
    ("home", "until"),
    [("n-1", DAY), (OUTSIDE, HOUR), ("ring0", HOUR), ("n-0", HOUR), ("n-2", HOUR), ("stranger", HOUR)],
)
def test_n10_beyond_its_expiry_a_grant_counts_in_its_own_domain_alone(name: str, home: str, until: int) -> None:
    """To the microsecond, for the node and for what it runs; ring 0, which runs it, is not its home; nor is another node's domain."""
    found = tree()
    assert [found.believed(name, NOW + time, home) for time in (-1, 0, until - 1, until, until + 1)] == [False, True, True, False, False]


def test_what_is_told_of_a_grant_says_for_whom_it_has_expired() -> None:
    """Whoever looks at a node that goes on alone is not told that it has ended."""
    found = tree()
    states = [next(links(found.trust, found.grants["n-1"], NOW + time)).state for time in (-1, 0, HOUR, DAY)]
    assert states == ["not in force yet", "in force", "expired for others, in force in its own domain", "expired"]


def test_a_grant_without_autonomy_ends_for_everybody() -> None:
    """The agent that was given none ends with its expiry, although its domain goes on; a person's grant is such a one."""
    found = tree(agent_autonomy=0)
    assert found.believed("n-1", NOW + HOUR, "n-1")
    assert not found.believed("a-1", NOW + HOUR, "n-1")


def test_a_yes_at_home_is_none_outside() -> None:
    """What was believed at home a moment ago is not taken for an answer outside, in either order of asking."""
    found = tree()
    for _ in range(2):
        assert found.believed("n-1", NOW + 2 * HOUR, "n-1")
        assert not found.believed("n-1", NOW + 2 * HOUR, OUTSIDE)


@pytest.mark.parametrize("revoked", ["n-1", "n-0"])
def test_n22_autonomy_does_not_outlive_a_revocation(revoked: str) -> None:
    """A revocation takes node and agent at once, at home too."""
    found = tree()
    assert found.believed("a-1", NOW + 2 * HOUR, "n-1")
    found.trust.revoke(found.grants[revoked])
    for name in ("n-1", "a-1"):
        with pytest.raises(Revoked):
            found.trust.authority(found.grants[name], NOW + 2 * HOUR, "n-1")


times = st.integers(1, 2 * YEAR)


@given(expiry=times, autonomy=st.integers(0, DAY), at=times, home=st.sampled_from(HOMES), name=st.sampled_from(["n-1", "n-2", "a-1"]))
def test_the_rule_for_any_times(expiry: int, autonomy: int, at: int, home: str, name: str) -> None:
    """For any expiry, autonomy, moment and receiver: outside exactly until the expiry, at home exactly until the later of both; what
    counts outside counts at home; and nothing counts after what it hangs from."""
    try:
        found = tree(expiry, autonomy)
    except Refused:
        assert expiry > YEAR  # past ring 0's own: no such grant is believed at all
        return
    inside = home == ("n-1" if name == "a-1" else name) or (home == "a-1" == name)
    until = max(expiry, autonomy) if inside else expiry
    if home == "a-1" == name:  # the agent's own end is at home there, what it hangs from is not
        until = min(until, expiry)
    assert found.believed(name, NOW + at, home) is (at < until)
    if found.believed(name, NOW + at, OUTSIDE):
        assert found.believed(name, NOW + at, home)
    if found.believed("a-1", NOW + at, home):
        assert found.believed("n-1", NOW + at, home)


def chains() -> st.SearchStrategy[list[Grant]]:
    """Return chains of one to four grants with any times and any mix of deciders, the leaf first."""
    link = st.builds(
        lambda subject, begin, life, autonomy, decides: Grant(
            v=1, cloud="c", subject=subject, role=1, keys=PublicKeys(message="m", journal="j" if decides else ""), ring=0, depth=0,
            compartment="cloud", not_before=begin, expiry=begin + life, autonomy=autonomy,
        ),
        st.sampled_from(["n-0", "n-1", "n-2", "a-1"]), st.integers(0, 100), st.integers(1, 100), st.integers(0, 200), st.booleans(),
    )  # fmt: skip
    return st.lists(link, min_size=1, max_size=4)


@given(chain=chains(), home=st.sampled_from(HOMES))
def test_a_home_gives_no_more_than_was_signed(chain: list[Grant], home: str) -> None:
    """Each link ends at its expiry or, inside, at its autonomy; outside is never later than inside; above the home nothing changes."""
    outside, inside = list(ends(chain, OUTSIDE)), list(ends(chain, home))
    links = chain[::-1]
    assert outside == [one.expiry for one in links]
    assert all(end in (one.expiry, end_at_home(one)) and end >= one.expiry for one, end in zip(links, inside, strict=True))
    subjects = [one.subject for one in links]
    above = subjects.index(home) if home in subjects else len(links)
    assert inside[:above] == outside[:above]


def test_what_has_ended_for_everybody_and_was_renewed_is_forgotten() -> None:
    """Of a hundred half-hourly grants those of the last day stay, the newest always, and what they hang from; the others are unknown, and
    name nothing any longer that a revocation could take."""
    trust = TrustSet(ROOT)
    ring0, ring1 = Keyring(trust.cloud, seed("r0"), seed("r0 issuer")), Keyring(trust.cloud, seed("n-1"), seed("n-1 issuer"))
    assert ring0.issuer is not None
    first = trust.add(sign_grant(msgspec.structs.replace(ring0_grant(trust, ring0), autonomy=DAY), *SHARES[:2]))
    made = []
    for number in range(100):
        begin = NOW + number * HOUR // 2
        grant = msgspec.structs.replace(ring1_grant(trust, ring1, first), not_before=begin, expiry=begin + HOUR, autonomy=DAY)
        made.append(trust.add(sign_grant(grant, ring0.issuer)))
    now = NOW + 99 * HOUR // 2
    trust.forget(now)
    kept = made[-48:]  # begun within the last day; the one before them ends just now
    assert [open_frame(frame).digest for frame in trust.frames()] == [first, *kept]
    assert trust.named(str(ring1.message.key_id)) == kept
    assert trust.named(made[0]) == []
    trust.forget(now + YEAR)
    assert [open_frame(frame).digest for frame in trust.frames()] == [first, made[-1]], "the newest is kept though it has ended"
    assert trust.grant_of("n-1") == made[-1]
    assert trust.add(trust.frame(made[-1])) == made[-1]

"""Who may revoke what: an issuer, one above it, the root; and nobody else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enjin.canonical import canonical
from enjin.errors import Refused
from keys.frame import GRANT, open_frame, seal
from keys.grants import PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.revocation import Revocation, RevocationRefused, check_revocation, sign_revocation
from keys.root import RootRefused
from keys.signing import BadSignature, Signer
from keys.trust import Revoked, TrustSet
from tests.keys.test_trust import HOUR, NOW, ROOT, SHARES, ring0_grant, ring1_grant, seed

DEPTHS = {
    "ring0": ("",),
    "sibling": ("", "ring0"),
    "ring1": ("", "ring0"),
    "agent": ("", "ring0", "ring1"),
    "other": ("", "ring0", "sibling"),
}


class Tree:
    """Ring 0, two ring 1 nodes beside each other, and an agent of each; everybody's keys and grants."""

    def __init__(self) -> None:
        self.trust = TrustSet(ROOT)
        self.keys = {name: Keyring(self.trust.cloud, seed(name), seed(name + " issuer")) for name in DEPTHS}
        self.grants = {"": ""}
        self._add("ring0", ring0_grant(self.trust, self.keys["ring0"]), *SHARES[1:])
        for node in ("ring1", "sibling"):
            fields = ring1_grant(self.trust, self.keys[node], self.grants["ring0"])
            self._add(node, msgspec.structs.replace(fields, subject=node), self.issuer("ring0"))
        for agent, above in (("agent", "ring1"), ("other", "sibling")):
            fields = self.trust.grant(self.grants[above])
            keys = PublicKeys(message=self.keys[agent].message.public.hex())
            self._add(
                agent, msgspec.structs.replace(fields, subject=agent, ring=2, depth=0, keys=keys, role=1, parent=self.grants[above]),
                self.issuer(above),
            )  # fmt: skip

    def _add(self, name: str, fields: Any, *signers: Signer) -> None:
        self.grants[name] = self.trust.add(sign_grant(fields, *signers))

    def issuer(self, name: str) -> Signer:
        """Return *name*'s key for grants."""
        found = self.keys[name].issuer
        assert found is not None
        return found

    def names(self, name: str) -> dict[str, str]:
        """Return what revokes *name*: its grant, its message key."""
        return {"grant": self.grants[name], "key": str(self.keys[name].message.key_id)}

    def said(self, by: str, name: str, **changes: Any) -> Revocation:
        """Return what *by* says against id *name*."""
        fields = {"cloud": str(self.trust.cloud), "name": name, "issuer": self.grants[by], "number": 1, "since": NOW} | changes
        return Revocation(**fields)

    def revoke(self, by: str, name: str, own: str = "agent", **changes: Any) -> Revocation:
        """Check what *by* signs against id *name*, as *own* would, and follow it."""
        signers = SHARES[:2] if not by else [self.issuer(by)]
        frame = seal("application/vnd.enjin.revocation.v1+json", canonical(self.said(by, name, **changes)), *signers)
        found = check_revocation(self.trust, open_frame(frame), NOW, self.grants[own])
        self.trust.revoke(found.name, found.reason)
        return found

    def dead(self) -> set[str]:
        """Return whose grants are revoked."""
        found = set()
        for name in DEPTHS:
            try:
                self.trust.authority(self.grants[name], NOW)
            except Revoked:
                found.add(name)
        return found


def beneath(name: str) -> set[str]:
    """Return *name* and whoever it granted."""
    return {name, *(other for other, above in DEPTHS.items() if name in above)}


@pytest.mark.parametrize("what", ["grant", "key"])
@pytest.mark.parametrize("target", DEPTHS)
@pytest.mark.parametrize("by", ["", "ring0", "ring1", "sibling"])
def test_n28_only_who_stands_above_revokes(by: str, target: str, what: str) -> None:
    """The issuer, one above it, the root; a sibling, a child and the subject itself are refused. What falls takes its descendants."""
    tree = Tree()
    if by in DEPTHS[target]:
        tree.revoke(by, tree.names(target)[what], reason="lost")
        assert tree.dead() == beneath(target)
        return
    with pytest.raises(RevocationRefused):
        tree.revoke(by, tree.names(target)[what])
    assert tree.dead() == set()


def test_n28_whoever_has_no_key_for_grants_revokes_nothing() -> None:
    """An agent signs with the key it has: against its own ring 1, and against its neighbour."""
    tree = Tree()
    for target in ("ring1", "other", "agent"):
        frame = sign_revocation(tree.said("agent", tree.grants[target]), tree.keys["agent"].message)
        with pytest.raises(RevocationRefused):
            check_revocation(tree.trust, open_frame(frame), NOW, tree.grants["ring1"])


def test_n28_a_key_is_not_made_ones_own_by_granting_it_again() -> None:
    """A sibling gives a grant of its own to the same key of the same subject: it still does not stand above the first one."""
    tree = Tree()
    fields = tree.trust.grant(tree.grants["other"])
    stolen = msgspec.structs.replace(
        fields, subject="agent", keys=tree.trust.grant(tree.grants["agent"]).keys, parent=tree.grants["sibling"], not_before=NOW + 1
    )
    tree.trust.add(sign_grant(stolen, tree.issuer("sibling")))
    with pytest.raises(RevocationRefused):
        tree.revoke("sibling", tree.names("agent")["key"])
    assert tree.dead() == set()
    tree.revoke("ring0", tree.names("agent")["key"])
    assert "agent" in tree.dead()


def test_what_is_unknown_here_is_revoked_by_who_stands_above_us_alone() -> None:
    """A name nobody has seen: ring 0 and our own ring 1 may say it, a neighbour's ring 1 may not."""
    unknown = "f" * 64
    assert Tree().revoke("ring0", unknown).name == unknown
    assert Tree().revoke("ring1", unknown).name == unknown
    with pytest.raises(RevocationRefused):
        Tree().revoke("sibling", unknown)


def test_a_renewed_issuer_revokes_what_it_granted_before() -> None:
    """Its grant is another one now, its key for grants the same."""
    tree = Tree()
    fields = msgspec.structs.replace(tree.trust.grant(tree.grants["ring1"]), not_before=NOW - 1)
    tree.grants["ring1"] = tree.trust.add(sign_grant(fields, tree.issuer("ring0")))
    tree.revoke("ring1", tree.names("agent")["grant"])
    assert "agent" in tree.dead()


def test_a_signer_that_is_not_believed_revokes_nothing() -> None:
    """Revoked or expired itself, or signing for another: refused. One of the root's keys is not enough."""
    tree = Tree()
    agent = tree.grants["agent"]
    with pytest.raises(BadSignature):
        check_revocation(tree.trust, open_frame(sign_revocation(tree.said("ring1", agent), tree.issuer("sibling"))), NOW, agent)
    with pytest.raises(RootRefused):
        check_revocation(tree.trust, open_frame(sign_revocation(tree.said("", agent), SHARES[0])), NOW, agent)
    frame = open_frame(sign_revocation(tree.said("ring1", agent), tree.issuer("ring1")))
    with pytest.raises(Refused):
        check_revocation(tree.trust, frame, NOW + HOUR, agent)
    tree.trust.revoke(tree.grants["ring1"])
    with pytest.raises(Revoked):
        check_revocation(tree.trust, frame, NOW, agent)


@pytest.mark.parametrize(
    "changes", [{"v": 2}, {"cloud": "0" * 64}, {"number": 0}, {"name": "G" * 64}, {"name": "ab"}, {"reason": "x" * 201}], ids=str
)
def test_malformed_statements_are_refused(changes: dict[str, Any]) -> None:
    """Another version or cloud, no number, no id, a novel for a reason."""
    tree = Tree()
    with pytest.raises(RevocationRefused):
        tree.revoke("ring0", **{"name": tree.grants["agent"], **changes})


def test_a_grant_is_no_revocation() -> None:
    """Valid bytes under another payload type are refused."""
    tree = Tree()
    frame = seal(GRANT, canonical(tree.said("ring0", tree.grants["agent"])), tree.issuer("ring0"))
    with pytest.raises(RevocationRefused):
        check_revocation(tree.trust, open_frame(frame), NOW, tree.grants["agent"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "ring0", "ring1", "sibling"]), st.sampled_from(sorted(DEPTHS))), max_size=5))
def test_what_was_revoked_stays_and_takes_its_descendants(steps: list[tuple[str, str]]) -> None:
    """Whatever is said in whatever order: the dead are exactly those beneath what a living signer above them revoked, and never fewer."""
    tree, dead = Tree(), set[str]()
    for by, target in steps:
        allowed = by in DEPTHS[target] and by not in dead
        try:
            tree.revoke(by, tree.grants[target])
            assert allowed
            dead |= beneath(target)
        except Refused:
            assert not allowed
        assert tree.dead() == dead

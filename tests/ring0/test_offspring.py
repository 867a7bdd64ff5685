"""What goes down to a ring 1 node: seeds made once, a grant within its parent's, services that fit its strategy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from keys.frame import open_frame
from keys.grants import PublicKeys, read_grant, sign_grant
from keys.keyring import Keyring, create_seed
from keys.root import cloud_id, make_root
from keys.signing import Signer
from keys.term import LIFE_US, end_at_home, renewal
from keys.trust import TrustSet
from ring0.foundation import DAY_US, SUPERVISOR_ROLE, everything
from ring0.offspring import Grant, Offspring, controls, services

NODE = "n-00000000000000a1"
NOW = 1_700_000_000_000_000
MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000
PREFIXES = ("10.80.64.0/18",)


class Parent:
    """Ring 0's keys and its grant."""

    def __init__(self, folder: Path) -> None:
        shares = [Signer.from_seed(hashlib.sha256(f"share {number}".encode()).digest()) for number in range(3)]
        root = make_root(shares, NOW - DAY_US, NOW + 365 * DAY_US)
        self.cloud = str(cloud_id(open_frame(root)))
        self.keyring = Keyring(self.cloud, create_seed(folder / "a.seed"), create_seed(folder / "b.seed"))
        assert self.keyring.issuer is not None
        self.issuer = self.keyring.issuer
        keys = PublicKeys(message=self.keyring.message.public.hex(), issue=self.issuer.public.hex())
        frame = sign_grant(
            Grant(
                v=1, cloud=self.cloud, subject="n-00000000000000a0", role=SUPERVISOR_ROLE, ring=0, depth=3, compartment="cloud", keys=keys,
                allowed=everything("cloud"), channels=("ring0", "ring1"), prefixes=("10.80.0.0/16",), not_before=NOW - DAY_US,
                expiry=NOW + 300 * DAY_US, autonomy=DAY_US,
            ),
            *shares[:2],
        )  # fmt: skip
        self.trust = TrustSet(root)
        self.hash = self.trust.add(frame)

    def grant(self, child: Offspring, now: int = NOW, prefixes: tuple[str, ...] = PREFIXES) -> bytes:
        """Return the child's grant frame."""
        return child.grant(self.trust.grant(self.hash), self.hash, self.issuer, prefixes, now)


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    """A ring 0."""
    return Parent(tmp_path)


def test_seeds_are_made_once(parent: Parent, tmp_path: Path) -> None:
    """Taken up again, a node has the keys that it had; another node has others; nobody else reads them."""
    keys = [Offspring(tmp_path / "c", parent.cloud, node).keyring.message.public for node in (NODE, NODE, "n-00000000000000a2")]
    assert (keys[0] == keys[1], keys[0] == keys[2]) == (True, False)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").rglob("*.seed")} == {0o600}


def test_its_grant_is_believed_and_no_wider(parent: Parent, tmp_path: Path) -> None:
    """It chains to ours, is one ring and one step down, and holds its own channel and block alone."""
    frame = parent.grant(Offspring(tmp_path / "c", parent.cloud, NODE))
    grant = parent.trust.grant(parent.trust.add(frame))
    assert (grant.subject, grant.ring, grant.depth, grant.prefixes) == (NODE, 1, 2, PREFIXES)
    assert all(NODE in channel for channel in grant.channels)
    assert (grant.expiry - NOW, grant.autonomy) == (HOUR_US, DAY_US)


def test_a_grant_is_kept_for_half_its_time(parent: Parent, tmp_path: Path) -> None:
    """The same frame until then, also for another process; a new one afterwards, and at once when its block changes."""
    child = Offspring(tmp_path / "c", parent.cloud, NODE)
    first = parent.grant(child)
    due = renewal(read_grant(open_frame(first)), open_frame(first).digest)
    assert parent.grant(Offspring(tmp_path / "c", parent.cloud, NODE), due - 1) == first
    later = parent.grant(child, due)
    assert read_grant(open_frame(later)).expiry == due + HOUR_US
    moved = parent.grant(child, due, ("10.80.128.0/18",))
    assert read_grant(open_frame(moved)).prefixes == ("10.80.128.0/18",)


def test_nodes_do_not_keep_step(parent: Parent, tmp_path: Path) -> None:
    """Forty nodes that were granted at once are renewed between 25 and 35 minutes later, no two at one moment."""
    frames = [open_frame(parent.grant(Offspring(tmp_path / "c", parent.cloud, f"n-{number:016x}"))) for number in range(40)]
    due = [renewal(read_grant(frame), frame.digest) - NOW for frame in frames]
    assert len(set(due)) == 40
    assert 25 * MINUTE_US < min(due) < 29 * MINUTE_US < 30 * MINUTE_US < max(due) < 35 * MINUTE_US


def test_a_grant_for_longer_than_an_hour_is_replaced(parent: Parent, tmp_path: Path) -> None:
    """What an earlier version made for two days does not wait for half of them."""
    child = Offspring(tmp_path / "c", parent.cloud, NODE)
    made = read_grant(open_frame(parent.grant(child)))
    long = sign_grant(msgspec.structs.replace(made, expiry=NOW + 2 * DAY_US), parent.issuer)
    (tmp_path / "c" / NODE / "grant").write_bytes(long)
    renewed = read_grant(open_frame(parent.grant(Offspring(tmp_path / "c", parent.cloud, NODE), NOW + 1)))
    assert renewed.expiry == NOW + 1 + HOUR_US
    assert renewed.not_before > made.not_before


@pytest.mark.parametrize("left_us", [DAY_US // 2, HOUR_US, HOUR_US // 2])
def test_no_grant_outlives_its_parents(parent: Parent, tmp_path: Path, left_us: int) -> None:
    """Near the parent's end the child's ends with it, before others and in its own domain."""
    end = NOW + 300 * DAY_US
    grant = read_grant(open_frame(parent.grant(Offspring(tmp_path / "c", parent.cloud, NODE), end - left_us)))
    assert grant.expiry == min(end, end - left_us + LIFE_US)
    assert end_at_home(grant) == end


def test_only_a_jails_services_have_uids() -> None:
    """In a jail hands is its root and the daemon is not; without privileges everything is the current user."""
    jailed = {service.name: service.uid for service in services(True, "/var/lib/enjin", "/opt/enjin", NODE)}
    assert (jailed["hands"], jailed["daemon"]) == (0, 100)
    assert {service.uid for service in services(False, "/h", "/r", NODE)} == {-1}
    [control] = controls(True, "/var/lib/enjin")
    assert (control.role, control.owner) == ("daemon", 100)
    assert not any(low <= 0 <= high for low, high in control.uids)

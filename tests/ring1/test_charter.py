"""The charter: what it brings, what is refused, and keys that are believed no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from compartments.charter import Block, CharterRefused, Place, StaleCharter
from compartments.revocations import Revoke
from compartments.rows import AddressBlock, Compartment, Endpoint, Grant, Network, RevokedKey, RootSuccessor
from enjin.canonical import Malformed, canonical, to_text
from keys.frame import GRANT, Signature, join
from keys.frame import ROOT as ROOT_FRAME
from keys.grants import Grant as GrantFields
from keys.grants import PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.root import RootStatement
from ring1 import charter
from tests.ring1.domain import DAEMON, DEFAULT, ROOT, Domain, charter_frame, make_charter, refuse, revocation


def test_a_charter_unfolds_into_rows() -> None:
    """Compartments, blocks with a network each, ports and the charter itself."""
    domain = Domain()
    assert {row.name for row in domain.world.all(Compartment)} == {"cloud", "default", "blue"}
    assert [row.ipv4 for row in domain.world.all(AddressBlock)] == ["10.80.4.0/24"]
    assert [(row.name, row.gateway4) for row in domain.world.all(Network)] == [("apps", "10.80.4.1")]
    assert {row.name: row.port for row in domain.world.all(Endpoint)} == {"router": 8080, "api1": 7081}
    assert charter.in_force(domain.world) == make_charter()


def test_a_newer_charter_adds_and_keeps() -> None:
    """A second version brings another compartment and block; instances keep what they have."""
    domain = Domain()
    domain.deployed("hello")
    held = domain.instances("hello")[0]
    place = Place(id="c-0000000000000009", name="green", kind="environment", parent=ROOT)
    old = make_charter()
    new = make_charter(2, compartments=(*old.compartments, place), blocks=(*old.blocks, Block(network="apps", ipv4="10.80.9.0/24")))
    domain.do(charter.ReceiveCharter(frame=charter_frame(new)), DAEMON)
    assert domain.world.get(Compartment, place.id) is not None
    assert len(domain.world.all(Network)) == 2
    assert domain.instances("hello") == [held]
    assert domain.deployed("green-app", compartment="green") == 1


@pytest.mark.parametrize("changes", [{"version": 1}, {"version": 3, "epoch": 1}, {"version": 2, "epoch": 2}])
def test_older_charters_are_refused(changes: dict[str, int]) -> None:
    """INV-CHR-1: neither a version that is not higher nor an epoch that is lower is followed."""
    domain = Domain(make_charter(2, 2))
    refuse(domain, charter.ReceiveCharter(frame=charter_frame(make_charter(**changes))), StaleCharter, DAEMON)


@pytest.mark.parametrize("changes", [{"domain": "n-00000000000000ff"}, {"cloud": "ef" * 32}, {"v": 2}])
def test_foreign_charters_are_refused(changes: dict[str, object]) -> None:
    """INV-CHR-1: another domain's, another cloud's, or of an unknown format."""
    domain = Domain()
    refuse(domain, charter.ReceiveCharter(frame=charter_frame(make_charter(2, **changes))), CharterRefused, DAEMON)


def test_other_frames_are_refused() -> None:
    """Something else in a frame, or no frame at all, is no charter."""
    domain = Domain()
    frame = to_text(join(GRANT, b"{}", [Signature("00" * 32, bytes(64))]))  # type: ignore[arg-type]
    refuse(domain, charter.ReceiveCharter(frame=frame), CharterRefused, DAEMON)
    refuse(domain, charter.ReceiveCharter(frame="not base64!"), Malformed, DAEMON)


def test_grants_in_a_charter_become_known(tmp_path: Path) -> None:
    """A grant that the charter carries is a row by its hash, once."""
    keyring = Keyring.create(tmp_path, "ab" * 32, issuer=False)
    fields = GrantFields(
        v=1, cloud="ab" * 32, subject="u-0000000000000001", role=2, keys=PublicKeys(message=keyring.message.public.hex()), ring=1, depth=0,
        compartment="cloud", not_before=1, expiry=2,
    )  # fmt: skip
    text = to_text(sign_grant(fields, keyring.message))
    domain = Domain(make_charter(grants=(text,)))
    row = domain.world.all(Grant)[0]
    assert (row.subject, row.role, row.frame) == ("u-0000000000000001", 2, text)
    facts = domain.do(charter.ReceiveCharter(frame=charter_frame(make_charter(2, grants=(text,)))), DAEMON)
    assert "key.enrolled" not in {fact.KIND for fact in facts}
    assert len(domain.world.all(Grant)) == 1


def test_root_statements_in_a_charter_become_known() -> None:
    """N25: each is a row by its version, once; another of a version that is known is refused, and none is forgotten."""
    second, third = (root_frame(version) for version in (2, 3))
    domain = Domain(make_charter(roots=(second,)))
    facts = domain.do(charter.ReceiveCharter(frame=charter_frame(make_charter(2, roots=(second, third)))), DAEMON)
    assert [fact.KIND for fact in facts].count("root.succeeded") == 1
    refuse(domain, charter.ReceiveCharter(frame=charter_frame(make_charter(3, roots=(third, root_frame(3, 1))))), CharterRefused, DAEMON)
    domain.do(charter.ReceiveCharter(frame=charter_frame(make_charter(3))), DAEMON)
    assert [(row.version, row.frame) for row in domain.world.all(RootSuccessor)] == [(2, second), (3, third)]


def root_frame(version: int, issued: int = 0) -> str:
    """Return a root statement whose signatures are the daemon's matter."""
    keys = tuple(f"{number:02x}" * 32 for number in range(3))
    said = RootStatement(v=1, version=version, threshold=2, keys=keys, issued=issued, expiry=9, previous="ab" * 32)
    return to_text(join(ROOT_FRAME, canonical(said), [Signature("00" * 32, bytes(64))]))  # type: ignore[arg-type]


def test_revoked_keys_count_up_and_stay() -> None:
    """A key is revoked once; a second wish is no news."""
    domain = Domain()
    for key in ("aa" * 32, "bb" * 32):
        domain.do(Revoke(frame=revocation(key, "lost laptop")), DAEMON)
    assert domain.do(Revoke(frame=revocation("aa" * 32)), DAEMON) == []
    rows = [(row.key[:2], row.number, row.reason) for row in domain.world.all(RevokedKey)]
    assert rows == [("aa", 1, "lost laptop"), ("bb", 2, "lost laptop")]


def test_the_charter_can_be_read() -> None:
    """An operator sees what was delegated; before the first charter there is nothing to see."""
    assert Domain().ask(charter.ShowCharter())["compartments"] == ["cloud", "default", "blue"]
    with pytest.raises(charter.NoCharter):
        Domain(chartered=False).ask(charter.ShowCharter())


def test_a_charter_replays_to_the_same_rows() -> None:
    """The facts alone give the same world."""
    domain = Domain()
    assert domain.replay().digest() == domain.world.digest()
    assert domain.world.need(Compartment, DEFAULT).parent == ROOT

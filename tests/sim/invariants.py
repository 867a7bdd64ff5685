"""What holds whatever happened: read from the files and from the daemons' own memory, never from what a daemon says of itself."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import create_engine

from bus.journal import verify
from bus.journal.entry import Entry
from compartments import tables
from compartments.rows import AddressBlock, Compartment, Token
from enjin.canonical import from_text
from keys.frame import open_frame
from keys.grants import ROOT_PARENT, check_within, read_grant
from keys.trust import Revoked, TrustSet, UnknownKey
from ring0 import charters
from ring1.charter import in_force
from tests.sim.cloud import Cloud
from tests.sim.person import Told


def journal_path(cloud: Cloud, ring: int) -> Path:
    """Return the file of the journal of *ring*."""
    if ring == 0:
        return cloud.home / "ring0" / "journal.db"
    return cloud.home / "nodes" / cloud.node / "state" / "ring1" / "journal.db"


def followed_path(cloud: Cloud) -> Path:
    """Return ring 0's copy of ring 1's journal."""
    return cloud.home / "ring0" / "children" / cloud.node / "followed.db"


def rows(path: Path, statement: str) -> list[Any]:
    """Return what *statement* finds in the database at *path*."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def entries(path: Path) -> list[Entry]:
    """Return every entry of a journal, in order."""
    return [msgspec.json.decode(data, type=Entry) for (data,) in rows(path, "select data from journal_entries order by number")]


def check_acknowledged(path: Path, told: Iterable[Told]) -> None:
    """Everything acknowledged is there under its number; what was refused is not; nothing took effect twice."""
    requests = dict(rows(path, "select request, number from journal_requests"))
    effects = Counter(entry.cause.request for entry in entries(path))
    assert [request for request, count in effects.items() if count > 1] == []
    for one in told:
        if one.granted:
            assert one.reply is not None
            assert requests.get(one.request) == one.reply.number, f"acknowledged and lost: {one}"
        elif one.reply is not None:
            assert one.request not in effects, f"refused, and yet it took effect: {one}"


def check_chain(path: Path, trust: TrustSet, keys: Iterable[bytes]) -> None:
    """The journal verifies from its first entry: chain, commits' signatures, and the signatures of those who asked."""
    found = verify(f"sqlite:///{path}", lambda _domain: tuple(keys), signers=trust.message_keys())
    assert found.ok, found


def check_witnessed(own: Path, copy: Path, witnessed: dict[str, Any]) -> None:
    """The follower's copy is the beginning of the journal, byte for byte, and no witness has seen more or other than it holds."""
    statement = "select number, hash, data from journal_entries order by number"
    ours, theirs = rows(own, statement), rows(copy, statement)
    assert ours[: len(theirs)] == theirs
    hashes = {number: digest for number, digest, _data in ours}
    for head in witnessed.values():
        assert hashes.get(head.number) == head.hash, f"a witness has seen entry {head.number}, which is lost"


def check_projection(path: Path, journal: Any) -> None:
    """Tables, the running world and a replay of the facts are the same."""
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            projected = tables.load(connection).digest()
    finally:
        engine.dispose()
    assert projected == journal.world.digest()
    assert projected == journal.replay().world.digest()


def check_authority(trust: TrustSet) -> None:
    """Each grant that a daemon believes lies within its issuer's."""
    grants = {open_frame(frame).digest: read_grant(open_frame(frame)) for frame in trust.frames()}
    for grant in grants.values():
        if grant.parent != ROOT_PARENT:
            check_within(grant, grants[grant.parent])


def check_within_parent(cloud: Cloud) -> None:
    """Ring 1's world holds no block, place or token that ring 0's charter did not give it; its charter is one that ring 0 issued."""
    parent, child = cloud.domain("ring0").world, cloud.domain("ring1").world
    charter = in_force(child)
    if charter is None:
        return
    issued = charters.in_force(parent, cloud.node)
    assert issued is not None
    assert charter.version <= issued.version
    blocks = {row.ipv4 for row in parent.find(AddressBlock, domain=cloud.node)}
    assert {row.ipv4 for row in child.all(AddressBlock)} <= blocks
    places = {row.id for row in parent.all(Compartment)}
    assert {row.id for row in child.all(Compartment)} <= places
    assert {row.compartment for row in child.all(Token)} <= places


def check_revoked(path: Path) -> None:
    """After the entry that tells of a revoked key, no entry was caused by it."""
    revoked: set[str] = set()
    for entry in entries(path):
        signer = str(open_frame(entry.cause.frame).key_id)
        assert signer not in revoked, f"entry {entry.number} was caused by a key that was revoked before it"
        for raw in entry.facts:
            fact = msgspec.json.decode(raw)
            if fact["kind"] == "key.revoked":
                revoked.add(fact["key"])
            elif fact["kind"].startswith("charter.received"):
                revoked |= set(fact["charter"].get("revoked", ()))


def check_cut(cloud: Cloud) -> int:
    """No ring gives any authority to a key that ring 0 has revoked; return how many there are."""
    revoked = cloud.domain("ring0").trust.revoked
    cut = [person for person in cloud.persons if str(person.keyring.message.key_id) in revoked]
    now = cloud.domain("ring0").journal.now()
    for trust in (cloud.domain("ring0").trust, cloud.domain("ring1").trust, cloud.processes["ring2"].parts.trust):
        for person in cut:
            digest = open_frame(from_text(person.grant)).digest
            try:
                trust.authority(digest, now)
            except (Revoked, UnknownKey):
                continue
            raise AssertionError(f"the revoked key of {person.name} still counts")
    return len(cut)


def differences(cloud: Cloud) -> list[str]:
    """Return what keeps the rings from being equal: each runs, and knows what the ring above knows."""
    if not cloud.up():
        return [f"{name} is down" for name, process in cloud.processes.items() if process.life is None or not process.life.alive] or [
            "starting"
        ]
    parent, child = cloud.domain("ring0"), cloud.domain("ring1")
    care, agent = cloud.processes["ring0"].parts.caring, cloud.processes["ring2"].parts
    watched = care._children.get(cloud.node) if care is not None else None
    charter, issued = in_force(child.world), charters.in_force(parent.world, cloud.node)
    if watched is None or charter is None or issued is None:
        return ["ring 0 does not look after ring 1 yet"]
    checks = {
        "everything decided is on disk": all(domain.journal._decider.head == domain.journal.head for domain in (parent, child)),
        "ring 0 follows ring 1's journal": watched._follower.head == child.journal.head,
        "ring 1's head is witnessed": child.journal.head in child.journal.witnessed().values(),
        "ring 1 has the newest charter": charter.version == issued.version,
        "the newest charter names every revoked key": set(parent.trust.revoked) <= set(issued.revoked),
        "ring 1 believes no revoked key": set(issued.revoked) <= set(child.trust.revoked),
        "ring 2 believes no revoked key": set(child.trust.revoked) <= set(agent.trust.revoked),
    }
    return [f"not: {name}" for name, holds in checks.items() if not holds]


def equal(cloud: Cloud) -> bool:
    """Whether every ring runs and knows what the ring above knows."""
    return not differences(cloud)


def check(cloud: Cloud) -> None:
    """Check everything that can be checked while the daemons run."""
    told = [one for person in cloud.persons for one in person.told]
    for ring, name in ((0, "ring0"), (1, "ring1")):
        path, domain = journal_path(cloud, ring), cloud.domain(name)
        check_acknowledged(path, [one for one in told if one.ring == ring])
        check_chain(path, domain.trust, (domain.keyring.journal.public,))
        check_projection(path, domain.journal)
        check_authority(domain.trust)
        check_revoked(path)
    check_witnessed(journal_path(cloud, 1), followed_path(cloud), cloud.domain("ring1").journal.witnessed())
    check_authority(cloud.processes["ring2"].parts.trust)
    check_within_parent(cloud)
    check_cut(cloud)

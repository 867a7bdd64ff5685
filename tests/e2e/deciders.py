"""Several deciders of ring 0 on one journal, each a process of its own: the shipped domain with ring 0's table, on a real hub.

What a whole ring 0 machine has beside it (init, hands, nodes that it runs, doors) is not here.

``python -m tests.e2e.deciders FILE``: one of them, as FILE says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bus.caller import Caller
from bus.envelope import open_frame, read_statement
from bus.messages import Command, Reply
from bus.over_zmq import ZmqTransport, curve_text
from bus.permission import Place
from bus.speaker import Speaker
from compartments import graph
from compartments.domain import Domain
from compartments.rows import Cloud
from enjin import daemon, log
from enjin.canonical import from_text, to_text
from enjin.host import clock, write_atomic
from keys.grants import VERBS, Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet
from ring0.genesis import FoundCloud
from ring0.services import SERVICES
from tests.bus.hubs import ROOT, RunningHub

HOUR_US, YEAR_US = 3_600_000_000, 31_536_000_000_000
DECIDERS = ("n-0000000000000001", "n-0000000000000002")
OPERATOR = "o-00000000000000b0"
CHANNEL = "ring0"


class Told(msgspec.Struct, frozen=True):
    """What a decider is told: who it is, where things are, the root and every grant (base64url)."""

    node: str
    home: str
    journal: str
    hub: str
    hub_key: str
    root: str
    grants: tuple[str, ...]


def seed(word: str) -> bytes:
    """Return 32 bytes that are always the same for *word*."""
    return hashlib.sha256(word.encode()).digest()


def keyring(cloud: str, subject: str) -> Keyring:
    """Return the keys of *subject*."""
    return Keyring(cloud, seed(subject), seed(subject + " issuer"))


class Authority:
    """The root, and what it granted: to each decider its own grant, and the first one's to an operator."""

    def __init__(self) -> None:
        now = clock().wall_us
        self.shares = [Signer.from_seed(seed(f"share {number}")) for number in range(3)]
        self.root = make_root(self.shares, now - HOUR_US, now + YEAR_US)
        self.cloud = str(TrustSet(self.root).cloud)
        frames = [sign_grant(self._grant(node, now, role=3), *self.shares[1:]) for node in DECIDERS]
        issuer = keyring(self.cloud, DECIDERS[0]).issuer
        assert issuer is not None
        frames.append(sign_grant(self._grant(OPERATOR, now, role=2, parent=open_frame(frames[0]).digest), issuer))
        self.grants = tuple(frames)

    def _grant(self, subject: str, now: int, *, role: int, parent: str = "") -> Grant:
        keys = keyring(self.cloud, subject)
        assert keys.issuer is not None
        more = {} if parent else {"journal": keys.journal.public.hex(), "issue": keys.issuer.public.hex()}
        return Grant(
            v=1, cloud=self.cloud, subject=subject, role=role, ring=0, depth=0 if parent else 3, compartment="cloud",
            keys=PublicKeys(message=keys.message.public.hex(), curve=keys.curve.public.hex(), **more),
            allowed=tuple(Capability(verb, "cloud") for verb in sorted(VERBS)), channels=(CHANNEL, "ring1"),
            not_before=now - HOUR_US // 2, expiry=now + 24 * HOUR_US, autonomy=HOUR_US, parent=parent,
        )  # fmt: skip

    def trust(self) -> TrustSet:
        """Return somebody's belief in all of it."""
        found = TrustSet(self.root)
        for frame in self.grants:
            found.add(frame)
        return found

    def journal_keys(self) -> dict[str, bytes]:
        """Return the public journal key of each decider."""
        return {node: keyring(self.cloud, node).journal.public for node in DECIDERS}


class Process:
    """One decider."""

    def __init__(self, node: str, folder: Path, authority: Authority, hub: RunningHub, url: str) -> None:
        self.node, self.log = node, folder / f"{node}.log"
        told = Told(node, str(folder / node), url, hub.endpoint, hub.public, to_text(authority.root), tuple(map(to_text, authority.grants)))
        self._told = folder / f"{node}.json"
        write_atomic(self._told, msgspec.json.encode(told), 0o600)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.deciders", self._told], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def signal(self, number: int) -> None:
        """Send it signal *number*."""
        self.process.send_signal(number)

    def said(self, words: str) -> bool:
        """Return whether its log holds *words*."""
        assert self.process.poll() is None, self.log.read_text()[-2_000:]
        return words in self.log.read_text()

    def end(self) -> None:
        """End it, however it stands."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


class Asker:
    """The operator, who asks any of the deciders, and remembers who signed the answers."""

    def __init__(self, authority: Authority, hub: RunningHub) -> None:
        self._authority = authority
        self._transport = hub.connect(OPERATOR)
        self._trust = authority.trust()
        self._callers = {node: self._caller(node) for node in DECIDERS}
        self.signers: dict[str, set[str]] = {}

    def _caller(self, node: str) -> Caller:
        keys = keyring(self._authority.cloud, OPERATOR)
        speaker = Speaker(
            cloud=self._authority.cloud, channel=CHANNEL, issuer=OPERATOR, grant=open_frame(self._authority.grants[-1]).digest,
            signer=keys.message, daemon=False,
        )  # fmt: skip
        return Caller(self._transport, speaker, self._trust, responder=node)

    async def listen(self) -> None:
        """Note who signs answers."""
        await self._transport.subscribe("reply", self._note)

    def _note(self, _subject: str, frame: bytes) -> None:
        statement = read_statement(open_frame(frame))
        self.signers.setdefault(statement.rid, set()).add(statement.iss)

    async def ask(self, node: str, wish: Command, rid: str, deadline_s: float = 30.0) -> Reply:
        """Ask *node*. Raises: Unreachable."""
        return await self._callers[node].command(wish, rid=rid, deadline_s=deadline_s)

    async def close(self) -> None:
        """Leave the bus."""
        await self._transport.close()


@contextlib.contextmanager
def processes(folder: Path, authority: Authority, hub: RunningHub, url: str) -> Iterator[dict[str, Process]]:
    """Give a dictionary to put the deciders into, whose processes are ended."""
    started: dict[str, Process] = {}
    for subject in (*DECIDERS, OPERATOR):
        hub.allowed[subject] = keyring(authority.cloud, subject).curve
    hub.allow(*DECIDERS, OPERATOR)
    try:
        yield started
    finally:
        for one in started.values():
            one.end()


@contextlib.asynccontextmanager
async def asking(authority: Authority, hub: RunningHub) -> AsyncIterator[Asker]:
    """Be the operator."""
    asker = Asker(authority, hub)
    try:
        await asker.listen()
        yield asker
    finally:
        await asker.close()


async def decide(told: Told, ending: asyncio.Event) -> None:
    """Be one decider until *ending*; as ``ring0.daemon`` puts it together."""
    trust = TrustSet(from_text(told.root))
    hashes = {trust.grant(digest).subject: digest for digest in [trust.add(from_text(text)) for text in told.grants]}
    keys = keyring(str(trust.cloud), told.node)
    domain = Domain(
        place=Place(node=told.node, domain=CHANNEL, channel=CHANNEL, ring=0, path="cloud"),
        keyring=keys,
        trust=trust,
        grant=hashes[told.node],
        epoch=1,
        path=Path(told.home) / "journal.db",
        shared=told.journal,
        rows=SERVICES,
        locate=lambda world, name: graph.locate(world, name) if world.count(Cloud) else "cloud",
        groups=lambda _world: frozenset(),
    )
    transport = ZmqTransport.connect(
        told.hub, server_key=told.hub_key, public_key=curve_text(keys.curve.public), secret_key=curve_text(keys.curve.secret)
    )
    try:
        if not domain.world.count(Cloud):
            grants = tuple(text for text in told.grants if text != told.grants[1])
            founding: dict[str, Any] = {"cloud": str(trust.cloud), "node": told.node, "operator": OPERATOR, "grants": grants}
            await domain.wish(FoundCloud(**founding, ipv4="127.64.0.0/16", ipv6="none", blocks=("127.64.64.0/18",)), reason="genesis")
        await domain.serve(transport)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (domain.beacons(), domain.attend())]
            log.get("decider").info("daemon.started", number=domain.journal.head.number)
            await ending.wait()
            for task in tasks:
                task.cancel()
    finally:
        await transport.close()
        await domain.close()


def main() -> int:
    """Run one and return its exit status."""
    log.configure(ring=0, component="daemon")
    os.umask(0o077)
    told = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Told)
    return daemon.run(lambda ending: decide(told, ending))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())

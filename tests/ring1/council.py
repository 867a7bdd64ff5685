"""A real ring 1 domain (journal on disk, dispatcher, trust, sealing keys) and several operators with keys of their own.

Everything is signed and goes through every stage of the dispatcher; what is left out is a transport in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bus.envelope import Behalf
from bus.messages import Command, Query, Reply
from bus.permission import Place
from bus.speaker import Speaker
from compartments import graph
from compartments.approvals import Approve, ListApprovals
from compartments.charter import ReceiveCharter
from compartments.domain import Domain
from compartments.revocations import Revoke
from compartments.rows_apps import SealingKey
from compartments.shredding import ShredSecrets
from enjin.canonical import to_text
from keys.grants import VERBS, Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.revocation import Revocation, sign_revocation
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet
from ring1.sealing_keys import SealingKeys
from ring1.services import SERVICES
from tests.ring1.domain import DEFAULT, charter_frame, make_charter

NODE, RING0, CHANNEL = "n-0000000000000001", "n-0000000000000000", "ring1.n-0000000000000001"
HOUR_US, DAY_US, YEAR_US = 3_600_000_000, 86_400_000_000, 31_536_000_000_000
SHRED = ShredSecrets(compartment="default", confirm="default")
SHARES = [Signer.from_seed(hashlib.sha256(f"share {number}".encode()).digest()) for number in range(3)]


class Person(NamedTuple):
    """Someone with a key: whose, its secret, and its grant."""

    subject: str
    keyring: Keyring
    grant: str

    @property
    def key(self) -> str:
        """The id of the message key."""
        return str(self.keyring.message.key_id)


class Council:
    """One domain, its daemon's part that destroys keys, and its operators; ``pass_time`` moves cloud time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = 1_800_000_000_000_000
        self.root = make_root(SHARES, 1, now + 10 * YEAR_US)
        self.trust = TrustSet(self.root)
        self._version = self._revoked = 0
        self._grants: list[bytes] = []
        self.ring0 = self._person(RING0, "ring0", None, role=3, depth=3, channels=("ring0", "ring1"))
        self.daemon = self._person(NODE, "ring1", self.ring0, ring=1, role=3, depth=2, channels=(CHANNEL,))
        self.domain = Domain(
            place=Place(node=NODE, domain=NODE, channel=CHANNEL, ring=1, path="cloud"),
            keyring=self.daemon.keyring,
            trust=self.trust,
            grant=self.daemon.grant,
            epoch=1,
            path=folder / "journal.db",
            rows=SERVICES,
            locate=graph.locate,
            groups=lambda _world: frozenset(),
        )
        self.keys = SealingKeys(self.domain, folder)

    async def begin(self, *names: str) -> list[Person]:
        """Give the domain its charter, a sealing key for `default`, and operators called *names*."""
        people = [self._person(name, name, self.ring0, channels=("ring1",)) for name in names]
        await self.charter()
        await self.keys.settle()
        return people

    async def charter(self, **changes: Any) -> None:
        """Send a charter with every grant so far."""
        self._version += 1
        grants = tuple(to_text(frame) for frame in self._grants)
        given = make_charter(self._version, domain=NODE, decider=NODE, parent=RING0, grants=grants, **changes)
        await self.domain.wish(ReceiveCharter(frame=charter_frame(given)))

    async def join(self, name: str, word: str = "") -> Person:
        """Let another key operate: of the account *name*, made of *word*."""
        person = self._person(name, word or name, self.ring0, channels=("ring1",))
        await self.charter()
        return person

    async def revoke(self, person: Person, name: str = "") -> None:
        """Believe a key (or the grant *name*) no longer, as ring 0 would have it."""
        assert self.ring0.keyring.issuer is not None
        self._revoked += 1
        said = Revocation(
            cloud=str(self.trust.cloud), name=name or person.key, issuer=self.ring0.grant, number=self._revoked,
            since=self.domain.journal.now(), reason="lost",
        )  # fmt: skip
        await self.domain.wish(Revoke(frame=to_text(sign_revocation(said, self.ring0.keyring.issuer))))

    def pass_time(self, microseconds: int) -> None:
        """Let cloud time go on."""
        self.domain.clock._offset_us += microseconds

    def _person(self, subject: str, word: str, issuer: Person | None, **fields: Any) -> Person:
        cloud = str(self.trust.cloud)
        keyring = Keyring(cloud, hashlib.sha256(word.encode()).digest(), hashlib.sha256(b"issuer" + word.encode()).digest())
        issues = keyring.issuer.public.hex() if fields.get("depth") and keyring.issuer is not None else ""
        grant = Grant(
            **{
                "v": 1, "cloud": cloud, "subject": subject, "role": 2, "ring": 0, "depth": 0, "compartment": "cloud",
                "keys": PublicKeys(message=keyring.message.public.hex(), issue=issues),
                "allowed": tuple(Capability(verb, "cloud") for verb in sorted(VERBS)),
                "not_before": 2, "expiry": 1_800_000_000_000_000 + YEAR_US, "parent": issuer.grant if issuer else "",
            } | fields
        )  # fmt: skip
        signers = SHARES[:2] if issuer is None else [issuer.keyring.issuer]
        frame = sign_grant(grant, *signers)  # type: ignore[arg-type]
        self._grants.append(frame)
        return Person(subject, keyring, self.trust.add(frame))

    def frame(self, person: Person, body: Command | Query, *, behalf: Behalf | None = None, reason: str = "") -> bytes:
        """Return *body* as *person* signs it."""
        speaker = Speaker(
            cloud=str(self.trust.cloud), channel=CHANNEL, issuer=person.subject, grant=person.grant, signer=person.keyring.message,
            clock=self.domain.journal.now, daemon=person is self.daemon,
        )  # fmt: skip
        word = "query" if isinstance(body, Query) else "command"
        return speaker.seal(f"{word}.{body.KIND}", body, audience=NODE, behalf=behalf, reason=reason)

    async def send(self, frame: bytes) -> Reply:
        """Take a frame through every stage."""
        answered = await self.domain.dispatcher.handle(frame, channel=CHANNEL)
        return answered.reply if answered is not None else Reply(ok=False, code="nothing")

    async def say(self, person: Person, body: Command | Query, **options: Any) -> Any:
        """Return the result of what *person* wants, or the code with which it is refused."""
        reply = await self.send(self.frame(person, body, **options))
        return msgspec.json.decode(reply.result) if reply.ok else reply.code

    async def waiting(self, person: Person, ended: bool = False) -> list[dict[str, Any]]:
        """Return the requests that *person* is shown."""
        found: list[dict[str, Any]] = await self.say(person, ListApprovals(ended=ended))
        return found

    async def shred(self, person: Person) -> dict[str, Any]:
        """Let *person* ask for the shredding of `default`, and return the request that waits."""
        found: dict[str, Any] = (await self.say(person, SHRED, reason="the customer left"))["approval"]
        return found

    async def approve(self, person: Person, request: dict[str, Any]) -> Any:
        """Let *person* approve *request* as it is listed."""
        return await self.say(person, Approve(request=request["id"], digest=request["digest"]))

    @property
    def state(self) -> str:
        """What the journal says of the key of `default`."""
        return self.domain.world.need(SealingKey, DEFAULT).state

    @property
    def key_file(self) -> Path:
        """The file that shredding destroys."""
        return self.folder / "ring1" / "secrets" / f"{DEFAULT}.key"


def meeting(test: Callable[[Council], Any]) -> Callable[[Path], None]:
    """Return *test* as pytest runs it: with a council, in an event loop, closed afterwards."""
    import asyncio

    def run(tmp_path: Path) -> None:
        async def whole() -> None:
            council = Council(tmp_path)
            try:
                await test(council)
            finally:
                await council.domain.close()

        asyncio.run(whole())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run

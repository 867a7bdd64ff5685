"""A small cloud of keys for tests: root, ring 0, a ring 1 daemon, an operator, a tenant, strangers; and a fake journal.

The fake journal behaves: it decides once per request id, answers a repetition with the stored reply, refuses another
body under the same id, and has a head that moves with every decision.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from bus.dispatch import Dispatcher, Handlers, Place, Seen
from bus.envelope import Behalf
from bus.messages import Asker, Command, Fact, Moment, Observation, Query, Question, Reply, Role, Rule, Table
from bus.speaker import Speaker
from enjin.canonical import canonical
from enjin.errors import Conflict, NotFound
from enjin.host import request_id
from keys.frame import open_frame
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet

START = 1_800_000_000_000_000
HOUR, YEAR = 3_600_000_000, 31_536_000_000_000
CHANNEL, PATH, NODE, DOMAIN = "ring1.d-1", "cloud/site", "n-0000000000000001", "d-1"
TOKEN = "enjin_t-1_0123456789abcdef"


class Clock:
    """Cloud time that only a test moves, with a microsecond of its own per look."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> int:
        self.time += 1
        return self.time


def seed(word: str) -> bytes:
    """Return 32 bytes that are always the same for *word*."""
    return hashlib.sha256(word.encode()).digest()


class Paint(Command, kind="app.paint"):
    """Paint an app."""

    app: str
    colour: str = "red"
    layers: list[int] = []


class Burn(Command, kind="node.burn"):
    """Burn a node down."""

    node: str


class Colours(Query, kind="app.colours"):
    """List the colours of apps."""

    app: str = ""
    limit: int = 10
    tags: list[str] = []


class Saw(Observation, kind="instance.seen"):
    """An instance was seen."""

    instance: str


class Painted(Fact, kind="app.painted"):
    """An app was painted."""

    app: str


def where(wish: Any, _world: Any) -> str:
    """Return the compartment of an app by its first letter; there is no app that begins with x."""
    if wish.app.startswith("x"):
        raise NotFound(f"there is no app {wish.app}")
    return "other" if wish.app.startswith("o") else "default"


def paint(wish: Paint, _world: Any, _at: Moment) -> Any:
    """Decide a Paint."""
    yield Painted(app=wish.app)


TABLE = Table.of(
    (
        Rule(Paint, paint, allow=Role.TENANT, compartment=where),
        Rule(Burn, paint, allow=Role.OPERATOR),
        Question(Colours, lambda query, world, asker: {"asker": asker.id, "app": query.app, "limit": query.limit, "tags": query.tags}),
    )
)


class FakeJournal:
    """Decides like a journal, in memory."""

    def __init__(self) -> None:
        self.head = 0
        self.entries: list[tuple[Command, Moment]] = []
        self._known: dict[str, tuple[str, bytes, Reply]] = {}

    async def decide(self, rule: Rule, wish: Command, moment: Moment, frame: bytes) -> Reply:
        """Decide *wish* once per request id."""
        body = canonical(wish)
        if (known := self._known.get(moment.request)) is not None:
            if known[:2] != (moment.asker.id, body):
                raise Conflict("this request id was used for another wish")
            return msgspec.structs.replace(known[2], repeated=True)
        facts = list(rule.decide(wish, None, moment))
        self.head += 1
        self.entries.append((wish, moment))
        reply = Reply(ok=True, result=msgspec.Raw(canonical({"facts": len(facts)})), number=self.head)
        self._known[moment.request] = (moment.asker.id, body, reply)
        return reply


def _public(keyring: Keyring) -> PublicKeys:
    return PublicKeys(
        message=keyring.message.public.hex(),
        journal=keyring.journal.public.hex(),
        issue=keyring.issuer.public.hex() if keyring.issuer else "",
        curve=keyring.curve.public.hex(),
    )


VERBS = ("app", "node", "instance", "blob", "operation", "key", "beacon", "daemon")

SHARES = [Signer.from_seed(seed(f"share {number}")) for number in range(3)]
ROOT = make_root(SHARES, START - HOUR, START + 10 * YEAR)


@dataclasses.dataclass
class Party:
    """Someone with a key and a grant."""

    keyring: Keyring
    subject: str
    grant: str


class Cloud:
    """Everybody's keys, one trust set, one clock, and a dispatcher for the ring 1 daemon."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self.clock = clock or Clock()
        self.trust = TrustSet(ROOT)
        self.journal = FakeJournal()
        self.observed: list[Seen] = []
        self.tokens: dict[str, Asker] = {"t-1": Asker(id="alice", role=Role.TENANT, compartment="default", token="t-1")}
        self._numbers = itertools.count()
        self.ring0 = self._enrol("n-0000000000000000", 0, 3, "cloud", ("ring0", "ring1"), None, issuer=True, role=3)
        self.daemon = self._enrol(NODE, 1, 2, PATH, (CHANNEL,), self.ring0, issuer=True, role=3)
        self.operator = self._enrol("operator", 0, 0, "cloud", ("ring0", "ring1"), self.ring0, role=2)
        self.tenant = self._enrol("tenant", 1, 0, f"{PATH}/default", (CHANNEL,), self.daemon, role=1)
        self.agent = self._enrol("n-00000000000000aa", 2, 0, f"{PATH}/default", (CHANNEL,), self.daemon, role=1)
        self.speaker = self.speaker_of(self.daemon, daemon=True)
        self.dispatcher = self.make_dispatcher()

    def make_dispatcher(self) -> Dispatcher:
        """Return a dispatcher of the ring 1 daemon that starts now."""
        return Dispatcher(
            place=Place(node=NODE, domain=DOMAIN, channel=CHANNEL, ring=1, path=PATH),
            table=TABLE,
            trust=self.trust,
            speaker=self.speaker,
            handlers=Handlers(decide=self.journal.decide, answer=self._answer, observe=self.observed.append, account=self.account),
        )

    def member(self, party: Party, groups: Callable[[], frozenset[str]], table: Table, decide: Any = None) -> Dispatcher:
        """Return the dispatcher of agent *party*, which starts now, answers *table* and is in *groups*."""
        return Dispatcher(
            place=Place(node=party.subject, domain=DOMAIN, channel=CHANNEL, ring=2, path=f"{PATH}/default"),
            table=table,
            trust=self.trust,
            speaker=self.speaker_of(party, daemon=True),
            handlers=Handlers(decide=decide or self.journal.decide, answer=self._answer),
            groups=groups,
        )

    def _answer(self, question: Question, query: Query, asker: Asker) -> object:
        return question.answer(query, None, asker)

    def account(self, behalf: Behalf) -> Asker | None:
        """Return who a token stands for."""
        return self.tokens.get(behalf.token)

    def authenticate(self, token: str) -> Asker | None:
        """Return who a bearer token stands for."""
        return self.tokens.get(token.split("_")[1]) if token == TOKEN else None

    def _enrol(
        self,
        subject: str,
        ring: int,
        depth: int,
        path: str,
        channels: tuple[str, ...],
        parent: Party | None,
        *,
        issuer: bool = False,
        role: int,
        verbs: tuple[str, ...] = VERBS,
    ) -> Party:
        keyring = Keyring(self.trust.cloud, seed(subject), seed(subject + " issuer") if issuer else None)
        grant = Grant(
            v=1,
            cloud=str(self.trust.cloud),
            subject=subject,
            role=role,
            keys=_public(keyring),
            ring=ring,
            depth=depth,
            compartment=path,
            allowed=tuple(Capability(verb, path) for verb in verbs),
            channels=channels,
            not_before=START - HOUR,
            expiry=START + (YEAR if parent is None else 24 * HOUR),
            parent=parent.grant if parent else "",
        )
        if parent is None:
            return Party(keyring, subject, self.trust.add(sign_grant(grant, *SHARES[:2])))
        assert parent.keyring.issuer is not None
        return Party(keyring, subject, self.trust.add(sign_grant(grant, parent.keyring.issuer)))

    def enrol_agent(self, subject: str, verbs: tuple[str, ...] = VERBS) -> Party:
        """Return another agent of the ring 1 daemon, which may say *verbs*."""
        return self._enrol(subject, 2, 0, f"{PATH}/default", (CHANNEL,), self.daemon, role=1, verbs=verbs)

    def speaker_of(self, party: Party, *, daemon: bool = False, channel: str = CHANNEL) -> Speaker:
        """Return a speaker for *party*."""
        return Speaker(
            cloud=str(self.trust.cloud),
            channel=channel,
            issuer=party.subject,
            grant=party.grant,
            signer=party.keyring.message,
            clock=self.clock,
            daemon=daemon,
        )

    def rid(self) -> str:
        """Return a fresh request id of cloud time."""
        return str(request_id(self.clock() + 1000 * next(self._numbers)))

    def state(self) -> tuple[int, int]:
        """Return what must not change when something is refused."""
        return self.journal.head, len(self.observed)


def reply_in(frame: bytes) -> Reply:
    """Return the Reply in a signed answer."""

    class _Body(msgspec.Struct):
        body: Reply

    return msgspec.json.decode(open_frame(frame, 1 << 20).payload, type=_Body).body

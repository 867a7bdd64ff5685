"""Everybody who could speak in a real cloud, friend or thief: their keys, their frames, both doors, and what a daemon did with them.

Owns `Voices`. Reads keys as root where a thief would have stolen them. The same frame goes over the bus (a ZeroMQ connection with the
operator's transport key: the payload's signer is what counts) or through a domain's HTTP door.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from bus.directory import read_directory
from bus.envelope import Statement, seal_statement
from bus.messages import Message, Query, canonical
from bus.session import Session
from compartments.accounts import secret_hash, token_text
from compartments.history import GetCounters, GetHead
from enjin.canonical import from_text
from enjin.config import load
from enjin.host import random_bytes, request_id
from keys.frame import open_frame
from keys.keyring import Keyring, load_seed
from keys.operator import load_operator_key
from keys.trust import TrustSet
from ring1.accounts import CreateToken
from supervision.init_link import InitLink
from tests.cloud import Cloud

DEADLINE_S = 30.0
MEDIA = "application/vnd.enjin.envelope"


class Party(NamedTuple):
    """Someone with a key: what it signs with, whose it is, and the hash of its grant."""

    keyring: Keyring
    subject: str
    grant: str


class State(NamedTuple):
    """What must not change when something is refused."""

    number: int
    hash: str
    digest: str


class Told(NamedTuple):
    """An HTTP answer."""

    status: int
    media: str
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem in it."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Voices:
    """Every party of one cloud, and an event loop for the bus."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self.runner.__enter__()
        self.config = load({}, self.cloud.environment)
        self.directory = read_directory(self.cloud.home)
        self.session: Session = self.run(lambda: Session.open(self.config))
        self.ring1 = self.directory.reach(1).decider
        self.ring0 = self.directory.reach(0).decider
        self.operator = Party(self.session.keyring, self.session.key.account, self.session.grant)
        self._numbers = 0
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self.session.close)
        self.runner.__exit__(kind, value, trace)

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run a coroutine in our loop."""

        async def wrapped() -> Any:
            return await work()

        return self.runner.run(wrapped())

    # -- parties -------------------------------------------------------------------------------------

    @property
    def trust(self) -> TrustSet:
        """What the public directory says, believed."""
        self.directory = read_directory(self.cloud.home)
        found = TrustSet(from_text(self.directory.root))
        for text in self.directory.grants:
            found.add(from_text(text))
        return found

    def thief_of_ring0(self) -> Party:
        """Ring 0's own key."""
        keyring = Keyring.load(self.cloud.home / "ring0" / "keys", self.directory.cloud)
        return Party(keyring, self.ring0, self.trust.grant_of(self.ring0) or "")

    def thief_of_ring1(self) -> Party:
        """The ring 1 daemon's key."""
        keyring = Keyring.load(self.cloud.home / "ring0" / "children" / self.ring1, self.directory.cloud)
        return Party(keyring, self.ring1, self.trust.grant_of(self.ring1) or "")

    def thief_of_agent(self) -> Party:
        """The key of the ring 2 agent of `default`; its grant stands in no public directory, but in the memory file it was given."""
        state = self.cloud.home / "nodes" / self.ring1 / "state" / "ring1" / "agents"
        directory = next(path for path in sorted(state.iterdir()) if (path / "node.seed").exists())
        keyring = Keyring(self.directory.cloud, load_seed(directory / "node.seed"))
        agent = next(process for process in self.cloud.find("ring2.daemon"))
        configuration = _memory_file(agent.pid, "agent")
        return Party(keyring, configuration["node"], open_frame(from_text(configuration["grants"][-1])).digest)

    def stranger(self) -> Party:
        """A key that nobody knows, with the operator's name and grant."""
        return self.operator._replace(keyring=Keyring(self.directory.cloud, random_bytes(32)))

    def second_operator(self) -> Party:
        """Make a second operator's key as anybody would."""
        name = self.fresh("person")
        keys = self.cloud.folder / name
        self.cloud.run("key", "create", name, "--directory", str(keys), "--reason", "a test")
        key = load_operator_key(str(keys), self.directory.cloud)
        return Party(key.keyring(), key.account, open_frame(from_text(key.grant)).digest)

    def token(self, compartment: str, role: str = "tenant") -> str:
        """Make a token of ring 1's door for *compartment*."""
        secret = random_bytes(32).hex()
        wish = CreateToken(name=self.fresh("token"), secret_hash=secret_hash(secret), compartment=compartment, role=role)  # type: ignore[arg-type]
        made = self.command(1, wish)
        return token_text(made["id"] if "id" in made else made["token"], secret)

    def fresh(self, word: str) -> Any:
        """Return a name that was not used yet."""
        self._numbers += 1
        return f"{word}-{self._numbers}"

    # -- frames --------------------------------------------------------------------------------------

    def channel(self, ring: int) -> str:
        """Return the channel of *ring*'s domain."""
        return "ring0" if ring == 0 else f"ring1.{self.ring1}"

    def statement(self, ring: int, body: Message, party: Party | None = None, **changes: Any) -> Statement:
        """Return what *party* (the operator) would sign to ask *ring* for *body*, with *changes*."""
        party = party or self.operator
        now = time.time_ns() // 1000 + self.offset_us(ring)
        word = "query" if isinstance(body, Query) else "command"
        given: dict[str, Any] = {
            "cloud": self.directory.cloud,
            "channel": self.channel(ring),
            "kind": f"{word}.{body.KIND}",
            "iss": party.subject,
            "aud": self.ring0 if ring == 0 else self.ring1,
            "time": now,
            "ttl_ms": 10_000,
            "grant": party.grant,
            "rid": str(request_id(now)),
            "body": msgspec.Raw(canonical(body)),
        }
        return Statement(**(given | changes))

    def frame(self, ring: int, body: Message, party: Party | None = None, **changes: Any) -> bytes:
        """Return the frame of ``statement``, signed by *party*."""
        return seal_statement(self.statement(ring, body, party, **changes), (party or self.operator).keyring.message)

    def offset_us(self, ring: int) -> int:
        """Return by how much cloud time is ahead of this machine's wall clock."""
        return int(self.query(ring, GetHead())["time"]) - time.time_ns() // 1000

    # -- doors ---------------------------------------------------------------------------------------

    def publish(self, ring: int, subject: str, frame: bytes) -> None:
        """Put *frame* on the bus of *ring* under *subject*."""
        transport = self.session.caller(ring).transport
        self.run(lambda: transport.publish(subject, frame))

    def post(self, ring: int, frame: bytes) -> Told:
        """Post *frame* to *ring*'s HTTP door."""
        return self.http(ring, "POST", "/v1/envelope", frame, {"Content-Type": MEDIA})

    def http(self, ring: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Told:
        """Ask *ring*'s HTTP door."""
        connection = http.client.HTTPConnection("127.0.0.1", self.cloud.port_base + ring, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Told(answer.status, answer.getheader("Content-Type", ""), answer.read())
        finally:
            connection.close()

    def command(self, ring: int, wish: Any) -> Any:
        """Want *wish* as the operator, over the bus."""
        return self.run(lambda: self.session.command(ring, wish))

    def query(self, ring: int, query: Query) -> Any:
        """Ask *query* as the operator, over the bus."""
        return self.run(lambda: self.session.query(ring, query))

    # -- what a daemon did ---------------------------------------------------------------------------

    def state(self, ring: int) -> State:
        """Return where *ring*'s journal and projection stand."""
        head = self.query(ring, GetHead())
        return State(head["number"], head["hash"], head["digest"])

    def settled(self, ring: int) -> State:
        """Return the state once it stands still: the daemons' own wishes after a push have ended."""
        end = time.monotonic() + DEADLINE_S
        last = self.state(ring)
        alike = 0
        while alike < 5:
            self.run(lambda: asyncio.sleep(0.05))
            now = self.state(ring)
            alike, last = (alike + 1, last) if now == last else (0, now)
            assert time.monotonic() < end, "the journal never stands still"
        return last

    def counters(self, ring: int) -> dict[str, int]:
        """Return *ring*'s counters, by stage."""
        return dict(self.query(ring, GetCounters()))

    def wait_counter(self, ring: int, stage: str, above: int) -> dict[str, int]:
        """Return the counters once *stage*'s is above *above*."""
        end = time.monotonic() + DEADLINE_S
        while (found := self.counters(ring)).get(stage, 0) <= above:
            self.run(lambda: asyncio.sleep(0.02))
            assert time.monotonic() < end, f"{stage} was not counted: {found}"
        return found

    def log(self, ring: int, after: int = 0, service: str = "daemon") -> list[tuple[int, str]]:
        """Return (number, line) of what *service* of *ring* logged after line *after*, as its init has it."""
        path = self.cloud.home / "init" / "init.sock" if ring == 0 else self.cloud.home / "hands" / f"{self.ring1}.sock"

        async def read() -> list[tuple[int, str]]:
            found: list[tuple[int, str]] = []
            async with await InitLink.connect(path) as init:
                last = after
                while part := (await init.logs(service, last))["lines"]:
                    found += [(line[0], line[2]) for line in part]
                    last = part[-1][0]
            return found

        found: list[tuple[int, str]] = self.run(read)
        return found


def _memory_file(pid: int, name: str) -> dict[str, Any]:
    """Return the JSON in the memory file *name* that the ancestors of *pid* hold for it."""
    status = Path(f"/proc/{pid}/status").read_text()
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    for link in sorted(Path(f"/proc/{parent}/fd").iterdir()):
        if link.readlink().name.startswith(f"memfd:{name}"):
            found: dict[str, Any] = json.loads(link.read_bytes())
            return found
    raise FileNotFoundError(f"no memory file {name} at {parent}")


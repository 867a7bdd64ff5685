"""A ring 1 domain without daemon or disk: a World, its closed table and a clock that only these tests move."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from bus.messages import Asker, Command, Fact, Moment, Query, Role, Table
from compartments.charter import Block, Charter, Place, Quotas
from compartments.facts import FACTS
from compartments.rows_apps import Instance, Release, Rollout
from compartments.world import World
from enjin.canonical import canonical, parse, to_text
from enjin.errors import EnjinError
from enjin.names import Digest, Name
from keys.frame import CHARTER, REVOCATION, Signature, join
from keys.revocation import Revocation
from keys.sealed import HEAD_BYTES, MAGIC, TAG_BYTES
from ring1 import accounts, apps, charter, destroying, instances, operations, processes, releases, rollouts, settings, shredding

TABLE = Table.of(
    accounts.TABLE, apps.TABLE, charter.TABLE, instances.TABLE, operations.TABLE, processes.TABLE, releases.TABLE, settings.TABLE,
    shredding.TABLE, destroying.TABLE,
)  # fmt: skip
ROOT, DEFAULT, BLUE = "c-0000000000000000", "c-0000000000000001", "c-0000000000000002"
DAEMON = Asker(id="n-0000000000000001", role=Role.SUPERVISOR)
OPERATOR = Asker(id="u-0000000000000001", role=Role.OPERATOR, compartment="cloud")
TENANT = Asker(id="u-0000000000000002", role=Role.TENANT, compartment=DEFAULT)
BLUE_TENANT = Asker(id="u-0000000000000003", role=Role.TENANT, compartment="cloud/blue")
SECOND = 1_000_000
DAY = 86_400 * SECOND


def make_charter(version: int = 1, epoch: int = 1, **changes: Any) -> Charter:
    """Return a charter with two tenants' compartments and a small block of addresses."""
    given: dict[str, Any] = {
        "cloud": "ab" * 32,
        "domain": "n-0000000000000001",
        "epoch": epoch,
        "version": version,
        "decider": "n-0000000000000001",
        "parent": "n-0000000000000000",
        "grant": "cd" * 32,
        "blocks": (Block(network="apps", ipv4="10.80.4.0/24", ipv6="fd00:4::/120"),),
        "uid_first": 524_288,
        "uid_count": 65_536,
        "compartments": (
            Place(id=ROOT, name="cloud", kind="cloud"),
            Place(id=DEFAULT, name="default", kind="environment", parent=ROOT),
            Place(id=BLUE, name="blue", kind="environment", parent=ROOT),
        ),
        "quotas": Quotas(memory_bytes=1 << 40, processes=1 << 20, apps=20),
        "router_port": 8080,
        "api_port": 7081,
        "address": "127.0.0.1",
    }
    return Charter(**(given | changes))


def charter_frame(given: Charter) -> str:
    """Return a frame of *given*; its signature is the daemon's matter, and none here."""
    return to_text(join(CHARTER, canonical(given), [Signature("00" * 32, bytes(64))]))  # type: ignore[arg-type]


def revocation(name: str, reason: str = "") -> str:
    """Return a frame that revokes *name*; its signature is the daemon's matter, and none here."""
    said = Revocation(cloud="ab" * 32, name=name, issuer="cd" * 32, number=1, since=1, reason=reason)
    return to_text(join(REVOCATION, canonical(said), [Signature("00" * 32, bytes(64))]))  # type: ignore[arg-type]


def digest(text: str) -> Digest:
    """Return a digest that stands for *text*."""
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def sealed(word: str) -> str:
    """Return a value that has the form of a sealed one, another for each *word*; nothing opens it."""
    return to_text(MAGIC + bytes(HEAD_BYTES - len(MAGIC)) + word.encode() + bytes(TAG_BYTES))


class Domain:
    """Decides commands and applies their facts, as they stand in a journal's bytes."""

    def __init__(self, given: Charter | None = None, *, chartered: bool = True) -> None:
        self.world = World()
        self.facts: list[bytes] = []
        self.time = 1_700_000_000 * SECOND
        self.count = 0
        if chartered:
            self.do(charter.ReceiveCharter(frame=charter_frame(given or make_charter())), DAEMON)

    def moment(self, asker: Asker) -> Moment:
        """Return the next moment."""
        self.count += 1
        self.time += 1000
        return Moment(time=self.time, request=f"00000000-0000-7000-8000-{self.count:012x}", asker=asker)

    def do(self, wish: Command, asker: Asker = OPERATOR) -> list[Fact]:
        """Decide *wish* as it would arrive on the wire, apply its facts, and return them; the reply's result is in ``result``."""
        wish = parse(canonical(wish), type(wish))
        rule, at = TABLE.rule(wish.KIND), self.moment(asker)
        before = self.world.digest()
        try:
            facts = list(rule.decide(wish, self.world, at))
        finally:
            assert before == self.world.digest(), "a decision changed the world"
        assert [canonical(fact) for fact in facts] == [canonical(fact) for fact in rule.decide(wish, self.world, at)]
        for fact in facts:
            data = canonical(fact)
            self.facts.append(data)
            parse(data, FACTS[fact.KIND]).apply(self.world)
        self.request = at.request
        self.result: Any = rule.result(wish, self.world, at) if rule.result else None
        canonical(self.result)
        return facts

    def ask(self, query: Query, asker: Asker = OPERATOR) -> Any:
        """Return the answer to *query* as a client would read it."""
        return msgspec.json.decode(canonical(TABLE.question(query.KIND).answer(query, self.world, asker)))

    def replay(self) -> World:
        """Return a world folded from every fact so far."""
        world = World()
        for data in self.facts:
            parse(data, FACTS[msgspec.json.decode(data)["kind"]]).apply(world)
        return world

    def pushed(self, app: str = "hello", asker: Asker = OPERATOR, compartment: str = "default", **fields: Any) -> int:
        """Push *app* and return the release's number."""
        source = digest(f"{app} {self.count}")
        self.do(apps.Push(app=Name(app), compartment=compartment, source=source, **fields), asker)
        return int(self.result["release"])

    def built(self, app: str, number: int, lines: dict[str, str] | None = None) -> None:
        """Report a build's end."""
        lines = lines or {"web": "python -m http.server $PORT"}
        tree = digest(f"tree {app} {number}")
        self.do(releases.Built(app=Name(app), release=number, tree=tree, language="python", processes=lines), DAEMON)

    def ready(self, app: str, generation: int | None = None) -> None:
        """See every instance of the roll-out (or of *generation*) ready."""
        rollout = self.world.get(Rollout, app)
        generation = generation or (rollout.generation if rollout else 0)
        for one in rollouts.running(self.world, app, generation):
            self.saw(one, "ready")

    def saw(self, one: Instance, state: str, **fields: Any) -> list[Fact]:
        """Report an instance's state."""
        wish = instances.SawInstance(instance=one.id, generation=one.generation, state=state, **fields)  # type: ignore[arg-type]
        return self.do(wish, DAEMON)

    def live(self, app: str) -> None:
        """Let the roll-out under way go live."""
        rollout = self.world.need(Rollout, app)
        self.do(releases.Live(app=Name(app), release=rollout.release, generation=rollout.generation), DAEMON)

    def drained(self, app: str) -> None:
        """Let everything that is to go be gone."""
        for one in self.world.find(Instance, app=app):
            if one.wanted != "running":
                self.do(instances.Drained(instance=one.id), DAEMON)  # type: ignore[arg-type]

    def deployed(
        self, app: str = "hello", asker: Asker = OPERATOR, lines: dict[str, str] | None = None, compartment: str = "default"
    ) -> int:
        """Push, build, see ready, go live and drain; return the release's number."""
        number = self.pushed(app, asker, compartment)
        self.built(app, number, lines)
        if self.world.get(Rollout, app):
            self.ready(app)
            self.live(app)
        self.drained(app)
        return number

    def release(self, app: str, number: int) -> Release:
        """Return a release's row."""
        return self.world.need(Release, app, number)

    def instances(self, app: str) -> list[Instance]:
        """Return the instances that are wanted running."""
        return [one for one in self.world.find(Instance, app=app) if one.wanted == "running"]


def refuse(domain: Domain, wish: Command, error: type[EnjinError], asker: Asker = OPERATOR) -> EnjinError:
    """Check that *wish* is refused with *error* and changes nothing, and return the error."""
    before = domain.world.digest()
    with pytest.raises(error) as caught:
        domain.do(wish, asker)
    assert before == domain.world.digest()
    assert caught.value.code == error.code
    assert "\n" not in caught.value.message
    return caught.value

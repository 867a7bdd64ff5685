"""A small real World with its facts, commands and SQL tables, for the journal's tests; also run as a program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Self

import msgspec
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, bindparam, delete, insert, select

from bus.envelope import Statement, seal_statement
from bus.journal import Cause, JournalIdentity
from bus.messages import Asker, Command, Fact, Moment, Role, Rule, canonical
from enjin import host
from enjin.errors import Conflict, Refused
from keys.signing import Signer

CLOUD = hashlib.sha256(b"cloud").hexdigest()
OTHER_CLOUD = hashlib.sha256(b"another cloud").hexdigest()
DOMAIN = "ring1.default"
JOURNAL_KEY = Signer.from_seed(b"journal".ljust(32, b"."))
ASKER_KEY = Signer.from_seed(b"asker".ljust(32, b"."))
WITNESS_KEY = Signer.from_seed(b"witness".ljust(32, b"."))
OTHER_KEY = Signer.from_seed(b"other".ljust(32, b"."))
SECOND = 1_000_000


class SmallWorld:
    """Counters by name."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.changed: dict[str, None] = {}

    def put(self, name: str, value: int) -> None:
        self.rows[name] = value
        self.changed[name] = None

    def delete(self, name: str) -> None:
        self.rows.pop(name, None)
        self.changed[name] = None

    def take_changes(self) -> list[tuple[str, int | None]]:
        changes = [(name, self.rows.get(name)) for name in self.changed]
        self.changed = {}
        return changes

    def digest(self) -> str:
        return hashlib.sha256(self.snapshot()).hexdigest()

    def snapshot(self) -> bytes:
        return canonical(self.rows)

    @classmethod
    def restore(cls, body: bytes) -> Self:
        world = cls()
        world.rows = msgspec.json.decode(body, type=dict[str, int])
        return world


class CounterSet(Fact, kind="counter.set"):
    """A counter has a value."""

    name: str
    value: int

    def apply(self, world: SmallWorld) -> None:
        world.put(self.name, self.value)


class CounterDropped(Fact, kind="counter.dropped"):
    """A counter is gone."""

    name: str

    def apply(self, world: SmallWorld) -> None:
        world.delete(self.name)


class CounterBroken(Fact, kind="counter.broken"):
    """A fact whose apply fails half way: a defect."""

    name: str

    def apply(self, world: SmallWorld) -> None:
        world.put(self.name, 1)
        raise KeyError(self.name)


class Unknown(Fact, kind="counter.unknown/9"):
    """A fact that no table here holds."""


FACTS = {fact.KIND: fact for fact in (CounterSet, CounterDropped, CounterBroken)}


class Add(Command, kind="counter.add"):
    """Add to a counter."""

    name: str
    by: int = 1
    pad: str = ""


class Drop(Command, kind="counter.drop"):
    """Drop a counter."""

    name: str


def add(wish: Add, world: SmallWorld, at: Moment) -> Iterator[Fact]:
    if wish.by < 0:
        raise Refused("counters only rise")
    if wish.name == "closed":
        raise Conflict("this counter is closed")
    if wish.name == "defect":
        raise KeyError("a defect of the rule")
    if wish.name == "foreign":
        yield Unknown()
    if wish.name == "broken":
        yield CounterBroken(name=wish.name)
    if wish.name == "many":
        for number in range(wish.by):
            yield CounterSet(name=f"many-{number}", value=number)
    elif wish.by:
        yield CounterSet(name=wish.name, value=world.rows.get(wish.name, 0) + wish.by)


def added(wish: Add, world: SmallWorld, at: Moment) -> object:
    if wish.name == "long":
        return "x" * 70_000
    if wish.name == "mute":
        raise KeyError("a defect of the result")
    return {"value": world.rows.get(wish.name, 0)}


def drop(wish: Drop, world: SmallWorld, at: Moment) -> Iterator[Fact]:
    if wish.name in world.rows:
        yield CounterDropped(name=wish.name)


ADD = Rule(Add, add, Role.OPERATOR, result=added)
DROP = Rule(Drop, drop, Role.OPERATOR)
RULES = {Add: ADD, Drop: DROP}

TABLES = MetaData()
COUNTERS = Table("counters", TABLES, Column("name", String, primary_key=True), Column("value", Integer, nullable=False))
_DELETE = delete(COUNTERS).where(COUNTERS.c.name == bindparam("key"))
_INSERT = insert(COUNTERS)


class SmallTables:
    """The SQL tables of a SmallWorld."""

    def create(self, connection: Connection) -> None:
        TABLES.create_all(connection)

    def clear(self, connection: Connection) -> None:
        connection.execute(delete(COUNTERS))

    def write(self, connection: Connection, changes: list[tuple[str, int | None]]) -> None:
        for name, value in changes:
            connection.execute(_DELETE, {"key": name})
            if value is not None:
                connection.execute(_INSERT, {"name": name, "value": value})

    def load(self, connection: Connection, world: SmallWorld) -> None:
        for name, value in connection.execute(select(COUNTERS.c.name, COUNTERS.c.value)):
            world.put(name, value)
        world.take_changes()


def identity(epoch: int = 1, signer: Signer = JOURNAL_KEY, **changed: Any) -> JournalIdentity:
    return JournalIdentity(changed.get("cloud", CLOUD), changed.get("domain", DOMAIN), epoch, signer, changed.get("earlier", ()))


class Asking:
    """One signed wish: its cause, rule and moment, as a dispatcher makes them."""

    def __init__(self, wish: Command, *, rid: str = "", who: str = "person-1", reason: str = "", door: str = "bus", time: int = 0) -> None:
        self.wish, self.rule = wish, RULES[type(wish)]
        self.asker = Asker(id=who, role=Role.OPERATOR, reason=reason, door=door, token="t-1" if door == "http" else "")
        self.rid = rid or host.request_id(time or None)
        body = msgspec.Raw(canonical(wish))
        statement = Statement(
            cloud=CLOUD, channel=DOMAIN, kind=f"command.{type(wish).KIND}", iss=who, aud=DOMAIN, time=time, ttl_ms=60_000, grant="0" * 64,
            rid=self.rid, reason=reason, body=body,
        )  # fmt: skip
        frame = seal_statement(statement, ASKER_KEY)
        self.cause = Cause.of(frame, kind=type(wish).KIND, request=self.rid, body=body, asker=self.asker)

    def moment(self, time: int) -> Moment:
        return Moment(time=time, request=self.rid, asker=self.asker)

    def of(self, journal: Any) -> Any:
        """Ask *journal*."""
        return journal.decide(self.cause, self.rule, self.wish, self.moment)

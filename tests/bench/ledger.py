"""A real journal of any length for figures: ring 0's World, facts and rules, signed wishes of an operator, real commits.

Every entry moves a node to another group of a tier: one fact, one row, a World that stays small.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bus.envelope import Statement, seal_statement
from bus.journal import Cause, Journal, JournalIdentity
from bus.messages import Asker, Command, Moment, Role, Rule, Table, canonical
from compartments.facts import FACTS
from compartments.tables import WorldTables
from compartments.world import World
from enjin import host
from keys.signing import Signer
from ring0.services import SERVICES
from ring0.tiers import AssignTier, CreateTier
from tests.ring0.book import CLOUD, OPERATOR, RING0, genesis

DOMAIN = "ring0"
SIGNER = Signer.from_seed(b"journal".ljust(32, b"."))
ASKER = Signer.from_seed(b"operator".ljust(32, b"."))
TABLE = Table.of(*SERVICES)
GROUPS = 1000


class Wished(NamedTuple):
    """One signed wish as a dispatcher hands it to the journal."""

    cause: Cause
    rule: Rule
    command: Command
    asker: Asker

    def moment(self, time: int) -> Moment:
        """Return the decision's moment."""
        return Moment(time=time, request=self.cause.request, asker=self.asker)


def wish(command: Command, role: Role = Role.OPERATOR) -> Wished:
    """Return *command* signed by the operator."""
    asker = Asker(id=OPERATOR if role is Role.OPERATOR else RING0, role=role, compartment="cloud", reason="a figure")
    body, rid, now = msgspec.Raw(canonical(command)), str(host.request_id()), host.clock().wall_us
    statement = Statement(
        cloud=CLOUD, channel=DOMAIN, kind=f"command.{command.KIND}", iss=asker.id, aud=RING0, time=now, ttl_ms=60_000, grant="0" * 64,
        rid=rid, reason=asker.reason, body=body,
    )  # fmt: skip
    cause = Cause.of(seal_statement(statement, ASKER), kind=command.KIND, request=rid, body=body, asker=asker)
    return Wished(cause, TABLE.rule(command.KIND), command, asker)


def moves(count: int) -> Iterator[Wished]:
    """Return *count* wishes that each make one entry."""
    for number in itertools.islice(itertools.count(), count):
        yield wish(AssignTier(tier="database", node=RING0, group=f"g{number % GROUPS}"))


def open_ledger(path: Path, **options: Any) -> Journal:
    """Return the journal at *path*, open for writing."""
    return open_ledger_at(f"sqlite:///{path}", **options)


def open_ledger_at(url: str, **options: Any) -> Journal:
    """Return the journal at *url*, open for writing."""
    identity = JournalIdentity(cloud=CLOUD, domain=DOMAIN, epoch=1, signer=SIGNER)
    return Journal.open(url, identity=identity, world_factory=World, facts=dict(FACTS), projection=WorldTables(), **options)


async def decide(journal: Journal, wanted: Wished) -> Any:
    """Ask *journal* for one wish."""
    return await journal.decide(wanted.cause, wanted.rule, wanted.command, wanted.moment)


async def found(journal: Journal) -> None:
    """Make the first two entries: the cloud and the tier."""
    await decide(journal, wish(genesis(), Role.SUPERVISOR))
    await decide(journal, wish(CreateTier(name="database")))


async def write_together(journal: Journal, wanted: Iterable[Wished], at_once: int = 512) -> None:
    """Ask for all of *wanted*, *at_once* of them under way, so that commits take what queued."""
    source = iter(wanted)

    async def work() -> None:
        for one in source:
            await decide(journal, one)

    await asyncio.gather(*(work() for _ in range(at_once)))


async def make(path: Path, entries: int) -> None:
    """Write a journal of *entries* at *path*."""
    journal = open_ledger(path)
    await found(journal)
    await write_together(journal, moves(entries - 2))
    await journal.close()

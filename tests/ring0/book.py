"""A journal in memory for tests of decisions: asks, checks that facts survive their own bytes, applies, and can replay.

What it leaves out (signatures, disk, doors) has tests of its own; what it does is what a journal does with a decision.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from bus.messages import Asker, Command, Fact, Moment, Query, Role, Table, canonical, parse
from compartments.facts import FACTS
from compartments.world import World
from enjin.canonical import to_text
from keys.frame import open_frame
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.signing import Signer, key_id
from ring0.genesis import FoundCloud, Listener
from ring0.services import SERVICES

CLOUD = hashlib.sha256(b"a cloud of the tests").hexdigest()
RING0 = "n-00000000000000a0"
OPERATOR = "o-00000000000000b0"
START = 1_700_000_000_000_000
HOUR = 3_600_000_000


def request(number: int) -> str:
    """Return the *number*-th request id of a test."""
    return f"01890000-0000-7000-8000-{number:012x}"


class Book:
    """A world, the facts that made it, and the table that decides."""

    def __init__(self, table: Table | None = None) -> None:
        self.table = table or Table.of(*SERVICES)
        self.world = World()
        self.entries: list[list[bytes]] = []
        self.time = START
        self.asked = 0

    def moment(self, role: Role = Role.OPERATOR, **asker: Any) -> Moment:
        """Return the next decision's moment."""
        self.time += 1_000
        self.asked += 1
        who = Asker(**({"id": OPERATOR, "role": role, "compartment": "cloud"} | asker))
        return Moment(time=self.time, request=request(self.asked), asker=who)

    def facts(self, wish: Command, role: Role = Role.OPERATOR, **asker: Any) -> list[Fact]:
        """Return what would become true, and change nothing."""
        rule = self.table.rule(wish.KIND)
        return list(rule.decide(wish, self.world, self.moment(role, **asker)))

    def ask(self, wish: Command, role: Role = Role.OPERATOR, **asker: Any) -> Any:
        """Decide *wish*, write its facts down, apply them as they were written, and return the reply's result."""
        rule, at = self.table.rule(wish.KIND), self.moment(role, **asker)
        wish = parse(canonical(wish), type(wish))
        written = [canonical(fact) for fact in rule.decide(wish, self.world, at)]
        self.entries.append(written)
        for data in written:
            read(data).apply(self.world)
        result = rule.result(wish, self.world, at) if rule.result is not None else None
        return msgspec.json.decode(canonical(result))

    def answer(self, query: Query, role: Role = Role.OPERATOR, **asker: Any) -> Any:
        """Return the answer to *query*, as it would travel."""
        question = self.table.question(query.KIND)
        who = Asker(**({"id": OPERATOR, "role": role, "compartment": "cloud"} | asker))
        return msgspec.json.decode(canonical(question.answer(query, self.world, who)))

    def replayed(self) -> World:
        """Return the world that the written facts make from nothing."""
        world = World()
        for entry in self.entries:
            for data in entry:
                read(data).apply(world)
        return world


def read(data: bytes) -> Fact:
    """Return the fact in *data*, by the closed table."""
    kind = msgspec.json.decode(data)["kind"]
    return parse(data, FACTS[kind])


class Keys:
    """Ring 0's keys and as many grants as a test wants; the root is left out, nothing here checks signatures."""

    def __init__(self) -> None:
        self.issuer = Signer.from_seed(hashlib.sha256(b"issuer").digest())

    def grant(self, subject: str, word: str, **fields: Any) -> str:
        """Return the frame of a grant for *subject* with the key that follows from *word*."""
        ring = Keyring(CLOUD, hashlib.sha256(word.encode()).digest())
        grant = Grant(
            **(
                {
                    "v": 1,
                    "cloud": CLOUD,
                    "subject": subject,
                    "role": 2,
                    "keys": PublicKeys(message=ring.message.public.hex()),
                    "ring": 0,
                    "depth": 0,
                    "compartment": "cloud",
                    "allowed": (Capability("node", "cloud"),),
                    "not_before": START - HOUR,
                    "expiry": START + 24 * HOUR,
                    "parent": "a" * 64,
                }
                | fields
            )
        )
        return to_text(sign_grant(grant, self.issuer))

    def key(self, word: str) -> str:
        """Return the id of the message key that follows from *word*."""
        return str(key_id(Keyring(CLOUD, hashlib.sha256(word.encode()).digest()).message.public))

    def digest(self, frame: str) -> str:
        """Return the hash of the grant in *frame*."""
        from enjin.canonical import from_text

        return open_frame(from_text(frame)).digest


KEYS = Keys()


def genesis(**fields: Any) -> FoundCloud:
    """Return the wish that founds the tests' cloud."""
    return FoundCloud(
        **(
            {
                "cloud": CLOUD,
                "node": RING0,
                "operator": OPERATOR,
                "grants": (KEYS.grant(RING0, "ring0", role=3, depth=3), KEYS.grant(OPERATOR, "operator")),
                "listeners": (
                    Listener(name="api1", address="127.0.0.1", port=7081, ring=1),
                    Listener(name="router", address="127.0.0.1", port=8080, ring=1),
                ),
                "first_uid": 524_288,
                "uid_blocks": 8,
            }
            | fields
        )
    )


def founded(**fields: Any) -> Book:
    """Return the book of a cloud that was just founded."""
    book = Book()
    book.ask(genesis(**fields), Role.SUPERVISOR, id=RING0)
    return book

"""Asking many at once: who should answer, who has, who is silent, and how long it took.

Owns the state of one question to a group. Pure: answers and times go in, what to say comes out; that an answer is its
signer's was verified before. Sending, waiting and verifying are ``bus.fan_out``'s matter.

INV-ASK-1: only the first answer of each who was expected counts; repetitions and strangers are counted and change nothing.
INV-ASK-2: targeted = ok + failed + silent, at every moment.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from bus.messages import Reply

NAMED_MAX: Final = 10_000


class Taken(enum.Enum):
    """What became of an answer."""

    NEW = "new"
    REPEATED = "repeated"
    STRANGER = "stranger"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon's answer: after how many milliseconds, and what."""

    node: str
    label: str
    ok: bool
    ms: float
    result: msgspec.Raw = msgspec.Raw(b"null")
    code: str = ""
    message: str = ""


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """One who should have answered and did not."""

    node: str
    label: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How it went; times in milliseconds, 0 when nobody answered."""

    targeted: int
    ok: int
    failed: int
    silent: tuple[Silent, ...]
    min_ms: float
    avg_ms: float
    p95_ms: float
    repeated: int
    strangers: int

    @property
    def exit_status(self) -> int:
        """0 when everybody said yes, 1 when nobody did, 3 for all between."""
        if self.ok == self.targeted and self.ok:
            return 0
        return 3 if self.ok else 1


class Collection:
    """The answers to one question.

    Args:
        expected: Who should answer: subject id -> what people call it.
        began_s: When it was asked, in seconds of a monotonic clock.
    """

    def __init__(self, expected: Mapping[str, str], began_s: float) -> None:
        self.expected = dict(expected)
        self.answers: dict[str, Answer] = {}
        self.repeated = 0
        self.strangers = 0
        self._began_s = began_s

    @property
    def complete(self) -> bool:
        """Whether everybody has answered."""
        return len(self.answers) == len(self.expected)

    def take(self, issuer: str, reply: Reply, now_s: float) -> Taken:
        """Take the verified answer of *issuer* that came at *now_s*."""
        if issuer not in self.expected:
            self.strangers += 1
            return Taken.STRANGER
        if issuer in self.answers:
            self.repeated += 1
            return Taken.REPEATED
        self.answers[issuer] = Answer(
            node=issuer, label=self.expected[issuer], ok=reply.ok, ms=max(0.0, 1000 * (now_s - self._began_s)), result=reply.result,
            code=reply.code, message=reply.message,
        )  # fmt: skip
        return Taken.NEW

    def silent(self) -> list[str]:
        """Return the ids of who has not answered yet, in the order in which they were expected."""
        return [one for one in self.expected if one not in self.answers]

    def summary(self) -> Summary:
        """Return how it stands."""
        taken = sorted(answer.ms for answer in self.answers.values())
        ok = sum(answer.ok for answer in self.answers.values())
        return Summary(
            targeted=len(self.expected),
            ok=ok,
            failed=len(taken) - ok,
            silent=tuple(Silent(node=one, label=self.expected[one]) for one in self.silent()[:NAMED_MAX]),
            min_ms=taken[0] if taken else 0.0,
            avg_ms=sum(taken) / len(taken) if taken else 0.0,
            p95_ms=nearest_rank(taken, 95),
            repeated=self.repeated,
            strangers=self.strangers,
        )

    def told(self) -> dict[str, Any]:
        """Return all of it for a program: the summary, and every answer by the order of its coming."""
        return {"summary": self.summary(), "answers": list(self.answers.values())}


def nearest_rank(ordered: Sequence[float], percent: int) -> float:
    """Return the value of *ordered* (ascending) below which *percent* of it lie, by nearest rank; 0 when it is empty."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0

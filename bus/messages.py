"""What is said on the bus: Command, Fact, Observation, Query, Reply, and the closed table of kinds.

Owns the base classes, their canonical JSON and the table that maps a kind to the function that decides it. Knows no
domain: services subclass these. Imports the ground and msgspec only.

INV-MSG-1: a value has one spelling: ``parse`` refuses bytes that do not re-encode to themselves.
INV-MSG-2: a kind stands in a table once; there is no look-up of a remote name on an object.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, dataclass_transform

import msgspec

from enjin.canonical import Malformed, NotCanonical, canonical, parse
from enjin.errors import InvariantError, Refused

KIND_MAX_BYTES: Final = 64

__all__ = [
    "Answer", "Asker", "Command", "Decide", "Fact", "Malformed", "Message", "Moment", "Needs", "NotCanonical",
    "Observation", "Query", "Question", "Reply", "Role", "Rule", "Table", "UnknownKind", "Where", "always", "canonical", "parse",
]  # fmt: skip


class UnknownKind(Refused):
    """No table here holds this kind."""

    code = "E-MSG-003"


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class _Kind(msgspec.StructMeta):
    """Metaclass that takes ``kind="…"``: facts carry it as a tag, everything else as an attribute."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], kind: str | None = None, **options: Any) -> Any:
        if kind is not None:
            if len(kind) > KIND_MAX_BYTES:
                raise InvariantError(f"kind {kind} is too long")
            if any(getattr(base, "TAGGED", False) for base in bases):
                options |= {"tag_field": "kind", "tag": kind}
        return super().__new__(mcls, name, bases, namespace, **({"kw_only": True} | options))

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], kind: str | None = None, **options: Any) -> None:
        super().__init__(name, bases, namespace)
        if kind is not None:
            cls.KIND = kind


class Message(msgspec.Struct, metaclass=_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything that travels: frozen, closed, canonical."""

    KIND: ClassVar[str] = ""
    TAGGED: ClassVar[bool] = False

    if TYPE_CHECKING:  # the metaclass takes these; type checkers look here

        def __init_subclass__(cls, *, kind: str = "", kw_only: bool = True, **options: Any) -> None: ...


class Command(Message):
    """A wish, signed by whoever wants it."""


class Query(Message):
    """A question, answered from the projection; ``at`` asks for another moment."""

    at: str = ""


class Observation(Message):
    """What a node saw; signed and broadcast, kept for a while, never journaled."""


class Fact(Message):
    """What became true; lives only in a journal entry."""

    TAGGED: ClassVar[bool] = True

    def apply(self, world: Any) -> None:
        """Fold this fact into *world* by its row operations alone."""
        raise InvariantError(f"fact {self.KIND} has no apply")


class Reply(Message, kind="reply"):
    """The answer to a command or query: a result, or a refusal that says why."""

    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    code: str = ""
    message: str = ""
    hint: str = ""
    number: int = 0
    repeated: bool = False


class Role(enum.IntEnum):
    """What an asker may do at most; SUPERVISOR is the ring above and the daemon itself."""

    NOBODY = 0
    TENANT = 1
    OPERATOR = 2
    SUPERVISOR = 3


class Asker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who wants something, as the envelope and the door have established it.

    ``compartment`` bounds the asker: it and everything whose home lies in it.
    """

    id: str
    role: Role = Role.NOBODY
    compartment: str = ""
    token: str = ""
    door: str = "bus"
    reason: str = ""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """When, by whom and under which request something is decided: all that a decision may know besides the world.

    ``frame`` is the signed message itself, where there is one: what a decision keeps as evidence.
    """

    time: int
    request: str
    asker: Asker
    frame: bytes = b""

    def id(self, ordinal: int, prefix: str) -> str:
        """Return an id derived from the request and *ordinal* (0, 1, … within one decision): ``prefix-<16 hex>``."""
        digest = hashlib.blake2b(f"{self.request}/{ordinal}".encode(), digest_size=8, person=b"enjin-id").hexdigest()
        return f"{prefix}-{digest}"


Decide = Callable[[Any, Any, Moment], Iterator[Fact]]
Answer = Callable[[Any, Any, Asker], object]
Where = Callable[[Any, Any], str]
Needs = Callable[[Any, Any], bool]


def always(_wish: Any, _world: Any) -> bool:
    """Say yes: every such wish needs approvals."""
    return True


class Rule(msgspec.Struct, frozen=True):
    """One command: the function that decides it and who may ask.

    ``compartment`` names the compartment that the wish touches, for the permission check; None: the whole domain.
    ``group``: it may be asked of many at once. ``result`` makes the reply's result from (wish, world after, moment); None: null.
    ``urgent``: it revokes, stops or removes, and is decided even when the disk is full; so is what the daemon itself reports.
    ``approvals`` says of (wish, world) whether other operators must approve it first (``compartments.approvals``); ``always`` says yes.
    """

    command: type[Command]
    decide: Decide
    allow: Role
    compartment: Where | None = None
    result: Callable[[Any, Any, Moment], object] | None = None
    group: bool = False
    urgent: bool = False
    approvals: Needs | None = None

    @property
    def summary(self) -> str:
        """First line of the command's docstring."""
        return (self.command.__doc__ or "").strip().splitlines()[0]


class Question(msgspec.Struct, frozen=True):
    """One query: the function that answers it and who may ask; ``group``: it may be asked of many at once."""

    query: type[Query]
    answer: Answer
    allow: Role = Role.TENANT
    compartment: Where | None = None
    group: bool = False

    @property
    def summary(self) -> str:
        """First line of the query's docstring."""
        return (self.query.__doc__ or "").strip().splitlines()[0]


class Table:
    """The closed table of a daemon: every kind it decides or answers, once."""

    def __init__(self, rows: Iterable[Rule | Question]) -> None:
        self._rules: dict[str, Rule] = {}
        self._questions: dict[str, Question] = {}
        for row in rows:
            kind = row.command.KIND if isinstance(row, Rule) else row.query.KIND
            if not kind or kind in self._rules or kind in self._questions:
                raise InvariantError(f"kind {kind!r} stands in the table twice")
            if isinstance(row, Rule):
                self._rules[kind] = row
            else:
                self._questions[kind] = row

    @classmethod
    def of(cls, *tables: Iterable[Rule | Question]) -> Table:
        """Return the sum of several services' tables."""
        return cls(row for table in tables for row in table)

    def rule(self, kind: str) -> Rule:
        """Return the rule of command *kind*. Raises: UnknownKind."""
        if (found := self._rules.get(kind)) is None:
            raise UnknownKind(f"there is no command {kind[:KIND_MAX_BYTES]!r}")
        return found

    def question(self, kind: str) -> Question:
        """Return the row of query *kind*. Raises: UnknownKind."""
        if (found := self._questions.get(kind)) is None:
            raise UnknownKind(f"there is no query {kind[:KIND_MAX_BYTES]!r}")
        return found

    def takes_groups(self, word: str, kind: str) -> bool:
        """Return whether *word* (``command``, ``query``) *kind* may be asked of many at once."""
        row: Rule | Question | None = None
        if word in ("command", "query"):
            row = self._rules.get(kind) if word == "command" else self._questions.get(kind)
        return row is not None and row.group

    def rules(self) -> list[Rule]:
        """Return every command's row, by kind."""
        return [self._rules[kind] for kind in sorted(self._rules)]

    def questions(self) -> list[Question]:
        """Return every query's row, by kind."""
        return [self._questions[kind] for kind in sorted(self._questions)]

"""The copies that a ring keeps of the journals of the ring inside: how far they are, and what contradicts them.

Owns the query and its view; whoever keeps the copies says what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from bus.journal import Checkpoint, Reader
from bus.messages import Asker, Query, Question, Role
from enjin.canonical import canonical


class ListCopies(Query, kind="journal.copies"):
    """Each journal that is copied and witnessed here: up to which entry, and what contradicts it."""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """One copy: the last entry's number and hash, the entry after which our view of its world stands, up to which entry both
    worlds were last found equal (0: not yet), and the alarm (empty: none)."""

    node: str
    number: int
    hash: str
    world: int
    agreed: int
    alarm: str


def witnessed(path: Path, domain: str) -> str:
    """Return the checkpoint that the copy of *domain*'s journal at *path* has reached, as canonical JSON; "" when there is none."""
    if not path.exists():
        return ""
    with Reader(f"sqlite:///{path}") as reader:
        meta, commit = reader.meta(), reader.last_commit()
    if meta is None or commit is None:
        return ""
    reached = Checkpoint(cloud=meta.cloud, domain=domain, epoch=commit.epoch, number=commit.number, hash=commit.hash)
    return canonical(reached).decode()


def questions(copies: Callable[[], Iterable[Copied]]) -> tuple[Question, ...]:
    """Return the row of the closed table that answers from *copies*."""

    def answer(_query: ListCopies, _world: Any, _asker: Asker) -> list[Copied]:
        return sorted(copies(), key=lambda copy: copy.node)

    return (Question(ListCopies, answer, Role.OPERATOR),)

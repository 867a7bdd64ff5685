"""Ranges of a journal as they are checked: what is taken as given, what is to be checked, what was found.

Owns the shapes, which travel between processes as JSON. Imports the ground.
"""

from __future__ import annotations

import msgspec

from bus.journal.entry import Shape


class Edge(Shape, frozen=True, kw_only=True):
    """An entry between two ranges: its number, hash, time (microseconds) and epoch; number 0 is before the first."""

    number: int
    hash: str
    time: int = 0
    epoch: int = 0


class Work(Shape, frozen=True, kw_only=True):
    """One range to check.

    Args:
        url: The journal's database.
        publics: Journal keys (hex) that may sign its commits.
        signers: Message keys (hex) by key id, for the causes' signatures; a cause of another signer is not checked.
        begin: What is taken as given.
        until: Number of the commit that ends the range; 0: go to the end, and see that nothing follows.
        seen: Hashes that witnesses have seen, by number as text.
    """

    url: str
    publics: tuple[str, ...]
    signers: dict[str, str] = msgspec.field(default_factory=dict)
    begin: Edge
    until: int = 0
    seen: dict[str, str] = msgspec.field(default_factory=dict)


class Found(Shape, frozen=True, kw_only=True):
    """What a range holds: entries checked, causes checked, the last entry that holds, the first that does not (0: none), and why."""

    checked: int
    causes: int
    end: Edge
    first_bad: int = 0
    reason: str = ""
